"""A miss says why: the same word in `Cache-Status`, in the counter and in the access log."""

from __future__ import annotations

from typing import get_args

import pytest
from support.world import World

from gateway.outcome import MissReason, Outcome
from gateway.results.absences import Absences
from gateway.telemetry.log import AccessLines


def why(cache_status: str) -> str:
    return cache_status.rpartition("detail=")[2]


async def miss(world: World, **body: object) -> str:
    """Ask for a result and return why it was a miss."""
    return why((await world.post("by_country", wait=20, **body)).cache)


async def test_each_miss_has_its_reason(world: World) -> None:
    query = world.named["by_country"]
    assert await miss(world, max_age=600) == "not_stored"
    assert "; hit" in (await world.post("by_country", max_age=600)).cache
    assert await miss(world, max_age=0) == "forced"
    world.clock.turn(30)
    assert await miss(world, max_age=10) == "stale"
    await world.runtime.operations.purge({"query": query})
    assert await miss(world, max_age=600) == "purged"
    world.sandbox.edit_query(query, query="select 1 as edited")
    world.clock.turn(100)
    assert await miss(world, max_age=6000) == "marker_changed"


async def test_any_age_needs_to_be_confirmed_as_the_newest(world: World) -> None:
    asked = {"parameters": {"country": "FR"}}  # not the default, so that no definition names its result
    assert why((await world.post("in_country", wait=20, **asked)).cache) == "not_stored"
    world.clock.turn(100)
    assert why((await world.post("in_country", wait=20, **asked)).cache) == "unconfirmed"


async def test_every_miss_is_counted_under_one_reason(world: World) -> None:
    await miss(world, max_age=600)
    await miss(world, max_age=0)
    await world.get(f"/api/queries/{world.named['now']}/results.json")
    await world.get(f"/api/queries/{world.named['now']}/results.csv")
    await world.get("/api/queries")
    total = await world.metric("redash_gateway_misses_total")
    assert total == await world.metric("redash_gateway_requests_total", cache="miss") >= 5
    assert await world.metric("redash_gateway_misses_total", reason="forced") == 1
    names = {name for name in await world.metrics() if name.startswith("redash_gateway_misses_total")}
    assert len(names) == len(get_args(MissReason)), "each is there from the start, so that rate() sees the first one"


async def test_a_stale_response_has_no_reason_of_a_miss(world: World) -> None:
    """It went to Redash first, and that failed: then it is no miss any more."""
    await miss(world, max_age=10)
    world.clock.turn(30)
    await world.sandbox.stop()
    assert (await world.post("by_country", max_age=10, wait=5)).cache.endswith("detail=stale-if-error")
    assert await world.metric("redash_gateway_misses_total", reason="stale") == 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_access_line_has_the_reason(form: str) -> None:
    outcome = Outcome(request_id="r", method="POST", status=200)
    outcome.record_miss("marker_changed")
    (line,) = AccessLines(form).of([outcome], 0.0)
    assert ("miss=marker_changed" if form == "text" else '"miss": "marker_changed"') in line


def test_what_was_stored_and_is_gone_was_purged_evicted_or_edited() -> None:
    absences = Absences()
    absences.note([b"a"], "one", 10.0)
    assert absences.reason(b"b", "one", 0.0) == "not_stored"
    assert absences.reason(b"a", "one", 0.0) == "evicted"
    assert absences.reason(b"a", "two", 0.0) == "marker_changed"
    assert absences.reason(b"a", None, 0.0) == "evicted"
    assert absences.reason(b"a", "two", 11.0) == "purged"


def test_the_memory_of_what_was_stored_is_bounded() -> None:
    absences = Absences(most=3)
    for number in range(10):
        absences.note([bytes([number])], "", float(number))
    reasons = [absences.reason(bytes([number]), "", -1.0) for number in range(10)]
    assert reasons == ["not_stored"] * 7 + ["evicted"] * 3
