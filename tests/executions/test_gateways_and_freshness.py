"""Callers get no rows older than they asked for, whichever gateway leads the run that they have joined.

No clocks are compared: a follower asks the leader for rows of some age, and the leader counts from when it hears that.
"""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest
from support.fault_proxy import FaultProxy
from support.gateways import POLLS, SECONDS, begun, edit, ended, ended_unseen, lose_lease
from support.redis_server import RedisServer
from support.waiting import until
from support.world import World

from gateway.executions.execution import Execution
from gateway.executions.leading import Leading
from gateway.sandbox import Sandbox
from gateway.store import Claim, Held, Lease

UNCERTAIN_SECONDS = 0.3
"""More than what a gateway may be wrong about Redis' clock when it goes on with the run of another one."""


async def test_who_joins_elsewhere_after_the_end_of_a_run_gets_another_one(
    gateways: list[World], proxy: FaultProxy
) -> None:
    one, two, three = gateways
    first = await ended_unseen(one, proxy)
    late = [(await world.post("now", max_age=0)).job["id"] for world in (two, three, two)]
    assert one.started == 1
    proxy.clear()
    old = await ended(three, first)
    new = {await ended(world, job) for job in late for world in gateways}
    assert len(new) == 1
    assert old not in new
    assert one.started == 2


async def test_who_joins_elsewhere_before_the_end_shares_the_run(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one, "now", parameters={})
    one.clock.turn(5)
    second = (await two.post("now", max_age=0)).job["id"]
    one.clock.turn(5)
    third = (await three.post("now", max_age=0)).job["id"]
    one.clock.turn(5)
    hold.release()
    assert len({await ended(one, first), await ended(two, second), await ended(three, third)}) == 1
    assert sandbox.counters.started == 1


@pytest.mark.parametrize(("max_age", "runs"), [(4, 2), (30, 1)])
async def test_the_bound_of_each_caller_counts_from_its_own_moment(
    gateways: list[World], proxy: FaultProxy, max_age: int, runs: int
) -> None:
    one, two, _ = gateways
    first = await ended_unseen(one, proxy)
    one.clock.turn(7)
    second = (await two.post("now", max_age=max_age)).job["id"]
    proxy.clear()
    assert (await ended(one, first) == await ended(two, second)) == (runs == 1)
    assert one.started == runs


async def test_waiting_callers_of_followers_get_the_rows_of_the_follow_up(
    gateways: list[World], proxy: FaultProxy
) -> None:
    one, two, three = gateways
    first = await ended_unseen(one, proxy)
    path = f"/api/queries/{one.named['now']}/results.json?max_age=0"
    waiting = [asyncio.create_task(world.post("now", max_age=0, wait=30)) for world in (two, three)]
    waiting += [asyncio.create_task(world.get(path)) for world in (two, three)]
    await until(lambda: all(sum(e.waiters for e in w.runtime.executions.flights.running) == 2 for w in (two, three)))
    proxy.clear()
    got = {reply.json["query_result"]["id"] for reply in await asyncio.gather(*waiting)}
    assert len(got) == 1
    assert await ended(one, first) not in got
    assert one.started == 2


async def test_a_job_that_was_moved_is_one_of_the_follow_up_on_gateways_that_did_not_give_it_out(
    gateways: list[World], proxy: FaultProxy, sandbox: Sandbox
) -> None:
    one, two, three = gateways
    first = await ended_unseen(one, proxy)
    late = (await two.post("now", max_age=0)).job["id"]
    waits = asyncio.create_task(three.get(f"/api/jobs/{late}", prefer="wait=30"))
    await until(lambda: sum(e.waiters for e in three.runtime.executions.flights.running) == 1)
    hold = sandbox.hold()
    proxy.clear()
    await ended(one, first)
    assert (await waits).job["status"] in (1, 2)
    assert (await three.get(f"/api/jobs/{late}")).job["status"] in (1, 2)
    hold.release()
    assert await ended(three, late) != await ended(three, first)


async def test_a_new_leader_judges_what_the_old_one_was_asked(
    gateways: list[World], proxy: FaultProxy, redis: RedisServer
) -> None:
    """The asks outlive the leader: who came too late for its run is not served by the one that goes on with it."""
    one, two, three = gateways
    first = await ended_unseen(one, proxy, UNCERTAIN_SECONDS)
    late = (await two.post("now", max_age=0)).job["id"]
    await lose_lease(one, redis)
    await until(lambda: two.runtime.leases.held == 1)
    proxy.clear()
    assert await ended(three, late) != await ended(three, first)
    assert one.started == 2


async def test_a_strict_caller_elsewhere_tightens_a_post_that_is_yet_to_be_sent(
    gateways: list[World], sandbox: Sandbox
) -> None:
    one, two, _ = gateways
    await one.post("slow_seconds", max_age=0, parameters=SECONDS, wait=10)
    for world in gateways:
        world.reconfigure(world.text.replace("[upstream]", "[upstream]\nmax_executions = 1"))
    one.clock.turn(100)
    hold = sandbox.hold()
    other = await begun(one, "now", parameters={})
    queued = (await one.post("slow_seconds", max_age=60, parameters=SECONDS)).job["id"]
    strict = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    hold.release()
    assert await ended(one, queued) == await ended(two, strict)
    await ended(one, other)
    assert sandbox.counters.started == 3


async def test_a_new_leader_does_not_count_the_time_without_one_against_the_asks(
    gateways: list[World], proxy: FaultProxy, redis: RedisServer
) -> None:
    """Who asked in time is served by the run, also if its leader died before the end, and the next one came later."""
    one, two, three = gateways
    hold = one.sandbox.hold()
    first = await begun(one, "now", parameters={})
    jobs = [(await world.post("now", max_age=0)).job["id"] for world in (two, three)]
    proxy.add("reset", POLLS)
    await asyncio.sleep(UNCERTAIN_SECONDS)
    hold.release()
    await one.sandbox.wait_idle()
    await lose_lease(one, redis)
    await until(lambda: two.runtime.leases.held + three.runtime.leases.held == 1)
    proxy.clear()
    assert len({await ended(world, job) for world in (two, three) for job in (first, *jobs)}) == 1
    assert one.started == 1


async def test_who_came_while_the_leader_was_cut_off_is_not_served_by_the_follow_up_of_its_own_callers(
    gateways: list[World], proxy: FaultProxy
) -> None:
    """It has ended the run, and begun and ended a later one, and heard of no ask meanwhile."""
    one, two, three = gateways
    await ended_unseen(one, proxy)
    second = (await one.post("now", max_age=0)).job["id"]
    await two.get(f"/api/jobs/{second}")
    link = one.runtime.store.link
    await link.close()
    proxy.clear()
    old = await ended(one, second)
    assert one.started == 2
    late = (await two.post("now", max_age=0)).job["id"]
    await link.open()
    new = {await ended(world, late) for world in (three, two, one)}
    assert len(new) == 1
    assert old not in new
    assert one.started == 3


@pytest.mark.parametrize("cut", [False, True])
async def test_who_joins_a_run_that_another_gateway_has_taken_up_and_ended_gets_another_one(
    gateways: list[World], sandbox: Sandbox, cut: bool
) -> None:
    """Its gateway waits for the end of an earlier run, and has not heard of it."""
    one, two, three = gateways
    hold = sandbox.hold()
    earlier = await begun(one)
    edit(sandbox, two, three)
    claiming, goes_on, claim = asyncio.Event(), asyncio.Event(), two.runtime.leases.claim

    async def slow(wanted: Claim) -> Lease | Held:
        claiming.set()
        await goes_on.wait()
        return await claim(wanted)

    async def late() -> str:
        job: str = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
        return job

    first = await late()
    with mock.patch.object(two.runtime.leases, "claim", slow):
        await claiming.wait()
        await three.get(f"/api/jobs/{first}")
        hold.release()
        await ended(one, earlier)
        old = await ended(three, first)
        if cut:
            await two.runtime.store.link.close()
        second = await late()
        if cut:
            await two.runtime.store.link.open()
        assert (await three.get(f"/api/jobs/{second}")).job["status"] in (1, 2)
        goes_on.set()
        new = {await ended(world, second) for world in (two, three, one)}
    assert len(new) == 1
    assert old not in new
    assert {await ended(world, first) for world in gateways} == {old}
    assert sandbox.counters.started == 3


async def test_a_job_that_its_gateway_could_tell_nobody_of_is_not_served_by_an_end_that_others_have_seen(
    gateways: list[World], proxy: FaultProxy, redis: RedisServer
) -> None:
    """It was given out while the gateway, which led the run, was cut off; another one has led it to its end."""
    one, two, three = gateways
    first = await ended_unseen(one, proxy, UNCERTAIN_SECONDS)
    await two.get(f"/api/jobs/{first}")
    goes_on, send, follow = asyncio.Event(), one.runtime.upstream.send, Leading._follow

    async def slow(*arguments: Any, **more: Any) -> Any:
        await goes_on.wait()
        return await send(*arguments, **more)

    async def late_to_follow(leading: Leading, execution: Execution, held: Held) -> Any:
        if leading.leases is one.runtime.leases:
            await goes_on.wait()
        return await follow(leading, execution, held)

    with (
        mock.patch.object(one.runtime.upstream, "send", slow),
        mock.patch.object(Leading, "_follow", late_to_follow),
    ):
        await lose_lease(one, redis)
        late = (await one.post("now", max_age=0)).job["id"]
        await until(lambda: two.runtime.leases.held == 1)
        proxy.clear()
        old = await ended(two, first)
        await one.runtime.store.link.open()
        assert (await three.get(f"/api/jobs/{late}")).job["status"] in (1, 2)
        goes_on.set()
        new = {await ended(world, late) for world in (one, two, three)}
    assert len(new) == 1
    assert old not in new
    assert one.started == 2


async def test_what_a_gateway_ran_while_it_was_cut_off_is_known_to_all_afterwards(
    gateways: list[World], sandbox: Sandbox
) -> None:
    """Its jobs could be told to nobody, but the end of their run is one that this gateway has seen."""
    one, two, three = gateways
    hold = sandbox.hold()
    link = one.runtime.store.link
    await link.close()
    jobs = [await begun(one), (await one.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]]
    hold.release()
    results = {await ended(one, job) for job in jobs}
    await link.open()
    assert {await ended(world, job) for world in (two, three) for job in jobs} == results
    assert sandbox.counters.started == 1


@pytest.mark.parametrize("back", ["before the end", "after the end"])
async def test_a_job_that_its_gateway_could_tell_nobody_of_ends_as_that_gateway_has_seen_it(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer, back: str
) -> None:
    """Another gateway has the lease, and records the end. The rows of this very run serve the job, too."""
    one, two, _ = gateways
    sandbox.hold()
    first = await begun(one)
    await two.get(f"/api/jobs/{first}")
    await lose_lease(one, redis)
    (run,) = one.runtime.executions.flights.running
    late = (await one.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    await until(lambda: two.runtime.leases.held == 1)
    if back == "before the end":
        await one.runtime.store.link.open()
        await until(lambda: run.standing.follows and not run.standing.lacks(run.latest_need))
    sandbox.release()
    results = {await ended(one, late), await ended(two, first)}
    if back == "after the end":
        await one.runtime.store.link.open()
    assert {await ended(world, late) for world in gateways} == results
    assert len(results) == 1
    assert sandbox.counters.started == 1
