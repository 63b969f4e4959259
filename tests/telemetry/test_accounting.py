"""Metrics, log and callers agree exactly after a mixed load with hang-ups, errors, faults of Redash and reloads.

2,000 requests, and as many more as GATEWAY_TEST_TIMES says: 50,000 with 25.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.calls import TOKENS
from support.http import Reply, exchange
from support.inside import open_requests
from support.length import TIMES
from support.waiting import until
from support.world import World, configuration, token_table

from gateway.app.operations import RuntimeOperations
from gateway.telemetry import log
from gateway.telemetry.log_writer import LogWriter
from gateway.telemetry.metrics import CACHE

REQUESTS = 2_000 * TIMES
CALLERS = 40
FAULTS = ("reset_before_headers", "reset_after_headers", "reset_in_body", "truncate", "html", "garbage", "status")


def cache_of(reply: Reply) -> str:
    """The cache outcome of a request, as its caller sees it."""
    words = reply.cache.replace(";", "").split()
    if "hit" in words:
        return "stale" if "detail=stale" in reply.cache else "hit"
    if "collapsed" in words:
        return "collapsed"
    if not words:
        return "none"
    return "bypass" if words[1] in ("fwd=bypass", "fwd=method") else "miss"


class Load:
    """Callers of every kind, who count what they send and what comes back."""

    def __init__(self, world: World, operator: RuntimeOperations, seed: int) -> None:
        self.world = world
        self.operator = operator
        self.random = random.Random(seed)
        self.sent = 0
        self.left = 0
        self.seen: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.latest = 1
        self.kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (40, self.hit),
            (4, self.demand),
            (8, self.read),
            (6, self.parameterised),
            (8, self.metadata),
            (4, self.write),
            (8, self.mistake),
            (2, self.nonsense),
            (6, self.hang_up),
            (1, self.fault),
            (1, self.change),
        ]

    async def run(self, requests: int) -> None:
        async def caller() -> None:
            weights, kinds = zip(*self.kinds, strict=True)
            while self.sent < requests:
                await self.random.choices(kinds, weights)[0]()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def call(self, method: str, path: str, body: object = None, *, client: str | None = "dashboard") -> Reply:
        self.sent += 1
        headers = {"Prefer": "wait=20"} if method == "POST" else {}
        reply = await self.world.call(method, path, body, client=client, headers=headers)
        self.seen[cache_of(reply) if reply.status in (200, 304) else "none"] += 1
        self.statuses[f"{reply.status // 100}xx"] += 1
        return reply

    def results(self, name: str) -> str:
        return f"/api/queries/{self.world.named[name]}/results"

    async def hit(self) -> None:
        await self.call("POST", self.results("by_country"), {"max_age": 600})

    async def demand(self) -> None:
        reply = await self.call("POST", self.results("by_country"), {"max_age": 0})
        if reply.status == 200:
            self.latest = reply.json.get("query_result", {}).get("id", self.latest)

    async def read(self) -> None:
        form = self.random.choice(("json", "csv", "tsv"))
        path = self.random.choice((f"/api/query_results/{self.latest}.{form}", f"{self.results('by_country')}.{form}"))
        await self.call("GET", path)

    async def parameterised(self) -> None:
        country = self.random.choice(("DE", "FR", "NL"))
        await self.call("GET", f"{self.results('in_country')}.csv?p_country={country}&max_age=60")

    async def metadata(self) -> None:
        await self.call("GET", self.random.choice(("/api/queries", "/api/data_sources", "/api/session", "/ping")))

    async def write(self) -> None:
        query = self.world.named["by_country"]
        await self.call("POST", f"/api/queries/{query}/favorite", {}, client="writer")
        await self.call("GET", "/api/organization/status")

    async def mistake(self) -> None:
        method, path, body, client = self.random.choice(
            (
                ("GET", "/api/nowhere", None, "dashboard"),
                ("GET", "/api/queries", None, None),
                ("PUT", "/api/queries", None, "dashboard"),
                ("POST", self.results("by_country"), b"no json", "dashboard"),
                ("POST", "/api/query_results", {"query": "select 1"}, "dashboard"),
                ("GET", "/api/queries/99999", None, "dashboard"),
                ("GET", "/api/jobs/00000000-0000-4000-8000-000000000000", None, "second"),
            )
        )
        await self.call(method, path, body, client=client)

    async def nonsense(self) -> None:
        self.sent += 1
        answer = await exchange(
            self.world.url, self.random.choice((b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n:\r\n\r\n"))
        )
        self.seen["none"] += 1
        self.statuses[f"{answer[9:10].decode()}xx"] += 1

    async def hang_up(self) -> None:
        """Leave while the gateway handles the request: before a slow one can be ready, or at any moment."""
        parts = urlsplit(self.world.url)
        body = json.dumps({"max_age": self.random.choice((0, 600))}).encode()
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            f"POST {self.results(self.random.choice(('by_country', 'slow')))} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Key {TOKENS['second']}\r\nPrefer: wait=20\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.sent += 1
        self.left += 1
        writer.write(head.encode() + body)
        await writer.drain()
        await asyncio.sleep(self.random.choice((0.0, 0.002, 0.02)))
        if self.random.random() < 0.5:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def fault(self) -> None:
        self.world.sandbox.faults.add(self.random.choice(FAULTS), count=self.random.randint(1, 3), status=502)

    async def change(self) -> None:
        """A reload, or a purge."""
        if self.random.random() < 0.5:
            await self.operator.reload()
        else:
            await self.world.runtime.results.cache.purge()


async def summed(world: World, name: str, label: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for sample, value in (await world.metrics()).items():
        if sample.partition("{")[0] == f"redash_gateway_{name}":
            found[sample.partition(f'{label}="')[2].partition('"')[0]] += int(value)
    return found


async def start(bare: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, access_log: bool) -> RuntimeOperations:
    """A gateway with short lifetimes, with a configuration file to reload."""
    tables = {
        "cache": 'metadata_ttl = "1s"\ndefinition_check = "2s"',
        "upstream": 'breaker_failures = 3\nbreaker_reset = "100ms"',
    }
    text = configuration(bare.sandbox, "sqlite:gateway.db", tables)
    bare.text = text.replace("access = false", f"access = {str(access_log).lower()}")
    (tmp_path / "config.toml").write_text(bare.text)
    for name, key in token_table(bare.sandbox).items():
        monkeypatch.setenv(name, key)
    await bare.resume()
    return RuntimeOperations(bare.runtime, tmp_path / "config.toml")


@pytest.mark.parametrize("access_log", [False, True], ids=["without access log", "with access log"])
async def test_every_request_is_recorded_exactly_once(
    bare: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access_log: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(log, "_handler", log.Handler("json", LogWriter(stream, str)))
    load = Load(bare, await start(bare, tmp_path, monkeypatch, access_log=access_log), seed=7)
    await load.run(REQUESTS)
    await until(lambda: not open_requests(bare.runtime) and not bare.runtime.executions.flights.running, timeout=60)

    caches = await summed(bare, "requests_total", "cache")
    statuses = await summed(bare, "requests_total", "status")
    assert sum(caches.values()) == sum(statuses.values()) == load.sent >= REQUESTS
    assert set(caches) <= set(CACHE)
    durations = await summed(bare, "request_duration_seconds_count", "cache")
    assert {name: number for name, number in durations.items() if number} == dict(caches)

    # a caller that left saw no response; for all others the gateway records what they saw
    unseen = {name: caches[name] - load.seen[name] for name in CACHE}
    assert min(unseen.values()) >= 0, unseen
    assert sum(unseen.values()) == load.left
    assert all(statuses[name] >= load.statuses[name] for name in load.statuses)

    assert sum((await summed(bare, "upstream_requests_total", "status")).values()) == bare.sandbox.counters.requests
    if access_log:
        log._handler.flush()
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert len(lines) == load.sent
        assert Counter(line["cache"] for line in lines) == caches


@pytest.mark.parametrize("kind", ["reset_before_headers", "reset_after_headers", "truncate"])
@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("DELETE", 1), ("POST", 1)])
async def test_every_request_sent_to_redash_is_counted(world: World, kind: str, method: str, times: int) -> None:
    """aiohttp's client sends all but POST and PATCH a second time by itself; here each sending is the gateway's own."""
    fault = world.sandbox.faults.add(kind)
    paths = {"GET": "/api/organization/status", "DELETE": "/api/widgets/1", "POST": "/api/widgets"}
    body = {} if method == "POST" else None
    assert (await world.call(method, paths[method], body, client="writer")).status == 502
    assert fault.hits == world.sandbox.counters.requests == times
    assert await world.metric("redash_gateway_upstream_requests_total") == times
