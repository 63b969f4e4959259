"""What callers of three gateways notice while Redis is away: nothing but a short delay.

    PYTHONPATH=tests python -m cluster.outages --seconds 60

It prints a line for each kind of outage. Polls go to the gateway that gave the job, as a front with sticky sessions
sends them: while gateways are cut off from one another, it alone knows the job.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.cluster import Cluster
from support.redis_server import RedisServer, Sentinel

from gateway.sandbox import Sandbox

from .load import Load, Seen

_SENTINEL_PATIENCE: Final = 1.0


class Outage:
    """One kind of outage: how it begins, and how it ends."""

    lasts = True
    """Whether Redis is away meanwhile, so that the gateways have to say so."""

    def __init__(self, directory: Path) -> None:
        self.redis = RedisServer(directory / "redis")

    async def start(self) -> str:
        """Start Redis; the URL that the gateways are given."""
        await self.redis.start()
        return self.redis.url

    async def begin(self) -> None:
        """Break it."""
        await self.redis.kill()

    async def end(self) -> None:
        """Mend it."""
        await self.redis.start()

    async def close(self) -> None:
        """Stop what was started."""
        await self.redis.kill()


class Stopped(Outage):
    """Redis is killed, and comes back empty."""


class Hung(Outage):
    """Redis is stopped by SIGSTOP: connections stay open, and nobody answers."""

    async def begin(self) -> None:
        self.redis.pause()

    async def end(self) -> None:
        self.redis.resume()


class Restarted(Outage):
    """Redis comes back empty at once."""

    lasts = False

    async def begin(self) -> None:
        await self.redis.kill()
        await self.redis.start()

    async def end(self) -> None:
        return


class Emptied(Outage):
    """FLUSHALL: no connection breaks."""

    lasts = False

    async def begin(self) -> None:
        await self.redis.ask("FLUSHALL")

    async def end(self) -> None:
        return


class FailedOver(Outage):
    """The master is killed, and Sentinel makes a replica the master."""

    lasts = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._directory = directory

    async def start(self) -> str:
        await self.redis.start()
        self.replica = RedisServer(self._directory / "replica", "--replicaof", f"127.0.0.1 {self.redis.port}")
        await self.replica.start()
        self.sentinel = Sentinel(self._directory / "sentinel", self.redis, patience=_SENTINEL_PATIENCE)
        await self.sentinel.start()
        async with asyncio.timeout(20):
            while "slave" not in str(await self.sentinel.ask("SENTINEL", "replicas", "gateways")):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return self.sentinel.url

    async def begin(self) -> None:
        await self.redis.kill()
        async with asyncio.timeout(30):
            while await self.sentinel.master_port() != self.replica.port:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def end(self) -> None:
        return

    async def close(self) -> None:
        for child in (self.sentinel, self.replica, self.redis):
            await child.kill()


OUTAGES: Final[dict[str, type[Outage]]] = {
    "stopped": Stopped,
    "hung": Hung,
    "restarted empty": Restarted,
    "FLUSHALL": Emptied,
    "failed over by Sentinel": FailedOver,
}


@dataclass(frozen=True)
class Course:
    """What was seen before an outage, during it, and from its end on until all gateways had joined again."""

    before: Seen
    during: Seen
    after: Seen
    joined_seconds: float

    @property
    def failed(self) -> list[str]:
        return [*self.before.failed, *self.during.failed, *self.after.failed]


async def course(name: str, seconds: float, directory: Path) -> Course:
    """Let one outage happen under load. Afterwards the gateways are one again, as `one_again` says."""
    outage = OUTAGES[name](directory)
    async with Sandbox(orders=1, workers=16) as sandbox, AsyncExitStack() as stack:
        stack.push_async_callback(outage.close)
        cluster = Cluster(directory, sandbox, [await outage.start()] * 3)
        stack.push_async_callback(cluster.close)
        await cluster.start()
        load = Load(cluster, sandbox)
        await load.start()
        before = await _for(seconds, load)
        during = asyncio.create_task(_for(seconds, load))
        await outage.begin()
        if outage.lasts:
            await asyncio.gather(*(gateway.cut_off() for gateway in cluster.gateways))
        seen = await during
        await outage.end()
        ended = time.monotonic()
        await asyncio.gather(*(gateway.joined() for gateway in cluster.gateways))
        joined = time.monotonic() - ended
        after = await _for(1.0, load)
        await load.stop()
        await one_again(cluster, sandbox)
    for gateway in cluster.gateways:
        assert "Traceback" not in gateway.process.text, gateway.process.text
    return Course(before, seen, after, joined)


async def _for(seconds: float, load: Load) -> Seen:
    load.since()
    await asyncio.sleep(seconds)
    await load.progress()
    return load.since()


async def one_again(cluster: Cluster, sandbox: Sandbox) -> None:
    """One execution for all, jobs known everywhere, and one result."""
    for tries_left in reversed(range(3)):  # a busy machine may make Redis late
        query = sandbox.add_query("again", "select run_number() as run")
        with sandbox.hold(query):
            jobs = [(await gateway.post(query, max_age=0)).job["id"] for gateway in cluster.gateways]
            known = [(await other.get(f"/api/jobs/{job}")).status for job in jobs for other in cluster.gateways]
        ends = [await gateway.finish(job) for job, gateway in zip(reversed(jobs), cluster.gateways, strict=True)]
        results = {end["query_result_id"] for end in ends}
        if sandbox.counters.posts[query] == 1 or not tries_left:
            break
    assert sandbox.counters.posts[query] == 1
    assert set(known) == {200}
    assert len(results) == 1
    hits = [await gateway.post(query, max_age=600) for gateway in cluster.gateways]
    assert {hit.json["query_result"]["id"] for hit in hits} == results


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", nargs="+", choices=[*OUTAGES], default=[*OUTAGES])
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as directory:
            seen = asyncio.run(course(name, arguments.seconds, Path(directory)))
        failed += len(seen.failed)
        print(f"{name}: {len(seen.failed)} failed requests, joined again after {seen.joined_seconds:.2f} s")
        print(*(f"  {when}: {part.line()}" for when, part in vars(seen).items() if isinstance(part, Seen)), sep="\n")
        print(*seen.failed[:10], sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
