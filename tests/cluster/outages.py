"""What callers of three gateways notice while Redis is away: nothing but a short delay.

    PYTHONPATH=tests python -m cluster.outages --seconds 60

It prints a line for each kind of outage. Polls go to the gateway that gave the job, as a front with sticky sessions
sends them: while gateways are cut off from one another, it alone knows the job.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
from support.cluster import Cluster, Gateway
from support.http import Reply
from support.redis_server import RedisServer, Sentinel
from support.waiting import until

from gateway.sandbox import Sandbox, parameter

CALLERS: Final = 6
KEYS: Final = 20
_PAUSE_SECONDS: Final = 0.01
_SENTINEL_PATIENCE: Final = 1.0


@dataclass
class Seen:
    """What callers have seen in some time: seconds of each request by kind, and what failed."""

    times: dict[str, list[float]] = field(default_factory=lambda: {"hit": [], "post": [], "poll": []})
    failed: list[str] = field(default_factory=list)
    runs: int = 0

    def line(self) -> str:
        """Medians and maxima in milliseconds."""
        return ", ".join(
            f"{kind} {len(times)} × p50 {statistics.median(times) * 1000:.1f} p99 {_p99(times) * 1000:.0f} "
            f"max {max(times) * 1000:.0f} ms"
            for kind, times in self.times.items()
            if times
        )


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


class Load:
    """Callers that read what is stored and run what is not, on every gateway; each response is checked."""

    def __init__(self, cluster: Cluster, sandbox: Sandbox) -> None:
        self.cluster = cluster
        self.sandbox = sandbox
        self.seen = Seen()
        self.query = sandbox.add_query(
            "load", "select {{ n }} as n, run_number() as run", parameters=[parameter("n", "number", 1)]
        )
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Fill the cache and begin."""
        for n, gateway in zip(range(KEYS), cycle(self.cluster.gateways), strict=False):
            await gateway.rows(self.query, max_age=0, parameters={"n": n})
        self._tasks = [asyncio.create_task(self._call(Random(number))) for number in range(CALLERS)]

    async def stop(self) -> None:
        """Let every caller end what it has begun."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def since(self) -> Seen:
        """What was seen since the last time."""
        seen, self.seen = self.seen, Seen()
        return seen

    async def progress(self) -> None:
        """Wait until callers have been served again."""
        before = sum(map(len, self.seen.times.values()))
        await until(lambda: sum(map(len, self.seen.times.values())) > before + 10 * CALLERS, timeout=60)

    async def _call(self, chance: Random) -> None:
        while not self._stopping:
            gateway, n = chance.choice(self.cluster.gateways), chance.randrange(KEYS)
            try:
                await (self._run(gateway, n) if chance.random() < 0.2 else self._hit(gateway, n))
            except (aiohttp.ClientError, OSError, AssertionError) as error:
                self.seen.failed.append(f"{gateway.name}: {error!r}")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _hit(self, gateway: Gateway, n: int) -> None:
        """What is stored was dropped where purges may have been missed; then it is run again."""
        reply = await self._timed("hit", gateway.post(self.query, max_age=86400, parameters={"n": n}))
        check(reply, reply.status == 200)
        if reply.body.startswith(b'{"job"'):
            reply = await self._followed(gateway, reply)
        check(reply, reply.status == 200 and reply.rows[0]["n"] == n)

    async def _run(self, gateway: Gateway, n: int) -> None:
        reply = await self._timed("post", gateway.post(self.query, max_age=0, parameters={"n": n}))
        check(reply, reply.status == 200)
        reply = await self._followed(gateway, reply)
        check(reply, reply.status == 200 and reply.rows[0]["n"] == n)
        self.seen.runs += 1

    async def _followed(self, gateway: Gateway, reply: Reply) -> Reply:
        """Poll a job to its end; its result."""
        while (job := reply.job)["status"] in (1, 2):
            await asyncio.sleep(_PAUSE_SECONDS)
            reply = await self._timed("poll", gateway.get(f"/api/jobs/{job['id']}"))
            check(reply, reply.status == 200)
        check(reply, job["status"] == 3)
        return await gateway.get(f"/api/query_results/{job['query_result_id']}")

    async def _timed(self, kind: str, call: Awaitable[Reply]) -> Reply:
        began = time.perf_counter()
        reply = await call
        self.seen.times[kind].append(time.perf_counter() - began)
        return reply


def check(reply: Reply, good: bool) -> None:
    assert good, f"{reply.status} {reply.cache} {reply.body[:300]!r}"


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
