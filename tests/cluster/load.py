"""Load on three gateways, with the time of each request. Polls go to the gateway that gave the job."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import Final

import aiohttp
from support.cluster import Cluster, Gateway
from support.http import Reply
from support.waiting import until

from gateway.sandbox import Sandbox, parameter

CALLERS: Final = 6
KEYS: Final = 20
_PAUSE_SECONDS: Final = 0.01


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
