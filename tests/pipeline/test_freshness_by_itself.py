"""Floors by the last runtime, and schedules of Redash that are followed. The clock stands still except for `turn`."""

from __future__ import annotations

from typing import Any

import pytest
from support.documents import configuration_with
from support.http import Reply
from support.waiting import until
from support.world import World

from gateway.sandbox.sample_objects import parameter

pytestmark = pytest.mark.standing_clock

BY_RUNTIME = configuration_with("freshness.md", "runtimes").removeprefix("[cache]\n")
FOLLOWS = configuration_with("freshness.md", "follow_schedule").removeprefix("[cache]\n")
HOUR, DAY = 3_600, 86_400
HOURLY = {"interval": HOUR, "time": None, "day_of_week": None, "until": None}
AT_TEN = {"interval": DAY, "time": "10:00", "day_of_week": None, "until": None}
"""The clock begins at 08:00 UTC on a Friday."""


def took(world: World, seconds: float, name: str = "now") -> int:
    """Let Redash have a result of this query that its last run took so long for; returns the id of the query."""
    query = world.named[name]
    world.sandbox.add_first_result(query, runtime=seconds)
    return query


async def ask(world: World, query: int | str, max_age: int = 1, **more: Any) -> Reply:
    """Ask for rows of at most this age, and wait for them."""
    return await world.post(query, max_age=max_age, wait=10, **more)


async def refreshed(world: World) -> list[int]:
    """Let Redash's scheduler look; returns what it has refreshed, once that is done."""
    due = world.sandbox.scheduler.refresh_due()
    await world.sandbox.wait_idle()
    return due


def scheduled(world: World, schedule: Any, **more: Any) -> int:
    """A query with a schedule, which has a result of this moment."""
    query = world.sandbox.add_query("scheduled", "select run_number() as run", schedule=schedule, **more)
    world.sandbox.add_first_result(query)
    return query


# -- by the last runtime


@pytest.mark.parametrize(("runtime", "good_for"), [(0.2, 30), (40.0, 400), (4_000.0, HOUR)])
async def test_a_slow_query_may_be_older_than_a_quick_one(bare: World, runtime: float, good_for: int) -> None:
    # Recipe of docs/freshness.md: ten runtimes, so that no query costs more than a tenth of a worker.
    await bare.start(cache=BY_RUNTIME)
    query = took(bare, runtime)
    first = await ask(bare, query)
    bare.clock.turn(good_for)
    second = await ask(bare, query)
    assert "; hit; ttl=0" in second.cache
    assert second.rows == first.rows
    assert bare.started == 0
    bare.clock.turn(1)
    assert "fwd=stale" in (await ask(bare, query)).cache
    assert bare.started == 1


async def test_each_entry_has_the_floor_of_its_own_last_run(bare: World) -> None:
    await bare.start(cache=BY_RUNTIME)
    slow, quick = {"country": "DE"}, {"country": "FR"}
    query = bare.sandbox.add_query(
        "two", "select '{{ country }}' as c", parameters=[parameter("country", "enum", "DE", enumOptions="DE\nFR")]
    )
    bare.sandbox.add_first_result(query, slow, runtime=40.0)
    bare.sandbox.add_first_result(query, quick, runtime=0.2)
    for values in (slow, quick):
        await ask(bare, query, parameters=values)
    bare.clock.turn(60)
    assert "; hit" in (await ask(bare, query, parameters=slow)).cache
    assert "fwd=stale" in (await ask(bare, query, parameters=quick)).cache


async def test_a_client_can_have_a_floor_of_its_own(bare: World) -> None:
    await bare.start(cache=BY_RUNTIME, second='floor = "0s"')
    query = took(bare, 40.0)
    await ask(bare, query)
    bare.clock.turn(60)
    assert "; hit" in (await ask(bare, query)).cache
    assert "fwd=stale" in (await ask(bare, query, client="second")).cache


async def test_who_forces_a_run_gets_a_finished_job_within_the_floor(bare: World) -> None:
    # As with any floor (DESIGN 6): such clients index ["job"].
    await bare.start(cache=BY_RUNTIME)
    query = took(bare, 40.0)
    await ask(bare, query, max_age=60)
    bare.clock.turn(399)
    reply = await bare.post(query, max_age=0)
    assert reply.job["status"] == 3
    bare.clock.turn(2)
    reply = await bare.post(query, max_age=0)
    assert reply.job["status"] in (1, 2)


async def test_what_redash_has_is_taken_within_the_least_floor_where_no_run_is_known(bare: World) -> None:
    await bare.start(cache=BY_RUNTIME)
    query = took(bare, 40.0)
    bare.clock.turn(30)
    await ask(bare, query, max_age=0)
    assert bare.started == 0
    other = took(bare, 40.0, "by_country")
    bare.clock.turn(31)
    await ask(bare, other, max_age=0, parameters={"country": "DE"})
    assert bare.started == 1


async def test_a_ceiling_is_above_all_floors(bare: World) -> None:
    await bare.start(cache=f'{BY_RUNTIME}\nceiling = "100s"\nfollow_schedule = true')
    query = scheduled(bare, HOURLY)
    await ask(bare, query)
    bare.clock.turn(101)
    assert "fwd=stale" in (await ask(bare, query)).cache


async def test_a_floor_by_runtime_survives_a_restart(bare: World) -> None:
    await bare.start(cache=BY_RUNTIME)
    query = took(bare, 40.0)
    await ask(bare, query)
    await bare.restart()
    bare.clock.turn(300)
    assert "; hit" in (await ask(bare, query)).cache


# -- schedules


@pytest.mark.parametrize("redash_version", ["8", "10", "26"])
async def test_a_scheduled_result_stands_in_until_the_next_one_is_due(bare: World) -> None:
    # Recipe of docs/freshness.md: the dashboard asks for a minute, Redash refreshes once an hour.
    await bare.start(cache=FOLLOWS)
    query = scheduled(bare, HOURLY)
    first = (await ask(bare, query, 60)).rows
    bare.clock.turn(HOUR - 1)
    reply = await ask(bare, query, 60)
    assert "; hit; ttl=1" in reply.cache
    assert reply.rows == first
    bare.clock.turn(2)
    assert await refreshed(bare) == [query]
    reply = await ask(bare, query, 60)
    assert reply.rows != first
    assert "fwd=stale" in reply.cache
    assert bare.started == 1  # Redash's own run, and none for the caller


async def test_the_new_result_is_fetched_when_a_definition_check_has_seen_it(bare: World) -> None:
    await bare.start(cache="follow_schedule = true")
    query = scheduled(bare, AT_TEN)
    first = (await ask(bare, query, 60)).rows
    bare.clock.turn(1_800)
    newer = await bare.sandbox.execute_directly(query)  # somebody has run it in Redash
    await ask(bare, query, 60)  # the definition is older than a minute: it is read first
    reply = await ask(bare, query, 60)
    assert reply.rows != first
    assert reply.json["query_result"]["id"] == newer.id
    assert bare.started == 0


async def test_a_time_of_the_day_is_utc(bare: World) -> None:
    await bare.start(cache='follow_schedule = true\ntimezone = "Asia/Tokyo"')
    query = scheduled(bare, AT_TEN)
    await ask(bare, query)
    bare.clock.turn(2 * HOUR - 1)
    assert "; hit; ttl=1" in (await ask(bare, query)).cache
    bare.clock.turn(2)
    assert "fwd=stale" in (await ask(bare, query)).cache


async def test_redash_is_asked_for_what_stands_in_also_if_nothing_is_stored(bare: World) -> None:
    await bare.start(cache="follow_schedule = true")
    query = scheduled(bare, HOURLY)
    bare.clock.turn(HOUR - 1)
    await ask(bare, query)
    assert bare.started == 0
    assert "; hit" in (await ask(bare, query)).cache


@pytest.mark.parametrize("redash_version", ["8", "10", "26"])
async def test_only_the_default_values_are_scheduled(bare: World) -> None:
    await bare.start(cache="follow_schedule = true")
    country = parameter("country", "enum", "DE", enumOptions="DE\nFR")
    text = "select '{{ country }}' as c, run_number() as run"
    query = bare.sandbox.add_query("by", text, parameters=[country], schedule=HOURLY)
    for value in ("DE", "FR"):
        await ask(bare, query, parameters={"country": value})
    bare.clock.turn(600)
    assert "; hit" in (await ask(bare, query, parameters={"country": "DE"})).cache
    assert "fwd=stale" in (await ask(bare, query, parameters={"country": "FR"})).cache


@pytest.mark.parametrize(
    "schedule",
    [None, {**HOURLY, "until": "2027-01-15"}, {**HOURLY, "disabled": True}, {"interval": "soon"}],
    ids=["none", "over", "disabled", "unreadable"],
)
async def test_without_a_schedule_in_force_the_max_age_counts(bare: World, schedule: Any) -> None:
    await bare.start(cache="follow_schedule = true")
    query = scheduled(bare, schedule)
    await ask(bare, query, 60)
    bare.clock.turn(61)
    assert "fwd=stale" in (await ask(bare, query, 60)).cache


async def test_schedules_are_followed_only_where_the_operator_says_so(bare: World) -> None:
    await bare.start(second="follow_schedule = true", cache='floor = "5s"')
    query = scheduled(bare, HOURLY)
    await ask(bare, query)
    bare.clock.turn(60)
    assert "; hit" in (await ask(bare, query, client="second")).cache
    assert "fwd=stale" in (await ask(bare, query)).cache


async def test_a_schedule_that_was_taken_away_is_noticed_with_the_definition(bare: World) -> None:
    await bare.start(cache="follow_schedule = true")
    query = scheduled(bare, HOURLY)
    await ask(bare, query)
    bare.sandbox.queries[query].schedule = None  # Redash moves updated_at only for edits of the SQL's makers
    bare.clock.turn(61)
    assert "fwd=stale" in (await ask(bare, query)).cache


async def test_a_query_key_follows_the_schedule_of_its_query(bare: World) -> None:
    # Its results have no id of Redash, so only the time says when the next one is there.
    bare.sandbox.queries[bare.named["in_country"]].schedule = HOURLY
    await bare.start(cache="follow_schedule = true")
    values = {each["name"]: each["value"] for each in bare.sandbox.queries[bare.named["in_country"]].parameters}
    await ask(bare, "in_country", client="narrow", parameters=values)
    bare.clock.turn(HOUR - 1)
    assert "; hit" in (await ask(bare, "in_country", client="narrow", parameters=values)).cache


async def test_stale_windows_begin_when_the_next_result_was_due(bare: World) -> None:
    await bare.start(cache='follow_schedule = true\nstale_while_revalidate = "30s"')
    query = scheduled(bare, AT_TEN)
    await ask(bare, query)
    bare.clock.turn(2 * HOUR + 20)
    reply = await ask(bare, query)
    assert "ttl=-20; detail=stale-while-revalidate" in reply.cache
    await until(lambda: bare.started == 1)
