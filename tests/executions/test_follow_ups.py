"""Callers that join a run in progress get no rows older than they asked for: the end of the run in Redash decides.

Redash shows status 2 until a finished result is stored, and the gateway polls now and then only: so callers may join a
run that has ended already. docs/freshness.md promises rows of at most `max_age` from the moment of the request on.
"""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest
from support.fault_proxy import FaultProxy
from support.http import Reply
from support.inside import retrying_every, waiters
from support.waiting import until
from support.world import World

from gateway.executions.execution import Execution, Phase
from gateway.executions.job_search import JobFinder
from gateway.executions.job_views import JobView
from gateway.executions.leading import Leading
from gateway.model import JobRecord

POLLS = "^/api/jobs/"


async def ended_unseen(world: World, proxy: FaultProxy, **body: Any) -> str:
    """Start a run that ends in Redash while no poll gets through; return the job id of its caller."""
    hold = world.sandbox.hold()
    job: str = (await world.post("now", max_age=0, **body)).job["id"]
    await world.sandbox.wait_executions(1)
    proxy.add("reset", POLLS)
    hold.release()
    await world.sandbox.wait_finished(1)
    await world.sandbox.wait_idle()
    return job


async def result_of(world: World, job: str, client: str = "dashboard") -> int:
    ended = await world.finish(job, client=client)
    assert ended["status"] == 3, ended
    result: int = ended["query_result_id"]
    return result


@pytest.fixture
async def made(behind: World) -> World:
    await behind.start(cache='failure_ttl = "0s"')
    return behind


async def test_who_joins_after_the_end_of_a_run_gets_another_one(made: World, proxy: FaultProxy) -> None:
    first = await ended_unseen(made, proxy)
    second = (await made.post("now", max_age=0, client="second")).job["id"]
    proxy.clear()
    assert await result_of(made, first) != await result_of(made, second, "second")
    assert made.started == 2


async def test_who_comes_after_a_purge_does_not_join_a_run_from_before_it(world: World) -> None:
    """Whoever purges says that the data is new. A run in progress may have read the old one, however old rows may be.

    With a query's own key, its result would also be 404 at once: only the gateway's store has it.
    """
    hold = world.sandbox.hold()
    first = (await world.post("now", max_age=0)).job["id"]
    await world.sandbox.wait_executions(1)
    await world.purge({"query": world.named["now"]})
    waiting = asyncio.create_task(world.post("now", max_age=600, client="second", wait=30))
    await until(lambda: len(world.runtime.executions.flights.running) == 2)
    hold.release()
    second = (await waiting).json["query_result"]["id"]
    assert await result_of(world, first) != second
    assert world.started == 2


@pytest.mark.parametrize("max_age", [600, None])
async def test_after_a_purge_redash_does_not_give_rows_of_before_from_its_own_cache(
    world: World, max_age: int | None
) -> None:
    """docs/freshness.md: a load job that calls `purge` shows its rows at once, whatever age the dashboards accept."""
    body = {} if max_age is None else {"max_age": max_age}
    before = (await world.post("now", max_age=0, wait=30)).rows
    world.clock.turn(2)
    await world.purge({"query": world.named["now"]})
    after = (await world.post("now", wait=30, **body)).rows
    assert after != before
    assert world.started == 2
    again = await world.post("now", **body)
    assert ("hit" in again.cache, again.rows) == (True, after)


@pytest.mark.parametrize("skew", [-3600.0, -1.5, 1.5, 3600.0])
async def test_a_redash_whose_clock_is_wrong_changes_nothing(made: World, proxy: FaultProxy, skew: float) -> None:
    """Rows that carry a moment in the future are not new for that: `Date` shows how far Redash's clock is ahead."""
    made.sandbox.faults.clock_skew = skew
    first = await ended_unseen(made, proxy)
    second = (await made.post("now", max_age=0, client="second")).job["id"]
    proxy.clear()
    assert await result_of(made, first) != await result_of(made, second, "second")


async def test_all_who_come_too_late_share_one_follow_up(made: World, proxy: FaultProxy) -> None:
    """Whether they poll, wait or want a file: each gets the rows of the one run that was made for them."""
    first = await ended_unseen(made, proxy)
    path = f"/api/queries/{made.named['now']}/results.json?max_age=0"
    polling = [(await made.post("now", max_age=0, client="second")).job["id"] for _ in range(5)]
    waiting = [asyncio.create_task(made.post("now", max_age=0, wait=30)) for _ in range(5)]
    files = [asyncio.create_task(made.get(path)) for _ in range(5)]
    held = [asyncio.create_task(made.get(f"/api/jobs/{job}", client="second", prefer="wait=30")) for job in polling]
    await until(lambda: waiters(made.runtime) == 15)
    proxy.clear()
    got = {await result_of(made, job, "second") for job in polling}
    got |= {reply.job["query_result_id"] for reply in await asyncio.gather(*held)}
    replies: list[Reply] = await asyncio.gather(*waiting, *files)
    got |= {reply.json["query_result"]["id"] for reply in replies}
    assert len(got) == 1
    assert await result_of(made, first) not in got
    assert made.started == 2


async def test_who_joins_before_the_end_shares_the_run(made: World) -> None:
    """A follow-up for each of them would be the load on Redash that the gateway is to take from it."""
    hold = made.sandbox.hold()
    first = (await made.post("now", max_age=0)).job["id"]
    await made.sandbox.wait_executions(1)
    made.clock.turn(5)
    second = (await made.post("now", max_age=0, client="second")).job["id"]
    made.clock.turn(5)
    hold.release()
    assert await result_of(made, first) == await result_of(made, second, "second")
    assert made.started == 1


@pytest.mark.parametrize(("max_age", "runs"), [(4, 2), (30, 1), (-1, 1)])
async def test_the_bound_of_each_caller_counts_from_its_own_moment(
    made: World, proxy: FaultProxy, max_age: int, runs: int
) -> None:
    first = await ended_unseen(made, proxy)
    made.clock.turn(7)
    second = (await made.post("now", max_age=max_age, client="second")).json
    proxy.clear()
    if "job" in second:
        same = await result_of(made, first) == await result_of(made, second["job"]["id"], "second")
        assert same == (runs == 1)
    assert made.started == runs


async def test_a_moved_job_can_be_cancelled(made: World, proxy: FaultProxy) -> None:
    first = await ended_unseen(made, proxy)
    second = (await made.post("now", max_age=0, client="second")).job["id"]
    hold = made.sandbox.hold()
    proxy.clear()
    await result_of(made, first)
    await made.sandbox.wait_executions(2)
    await made.call("DELETE", f"/api/jobs/{second}", client="second")
    assert (await made.get(f"/api/jobs/{second}", client="second")).job["status"] == 4
    hold.release()


async def test_a_bound_outlives_a_restart(made: World, proxy: FaultProxy) -> None:
    """The next process follows the run; it must know which of its jobs need newer rows."""
    first = await ended_unseen(made, proxy)
    second = (await made.post("now", max_age=0, client="second")).job["id"]
    made.clock.turn(3)  # the first one's POST was long before the second one's
    await made.restart()
    proxy.clear()
    assert await result_of(made, first) != await result_of(made, second, "second")


async def test_a_moved_job_outlives_a_restart(made: World, proxy: FaultProxy) -> None:
    first = await ended_unseen(made, proxy)
    second = (await made.post("now", max_age=0, client="second")).job["id"]
    hold = made.sandbox.hold()
    proxy.clear()
    before = await result_of(made, first)
    await made.sandbox.wait_executions(2)
    await made.restart()
    hold.release()
    assert await result_of(made, second, "second") != before
    assert made.started == 2


async def test_a_large_result_is_not_shown_early_to_who_may_need_newer_rows(behind: World, proxy: FaultProxy) -> None:
    """The moment of its rows stands at its end."""
    await behind.start()
    hold = behind.sandbox.hold()
    await behind.post("large", max_age=0)
    await behind.sandbox.wait_executions(1)
    proxy.add("reset", POLLS)
    hold.release()
    await behind.sandbox.wait_finished(1)
    await behind.sandbox.wait_idle()
    late = asyncio.create_task(behind.post("large", max_age=0, wait=60, client="second"))
    await until(lambda: waiters(behind.runtime) == 1)
    proxy.clear()
    assert (await late).status == 200
    assert behind.started == 2


async def test_joined_callers_get_the_true_age(made: World, proxy: FaultProxy) -> None:
    await ended_unseen(made, proxy)
    made.clock.turn(7)
    path = f"/api/queries/{made.named['now']}/results.json?max_age=60"
    calls = [asyncio.create_task(made.post("now", max_age=60, wait=30)), asyncio.create_task(made.get(path))]
    await until(lambda: waiters(made.runtime) == 2)
    proxy.clear()
    for reply in await asyncio.gather(*calls):
        assert "collapsed" in reply.cache
        assert int(reply.headers["Age"]) >= 7


@pytest.mark.parametrize("kind", ["reset", "hang"])
async def test_while_polls_fail_a_stale_result_is_used_at_once(behind: World, proxy: FaultProxy, kind: str) -> None:
    await behind.start(cache='stale_if_error = "1h"', upstream='read_timeout = "200ms"\nbreaker_failures = 1000')
    await behind.rows("now", max_age=0)
    behind.clock.turn(120)
    async with behind.sandbox.hold():
        await behind.post("now", max_age=0)
        waiting = asyncio.create_task(behind.post("now", max_age=60, wait=30))
        await until(lambda: waiters(behind.runtime) == 1)
        proxy.add(kind, POLLS)
        assert "stale-if-error" in (await waiting).cache
        assert "stale-if-error" in (await behind.post("now", max_age=60, client="second")).cache
    proxy.clear()


async def test_when_polls_work_again_callers_wait_again(behind: World, proxy: FaultProxy) -> None:
    await behind.start(cache='stale_if_error = "1h"')
    await behind.rows("now", max_age=0)
    behind.clock.turn(120)
    with retrying_every(0.05):
        async with behind.sandbox.hold():
            await behind.post("now", max_age=0)
            (execution,) = behind.runtime.executions.flights.running
            proxy.add("reset", POLLS, count=4)
            await until(lambda: execution.is_unanswered)
            await until(lambda: not execution.is_unanswered)
            waiting = asyncio.create_task(behind.post("now", max_age=60, wait=30, client="second"))
            await until(lambda: waiters(behind.runtime) == 1)
        assert "hit" not in (await waiting).cache


async def test_a_poll_that_comes_while_a_job_is_moved_does_not_end_it_with_the_earlier_run(
    made: World, proxy: FaultProxy
) -> None:
    await ended_unseen(made, proxy)
    second = (await made.post("now", max_age=0, client="second")).job["id"]
    (run,) = made.runtime.executions.flights.running
    hold = made.sandbox.hold()
    moved, shown, state = asyncio.Event(), asyncio.Event(), JobFinder.state
    give_up = Leading.give_up

    async def slow(finder: JobFinder, job: JobRecord, execution: Any) -> JobView:
        view = await state(finder, job, execution)
        if not moved.is_set():
            await moved.wait()
            asyncio.get_running_loop().call_soon(shown.set)
        return view

    async def late(leading: Leading, execution: Execution, *, stopping: bool) -> None:
        if execution is run:
            moved.set()
            await shown.wait()
        await give_up(leading, execution, stopping=stopping)

    with mock.patch.object(JobFinder, "state", slow), mock.patch.object(Leading, "give_up", late):
        polling = asyncio.create_task(made.get(f"/api/jobs/{second}", client="second"))
        await until(lambda: run.seen)
        proxy.clear()
        assert (await polling).job["status"] in (1, 2)
        await until(lambda: run.phase is Phase.ENDED)
    assert (await made.get(f"/api/jobs/{second}", client="second")).job["status"] in (1, 2)
    hold.release()
    await result_of(made, second, "second")
