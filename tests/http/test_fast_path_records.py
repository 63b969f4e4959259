"""A hit is recorded in the same way on every path: the normal path, the response cache, the fast path.

The tests compare whole scrapes, whole reports and all fields of `Outcome`: a new one is covered without being named.
What may differ is listed with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from support.clocks import TurnableClock
from support.inside import open_requests
from support.waiting import until
from support.world import World

from gateway.body import Body
from gateway.http import fast_path, sending
from gateway.http.response_cache import FAST_PATH_SECONDS, CachedResponse
from gateway.model import Entry, ReuseTerms
from gateway.outcome import CacheResult, Outcome, Quota, Step, Trace
from gateway.telemetry.observer import Telemetry

pytestmark = pytest.mark.standing_clock

DAY: Final = 86_400
AGE_SECONDS: Final = 20.0

METRICS_THAT_DIFFER: Final = {
    "redash_gateway_loop_lag_seconds": "how busy the machine is",
    "redash_gateway_in_use": "how many connections the callers keep",
    "redash_gateway_memory_bytes": "what parts keep: the response cache takes a response from its second request on",
    "redash_gateway_request_duration_seconds_sum": "the fast path does not measure each request, it takes a constant",
}
REPORT_THAT_DIFFERS: Final = {
    "seen_seconds": "how long ago a hit of the fast path was is known when its second is over",
    "hit_rate": "a ratio of counters that are compared themselves; each further hit changes it by less",
    "p50_seconds": "an estimate from durations, which the fast path does not measure",
    "p99_seconds": "an estimate from durations, which the fast path does not measure",
}


class StandingClock(TurnableClock):
    """Time passes only when a test says so: every path sees the same age, and no clock moves between two scrapes."""

    def wall(self) -> float:
        return 1_800_000_000.0 + self.ahead

    def monotonic(self) -> float:
        return 5_000.0 + self.ahead


@pytest.fixture
def by_normal_path(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """The requests that were recorded one by one, in order."""
    recorded: list[Outcome] = []
    original = Telemetry.record_request

    def watched(self: Telemetry, outcome: Outcome) -> None:
        recorded.append(outcome)
        original(self, outcome)

    monkeypatch.setattr(Telemetry, "record_request", watched)
    return recorded


def numbers(value: object, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a JSON value, by its dotted path."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from numbers(part, f"{place}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from numbers(part, f"{place}.{index}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, float(value)


class Counters:
    """All counts that the gateway shows."""

    def __init__(self, samples: dict[str, float], report: Any) -> None:
        self.values = {name: value for name, value in samples.items() if name.startswith("redash_gateway_")}
        self.values |= {f"report{place}": value for place, value in numbers(report)}

    @classmethod
    async def of(cls, world: World) -> Counters:
        await until(lambda: not open_requests(world.runtime))
        async with world.session.get(f"{world.admin}/api/status") as response:
            return cls(await world.metrics(), await response.json())

    def since(self, before: Counters) -> dict[str, float]:
        """Which counts have changed, and by how much, except those that may differ."""
        moves = {name: round(value - before.values.get(name, 0.0), 9) for name, value in self.values.items()}
        return {name: move for name, move in moves.items() if move and not _may_differ(name)}


def _may_differ(name: str) -> bool:
    parts = re.split(r"[.{]", name)
    return parts[0] in METRICS_THAT_DIFFER or not REPORT_THAT_DIFFERS.keys().isdisjoint(parts)


REQUESTS: Final[dict[str, tuple[str, str, object]]] = {
    "post": ("POST", "", {"max_age": DAY}),
    "latest": ("GET", ".json", None),
    "csv": ("GET", ".csv", None),
    "head": ("HEAD", ".json", None),
}


class Repeating:
    """One request that is sent again and again, and the counts that its hits change."""

    def __init__(self, world: World, kind: str, by_fast_path: list[bytes], by_normal_path: list[Outcome]) -> None:
        self.world = world
        self.method, form, self.body = REQUESTS[kind]
        self.path = f"/api/queries/{world.named['by_country']}/results{form}"
        self.by_fast_path, self.by_normal_path = by_fast_path, by_normal_path

    async def send(self) -> str:
        """Send it once; returns its Cache-Status."""
        return (await self.world.call(self.method, self.path, self.body)).cache

    async def hits(self, times: int = 1) -> tuple[str, dict[str, float]]:
        """Send it; returns the path that served it, and the counts that changed."""
        before, fast, normal = await Counters.of(self.world), len(self.by_fast_path), len(self.by_normal_path)
        for _ in range(times):
            assert (await self.send()).startswith("redash-gateway; hit")
        moved = (await Counters.of(self.world)).since(before)
        by_path = {"fast": len(self.by_fast_path) - fast, "normal": len(self.by_normal_path) - normal}
        by_path["cached"] = times - sum(by_path.values())
        (path,) = (path for path, number in by_path.items() if number)
        return path, moved


@pytest.mark.parametrize("kind", REQUESTS)
async def test_every_path_counts_a_hit_in_the_same_way(
    bare: World, by_fast_path: list[bytes], by_normal_path: list[Outcome], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # In memory only: writes to a disk would change its gauges some time later. With a rate, each hit has a quota.
    await bare.start(store="memory:", dashboard='rate = "100/m"\nburst = 100')
    request = Repeating(bare, kind, by_fast_path, by_normal_path)
    await bare.rows("by_country", max_age=0)
    await request.send()  # the first request in a form is a miss
    bare.clock.turn(AGE_SECONDS)

    path, one_hit = await request.hits()
    assert path == "normal"
    assert len({name.partition("{")[0] for name in one_hit}) > 10, "the metrics and the report move"
    seen = {path}
    for times in (1, 1, 1, 3):
        for largest in (sending.LARGEST_AT_ONCE, -1):  # larger ones take the normal path
            monkeypatch.setattr(fast_path, "LARGEST_AT_ONCE", largest)
            path, moved = await request.hits(times)
            assert moved.keys() == one_hit.keys(), (path, times)
            assert moved == pytest.approx({name: move * times for name, move in one_hit.items()}), (path, times)
            seen.add(path if times == 1 else f"{path}, together")
    assert seen >= {"cached", "fast", "cached, together", "fast, together"}


# -- the fields of a record

OWN_FIELDS: Final = {
    "request_id": "each request has its own",
    "address": "each request has its own",
    "method": "known before the response is looked up",
    "route": "known before the response is looked up",
    "client": "known before the response is looked up",
    "token_sha256": "known before the response is looked up",
    "started": "each request has its own",
    "duration": "measured when the response has left",
    "sent_bytes": "0 until the response has left",
    "trace": "each request has its own",
    "steps": "each request has its own",
    "quota": "taken anew for each request",
    "budgets": "a cached response runs nothing",
    "refused": "nothing of a cached response's request is refused",
    "upstream_seconds": "a cached response makes no call to Redash",
    "shared_seconds": "a cached response waits for nothing",
    "held_seconds": "a cached response waits for nothing",
    "streams": "a cached response is no stream",
    "queue_seconds": "a cached response waits for nothing",
    "render_seconds": "a cached response is ready",
    "execution_id": "a cached response belongs to no execution",
    "forward": "only in Cache-Status, which the cached head has already",
    "stored": "only in Cache-Status, which the cached head has already",
    "miss": "a hit has none",
    "detail": "only in Cache-Status, which the cached head has already",
    "reason": "only responses without one are cached",
}
"""Fields that `repeat` must not take from the first request."""

CLEARED_FIELDS: Final = {
    "address": "each request has its own",
    "duration": "a constant instead: the fast path does not measure each request",
    "upstream_seconds": "a cached response makes no call to Redash",
    "shared_seconds": "a cached response waits for nothing",
    "held_seconds": "a cached response waits for nothing",
    "queue_seconds": "a cached response waits for nothing",
    "render_seconds": "a cached response is ready",
    "execution_id": "a cached response belongs to no execution",
    "trace": "each request has its own",
    "steps": "each request has its own",
    "quota": "taken anew for each request",
    "budgets": "a cached response runs nothing",
}
"""Fields that a cached response does not take from the request it was made for."""


def full_outcome() -> Outcome:
    """An outcome with a different value in every field."""
    cache: CacheResult = "stale"
    trace = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    outcome = Outcome(
        request_id="first",
        address="198.51.100.1",
        method="POST",
        route="/api/queries/{query_id}/results",
        client="sales",
        token_sha256="ab",
        query_id=42,
        cache=cache,
        forward="stale",
        miss="stale",
        key=b"k",
        stored=True,
        ttl=30.0,
        detail="stale-if-error",
        age=12.0,
        saved_runtime=1.5,
        execution_id="x",
        status=200,
        reason="reason",
        refused="host x",
        quota=Quota(10, 1, 9, 1),
        budgets=(Quota(60, 60, 30, 1),),
        sent_bytes=100,
        started=7.0,
        duration=0.5,
        upstream_seconds=0.25,
        shared_seconds=0.125,
        held_seconds=0.0625,
        streams=True,
        queue_seconds=0.0625,
        render_seconds=0.03125,
        saves_run=True,
        trace=trace,
        steps=[Step("store", 1.0, 2.0)],
    )
    assert changed(Outcome(request_id=""), outcome) == set(Outcome.__struct_fields__), "give the new field a value"
    return outcome


def changed(before: Outcome, after: Outcome) -> set[str]:
    return {name for name in Outcome.__struct_fields__ if getattr(before, name) != getattr(after, name)}


def cached_response(outcome: Outcome) -> CachedResponse:
    entry = Entry(body_id=b"b", scope="s", query_id=42, result_id=1, form="json")
    terms = ReuseTerms(b"key", entry, 42, good_until=60.0)
    return CachedResponse(("request",), terms, b"", Body.of(b"{}"), outcome, None)


def test_a_cached_response_keeps_every_field_of_its_outcome_that_is_not_listed() -> None:
    outcome = full_outcome()
    kept = cached_response(outcome).outcome
    assert changed(outcome, kept) == CLEARED_FIELDS.keys()
    assert kept.duration == FAST_PATH_SECONDS


def test_repeat_sets_every_field_that_is_not_listed() -> None:
    cached, outcome = cached_response(full_outcome()), Outcome(request_id="second")
    cached.repeat(outcome)
    repeated = set(Outcome.__struct_fields__) - OWN_FIELDS.keys()
    assert changed(Outcome(request_id="second"), outcome) == repeated
    assert changed(cached.outcome, outcome).isdisjoint(repeated)
