"""Checks of a stored result: who accepts rows of any age asks Redash at times whether they are still the newest.

Redash runs nothing for such a POST where it has rows, so no lease is held, and another run may be in progress. Where
it has none, or where rows of any age are no longer enough, the check becomes a run, or shares the one in progress.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from support import gateways as several
from support.fault_proxy import FaultProxy
from support.gateways import edit, ended
from support.waiting import until
from support.world import World

from gateway.executions.execution import Execution
from gateway.executions.waits import Waits
from gateway.sandbox import Sandbox, warehouse

SECONDS = {"seconds": 0.01}
"""Not the values of the query itself: its definition names the newest result of those, and no check is needed."""

EXECUTE = "^/api/queries/[0-9]+/results$"


def fails(_: warehouse.Run) -> warehouse.Table:
    """In place of `warehouse.Run.execute`."""
    raise sqlite3.Error("no such table")


async def begun(world: World) -> str:
    return await several.begun(world, parameters=SECONDS)


async def any_age(world: World, **more: Any) -> Any:
    return await world.post("slow_seconds", max_age=-1, parameters=SECONDS, **more)


async def stored(*worlds: World) -> int:
    """Rows that each of these gateways has, and would check for the next caller of any age."""
    for world in worlds:
        shown = await world.post("slow_seconds", max_age=86_400, parameters=SECONDS, wait=20)
    worlds[0].clock.turn(61)
    result: int = shown.json["query_result"]["id"]
    return result


@contextmanager
def before_the_check(world: World, act: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """Something that happens between the look-up of the caller and the POST of its check."""
    waits, apart = world.runtime.executions.flights.waits, Waits.apart

    @asynccontextmanager
    async def acting(execution: Execution) -> AsyncIterator[None]:
        patch.stop()
        await act()
        async with apart(waits, execution):
            yield

    patch = mock.patch.object(waits, "apart", acting)
    patch.start()
    yield


async def test_a_check_waits_for_no_run(bare: World) -> None:
    await bare.start()
    result = await stored(bare)
    with bare.sandbox.hold():
        await begun(bare)
        assert (await any_age(bare, wait=20)).json["query_result"]["id"] == result


@pytest.mark.parametrize("what", ["new data", "lost", "edit"])
async def test_it_shares_the_run_in_progress_and_later_callers_join_that(bare: World, what: str) -> None:
    await bare.start()
    old = await stored(bare)

    async def change() -> None:
        if what == "new data":
            await bare.purge({"query": bare.named["slow_seconds"]})
        elif what == "edit":
            edit(bare.sandbox, bare)
        else:
            bare.sandbox.database.remove_result(old)
        jobs.append(await begun(bare))

    jobs: list[str] = []
    with bare.sandbox.hold(), before_the_check(bare, change):
        jobs.append((await any_age(bare)).job["id"])
        jobs.append((await bare.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"])
    assert len({await ended(bare, job) for job in jobs}) == 1
    assert bare.started == 2


async def test_it_fails_with_the_run_in_progress(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise a query that fails would run again though `failure_ttl` is not over.
    await bare.start()
    await stored(bare)

    async def change() -> None:
        await bare.purge({"query": bare.named["slow_seconds"]})
        jobs.append(await begun(bare))

    jobs: list[str] = []
    with bare.sandbox.hold(), before_the_check(bare, change):
        jobs.append((await any_age(bare)).job["id"])
        monkeypatch.setattr(warehouse.Run, "execute", fails)
    assert [(await bare.finish(job))["error"] for job in jobs] == ["no such table"] * 2
    assert bare.started == 2


async def test_it_runs_the_query_if_the_run_that_it_shares_is_cancelled(bare: World) -> None:
    await bare.start()
    old = await stored(bare)

    async def change() -> None:
        await bare.purge({"query": bare.named["slow_seconds"]})
        jobs.append(await begun(bare))

    jobs: list[str] = []
    with bare.sandbox.hold(), before_the_check(bare, change):
        checked = (await any_age(bare)).job["id"]
        await bare.call("DELETE", f"/api/jobs/{jobs[0]}")
    assert await ended(bare, checked) > old


async def test_rows_of_a_run_after_a_purge_are_stored(bare: World) -> None:
    await bare.start()
    await stored(bare)
    query = bare.named["slow_seconds"]
    with bare.sandbox.hold(), before_the_check(bare, lambda: bare.purge({"query": query})):
        jobs = [(await any_age(bare)).job["id"]]
        jobs.append((await bare.post("slow_seconds", max_age=3600, parameters=SECONDS)).job["id"])
    assert len({await ended(bare, job) for job in jobs}) == 1
    assert bare.started == 2


# -- Redash has lost the rows: it removes those that no query names as its latest after some days (CONTRACT 10) ------


@pytest.fixture
async def without_rows(bare: World) -> World:
    """One slot, which is taken; the rows that are stored here, Redash has lost."""
    await bare.start(upstream='max_executions = 1\nqueue_timeout = "300ms"')
    bare.sandbox.database.remove_result(await stored(bare))
    bare.sandbox.hold(bare.named["now"])
    await several.begun(bare, "now", parameters={})
    return bare


async def test_what_redash_runs_for_it_needs_no_slot_any_more(without_rows: World) -> None:
    reply = await any_age(without_rows, wait=20)
    assert "query_result" in reply.json, reply.body


async def test_but_it_counts_as_one(without_rows: World) -> None:
    world, flights = without_rows, without_rows.runtime.executions.flights
    with world.sandbox.hold():
        job = (await any_age(world)).job["id"]
        assert (flights.slots.taken, flights.slots.size) == (2, 1)
    await ended(world, job)
    assert flights.slots.taken == 1


async def test_its_last_caller_cancels_it_in_redash(without_rows: World) -> None:
    world = without_rows
    with world.sandbox.hold():
        job = (await any_age(world)).job["id"]
        await world.call("DELETE", f"/api/jobs/{job}")
        await until(lambda: world.sandbox.counters.started - world.sandbox.counters.finished == 1)


@pytest.mark.parametrize("sql", [False, True])
async def test_a_statement_that_fails_runs_once(world: World, monkeypatch: pytest.MonkeyPatch, sql: bool) -> None:
    # Its effects, if it has some, would come twice.
    async def ask(max_age: int) -> Any:
        if not sql:
            return await world.post("slow_seconds", max_age=max_age, parameters=SECONDS, wait=20)
        body = {"data_source_id": 1, "query": "select 1 as one", "max_age": max_age}
        return await world.call("POST", "/api/query_results", body, client="sql", headers={"Prefer": "wait=20"})

    result = (await ask(86_400)).json["query_result"]["id"]
    world.clock.turn(61)
    world.sandbox.database.remove_result(result)
    monkeypatch.setattr(warehouse.Run, "execute", fails)
    before = world.started
    assert (await ask(-1)).job["error"] == "no such table"
    assert world.started == before + 1


async def test_the_client_pays_for_what_redash_runs(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await bare.start(upstream="max_executions = 1", dashboard='budget = "10m/h"')
    execute = warehouse.Run.execute
    monkeypatch.setattr(warehouse.Run, "execute", lambda run: replace(execute(run), runtime=100.0))
    bare.sandbox.database.remove_result(await stored(bare))
    bare.sandbox.hold(bare.named["now"])
    await bare.post("now", client="second", max_age=0)
    await any_age(bare, wait=20)
    (budget,) = bare.runtime.executions.budgets.states("dashboard")
    assert (round(budget.spent), budget.reserved) == (200, 0)


@pytest.mark.parametrize("max_age", [0, 3600])
async def test_a_run_after_a_purge_waits_for_what_redash_runs_for_an_earlier_check(
    behind: World, proxy: FaultProxy, max_age: int
) -> None:
    # Redash would join the two, and the rows would be from before the purge.
    await behind.start()
    behind.sandbox.database.remove_result(await stored(behind))
    hold = behind.sandbox.hold()
    proxy.add("slow_head", EXECUTE, seconds=0.3, count=1)
    checking = asyncio.create_task(any_age(behind))
    await behind.sandbox.wait_executions(2)
    await behind.purge({"query": behind.named["slow_seconds"]})
    later = (await behind.post("slow_seconds", max_age=max_age, parameters=SECONDS)).job["id"]
    first = (await checking).job["id"]
    hold.release()
    assert await ended(behind, later) > await ended(behind, first)
    assert behind.started == 3


# -- several gateways --------------------------------------------------------------------------------------------------


async def test_it_joins_the_run_of_another_gateway(gateways: list[World]) -> None:
    one, two, _ = gateways
    query = one.named["slow_seconds"]
    await stored(one, two)
    jobs: list[str] = []

    async def load() -> None:
        await one.purge({"query": query})
        await two.purge({"query": query})  # which it has been told, too, but the test would have to wait for it
        jobs.append(await begun(one))

    before = one.sandbox.counters.posts[query]
    with one.sandbox.hold(), before_the_check(two, load):
        jobs.append((await any_age(two)).job["id"])
        assert one.sandbox.counters.posts[query] == before + 1
    forced, checked = [await ended(two, job) for job in jobs]
    assert checked == forced


async def test_others_join_what_redash_runs_for_it(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, three = gateways
    query = one.named["slow_seconds"]
    lost = await stored(one, two, three)
    sandbox.database.remove_result(lost)
    with sandbox.hold():
        first = (await any_age(one)).job["id"]
        posts = sandbox.counters.posts[query]
        second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
        assert sandbox.counters.posts[query] == posts
    assert await ended(three, first) == await ended(three, second) != lost


@pytest.mark.parametrize("leads", [0, 1])
async def test_what_redash_runs_for_it_beside_a_run_is_that_run(
    gateways: list[World], sandbox: Sandbox, leads: int
) -> None:
    leader, checker = gateways[leads], gateways[1]
    sandbox.database.remove_result(await stored(*gateways))
    started = sandbox.counters.started
    with sandbox.hold():
        jobs = [await begun(leader), (await any_age(checker)).job["id"]]
        jobs += [(await world.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"] for world in gateways]
    assert len({await ended(world, job) for job in jobs for world in gateways}) == 1
    assert sandbox.counters.started == started + 1


async def test_an_edit_that_it_finds_makes_it_a_run_of_the_new_text(gateways: list[World]) -> None:
    one, two, _ = gateways
    query, sandbox = one.named["slow_seconds"], one.sandbox
    await stored(one, two)
    jobs: list[str] = []

    async def change() -> None:
        edit(sandbox, one, two)
        jobs.append(await begun(one))

    before = sandbox.counters.posts[query]
    with sandbox.hold(), before_the_check(two, change):
        jobs.append((await any_age(two)).job["id"])
        assert sandbox.counters.posts[query] == before + 1
    assert len({await ended(two, job) for job in jobs}) == 1


async def test_nobody_joins_a_check_that_began_before_a_purge(behind: World, proxy: FaultProxy) -> None:
    await behind.start()
    old = await stored(behind)
    slow = proxy.add("slow_head", EXECUTE, seconds=0.5)
    checking = asyncio.create_task(any_age(behind, wait=20))
    await until(lambda: slow.hits > 0)
    proxy.stop()
    await behind.purge({"query": behind.named["slow_seconds"]})
    new = await stored(behind)
    assert (await any_age(behind, wait=20)).json["query_result"]["id"] == new > old
    assert (await checking).json["query_result"]["id"] == old
