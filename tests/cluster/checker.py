"""The history checker: random requests to three gateways that share one Redis, while all of them are killed, paused and
cut off, and a judge over what came of it.

    PYTHONPATH=tests python -m cluster.checker --operations 20000 --seed 1

It prints a table of verdicts. The seed draws requests and troubles; their interleaving is the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from support.cluster import Cluster
from support.http import Reply
from support.redis_server import Network, RedisServer

from gateway.sandbox import Sandbox

from .callers import WAIT_SECONDS, Callers
from .findings import Findings
from .history import AFTER, Asked, History
from .judge import Judge
from .recording import QUERIES, VALUES, Recorder, add_queries
from .troubles import QUIET, Place, Troubles

CALLERS: Final = 12
_SETTINGS: Final = {
    "server": 'max_wait = "10s"',
    "upstream": "max_executions = 16",
    "cache": 'definition_check = "2s"\nany_age_confirm = "1s"\nstale_if_error = "0s"',
}
_ENDS: Final = 60.0
"""Seconds in which every job has to have ended when all troubles are over."""


class Run:
    """One history of three gateways, from a seed."""

    def __init__(self, seed: int, operations: int, place: Place, sandbox: Sandbox) -> None:
        self.history = History()
        self._seed = seed
        self._operations = operations
        self._place = place
        self._sent = 0
        self._over = False
        self._few = asyncio.Semaphore(2 * CALLERS)
        recorder = Recorder(sandbox, self.history, time.time)
        recorder.pids = lambda: (gateway.pid for gateway in place.cluster.gateways)
        self._recorder = recorder
        self._queries = add_queries(sandbox)
        self._callers = Callers(place.cluster, recorder, self.history, self._queries, time.time)
        self.troubles = Troubles(place, self.history, time.time)
        keys = sandbox.user_keys
        self.history.keys = {"dashboard": keys["analyst"], "second": keys["analyst"], "writer": keys["admin"]}

    async def play(self) -> None:
        """Send the requests amid troubles; then let everything come to its end."""
        others = [
            asyncio.create_task(task)
            for task in (
                self._now_and_then("trouble", self.troubles.one),
                self._now_and_then("edit", self._callers.edit),
                self._now_and_then("purge", self._callers.purge),
                self._now_and_then("revoke", self._revoked),
            )
        ]
        watching = [
            asyncio.create_task(self.troubles.watch(number)) for number in range(len(self._place.cluster.gateways))
        ]
        watching.append(asyncio.create_task(self.troubles.watch_itself()))
        await asyncio.gather(*(self._calling(number) for number in range(CALLERS)))
        self._over = True
        await asyncio.gather(*others)
        await asyncio.sleep(AFTER)
        self.history.calm = time.time()
        await self._end()
        for task in watching:
            task.cancel()
        self._recorder.finish()

    async def _calling(self, number: int) -> None:
        chance = Random(f"{self._seed}/{number}")
        while self._sent < self._operations:
            self._sent += 1
            await self._callers.one(chance)

    async def _now_and_then(self, name: str, act: Callable[[Random], Awaitable[None]]) -> None:
        chance = Random(f"{self._seed}/{name}")
        while not self._over:
            await asyncio.sleep(chance.choice(QUIET))
            if not self._over:
                await act(chance)

    async def _revoked(self, chance: Random) -> None:
        await self._callers.revoke(chance, chance.choice((1.5, 3.0)))

    async def _end(self) -> None:
        """Every job ends, on every gateway; every key can be run again, and then nothing is held any more."""
        gateways = self._place.cluster.gateways
        await asyncio.gather(*(self._ended(job) for job in self._callers.jobs))
        for number in range(len(gateways)):
            await asyncio.gather(*(self._again(number, query, value) for query in QUERIES for value in VALUES))
        await asyncio.sleep(1.0)
        for number, gateway in enumerate(gateways):
            self.history.leases[number] = await gateway.metric("redash_gateway_leases")

    async def _ended(self, job: str) -> None:
        async with self._few:
            await self._follow(job)

    async def _follow(self, job: str) -> None:
        """Poll a job on one gateway after the other, on each until it has ended there."""
        last, gateways = time.time() + _ENDS, list(range(len(self._place.cluster.gateways)))
        Random(job).shuffle(gateways)
        for gateway in gateways:
            while not _is_over(await self._callers.poll(job, gateway)) and time.time() < last:  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def _again(self, gateway: int, query: str, value: str) -> None:
        path, body = f"/api/queries/{self._queries[query]}/results", {"max_age": 0, "parameters": {"x": value}}
        about: dict[str, Any] = {"client": "dashboard", "query": query, "value": value, "max_age": 0}
        made, _ = await self._callers.send("wait", gateway, "POST", path, body, wait=WAIT_SECONDS, **about)
        if made.job and made.result is None:
            await self._ended(made.job)

    def figures(self) -> str:
        """How much was covered."""
        sent = Counter(a.kind for a in self.history.asked)
        shown = Counter("hit" if a.hit else "fresh" for a in self.history.asked if a.result is not None)
        slow = max(self.history.asked, key=_taken)
        unknown = sum(post.gateway is None for post in self.history.posts)
        return "\n".join(
            [
                f"{len(self.history.asked)} requests, seed {self._seed}: {dict(sent)}",
                f"results {dict(shown)}, statuses {dict(Counter(a.status for a in self.history.asked))}",
                f"{len(self.history.posts)} POSTs reached Redash ({unknown} of unknown gateways), "
                f"{len(self.history.ended)} runs; {len(self.history.edits)} edits, {len(self.history.purges)} purges, "
                f"{len(self.history.revocations)} revocations",
                f"troubles {dict(Counter(t.kind for t in self.history.troubles))}",
                f"the slowest response took {_taken(slow):.1f} s ({slow.kind})",
            ]
        )


def _is_over(reply: Reply | None) -> bool:
    """Whether there is nothing more to learn about a job."""
    if reply is None or reply.status not in (200, 404):
        return False
    return reply.status == 404 or reply.job["status"] in (3, 4)


def _taken(asked: Asked) -> float:
    return asked.answered - asked.asked


async def check(seed: int, operations: int, directory: Path, *, apart: bool = False) -> tuple[Findings, str]:
    """Play one history in this directory; what the judge found, and the figures.

    `apart`: the gateways share nothing, each has a store of its own. The judge must find that.
    """
    redis = RedisServer(directory / "redis")
    await redis.start()
    networks = [Network(directory / f"network-{number}", redis) for number in range(3)]
    async with Sandbox(workers=24, orders=1) as sandbox, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(redis.kill)
        for network in networks:
            await network.start()
            stack.push_async_callback(network.kill)
        stores = ["sqlite:gateway.db" if apart else f"redis://127.0.0.1:{network.port}/0" for network in networks]
        cluster = Cluster(directory, sandbox, stores, **_SETTINGS)
        stack.push_async_callback(cluster.close)
        await asyncio.gather(*(gateway.launch() if apart else gateway.start() for gateway in cluster.gateways))
        run = Run(seed, operations, Place(cluster, redis, networks), sandbox)
        await run.play()
    findings = Judge(run.history).judge()
    for gateway in cluster.gateways:
        findings.found["no traceback in a log"] += [gateway.process.text] * ("Traceback" in gateway.process.text)
    return findings, run.figures()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        findings, figures = asyncio.run(check(arguments.seed, arguments.operations, Path(directory)))
    print(*findings.texts, figures, findings.table(), sep="\n")
    return 1 if findings.texts else 0


if __name__ == "__main__":
    sys.exit(main())
