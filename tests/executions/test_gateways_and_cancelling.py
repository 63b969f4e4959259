"""A DELETE ends one job id, on whichever gateway; the run in Redash ends with the last of all gateways' callers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest import mock

import pytest
from support.fault_proxy import FaultProxy
from support.gateways import SECONDS, awaited, begun, edit, ended, ended_unseen, lose_lease
from support.redis_server import RedisServer
from support.waiting import until
from support.world import World

from gateway.executions import job_search
from gateway.executions.cancelling import Cancelling
from gateway.executions.execution import ALIVE_SECONDS, Execution
from gateway.model import ExecutionRecord, JobRecord
from gateway.outcome import Sender
from gateway.sandbox import Sandbox
from gateway.store import Claim, Held
from gateway.store.redis.leases import RedisLease, RedisLeases
from gateway.store.redis.ledger import RedisLedger

CANCELLED = "Query cancelled by user."


def cancels(sandbox: Sandbox) -> int:
    return sandbox.counters.by_route["DELETE /api/jobs/<job_id>"]


async def join(world: World, client: str = "dashboard") -> str:
    job: str = (await world.post("slow_seconds", max_age=0, parameters=SECONDS, client=client)).job["id"]
    return job


async def cancel(world: World, job: str, client: str = "dashboard") -> None:
    reply = await world.call("DELETE", f"/api/jobs/{job}", client=client)
    assert (reply.status, reply.body) == (200, b"null")


async def is_cancelled(world: World, job: str) -> bool:
    shown = (await world.get(f"/api/jobs/{job}")).job
    return (shown["status"], shown["error"]) == (4, CANCELLED)


async def test_the_last_of_all_gateways_callers_cancels_the_run(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, three = gateways
    async with sandbox.hold():
        first, second, third = await begun(one), await join(two), await join(three)
        await cancel(one, first)
        await cancel(two, second)
        for world in gateways:
            assert (await world.get(f"/api/jobs/{third}")).job["status"] in (1, 2)
        assert cancels(sandbox) == 0
        await cancel(three, third)
        await sandbox.wait_until(lambda: cancels(sandbox) == 1)
        for world in gateways:
            for job in (first, second, third):
                assert await is_cancelled(world, job)
    await until(lambda: not any(world.runtime.executions.flights.running for world in gateways))
    assert cancels(sandbox) == 1


@pytest.mark.parametrize("by", [(1, 0), (0, 1), (2, 2), (1, 2), (2, 0)])
@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
async def test_the_run_is_cancelled_in_whichever_order_and_wherever_its_callers_cancel(
    gateways: list[World], sandbox: Sandbox, by: tuple[int, int], order: tuple[int, int]
) -> None:
    # Its leader reads asks when it keeps the lease, every 2 s. Who has asked since may have left meanwhile.
    one, two, _ = gateways
    async with sandbox.hold():
        jobs = [await begun(one), await join(two)]
        for number, place in zip(order, by, strict=True):
            await cancel(gateways[place], jobs[number])
        await sandbox.wait_until(lambda: cancels(sandbox) == 1)
    await until(lambda: not any(world.runtime.executions.flights.running for world in gateways))
    assert cancels(sandbox) == 1


async def test_a_job_is_cancelled_on_a_gateway_that_did_not_give_it_out(
    gateways: list[World], sandbox: Sandbox
) -> None:
    one, two, three = gateways
    async with sandbox.hold():
        first = await begun(one)
        waits = asyncio.create_task(two.get(f"/api/jobs/{first}", prefer="wait=30"))
        await awaited(two)
        await cancel(three, first)
        assert (await waits).job["error"] == CANCELLED
        await sandbox.wait_until(lambda: cancels(sandbox) == 1)
        for world in gateways:
            assert await is_cancelled(world, first)


@pytest.mark.parametrize("wait", [None, 30])
async def test_who_comes_while_a_run_is_being_cancelled_gets_rows(
    gateways: list[World], sandbox: Sandbox, wait: int | None
) -> None:
    """The gateway where it comes follows the run, and does not know yet that the leader takes no more callers."""
    one, two, _ = gateways
    first = await begun_and_followed(one, two)
    began, goes_on = asyncio.Event(), asyncio.Event()
    cancel_in_redash = Cancelling._cancel

    async def slowly(cancelling: Cancelling, execution: Execution, sender: Sender) -> None:
        began.set()
        await goes_on.wait()
        await cancel_in_redash(cancelling, execution, sender)

    with mock.patch.object(Cancelling, "_cancel", slowly):
        await cancel(two, first)
        await began.wait()
        (followed,) = two.runtime.executions.flights.running
        coming = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS, wait=wait))
        await until(lambda: followed.latest_need > -math.inf or len(two.runtime.executions.flights.running) > 1)
        goes_on.set()
        await sandbox.wait_until(lambda: cancels(sandbox) == 1)
    sandbox.release()
    reply = await coming
    if wait is None:
        assert await ended(two, reply.job["id"])
    assert reply.status == 200
    assert await is_cancelled(one, first)
    assert sandbox.counters.started == 2


@pytest.mark.parametrize("wait", [None, 30])
async def test_who_accepts_rows_of_any_age_gets_rows_though_all_others_leave(
    gateways: list[World], sandbox: Sandbox, wait: int | None
) -> None:
    """It asks the leader for nothing, and its gateway has said that it has no use for the run any more."""
    one, two, _ = gateways
    sandbox.hold()
    first, second = await begun(one), await join(two)
    await cancel(two, second)
    (led,), (followed,) = (world.runtime.executions.flights.running for world in (one, two))
    await led.standing.lease.renew()  # reads the ask of the job that is gone
    callers = followed.callers
    coming = asyncio.create_task(two.post("slow_seconds", max_age=-1, parameters=SECONDS, wait=wait))
    await until(lambda: followed.callers > callers)
    await cancel(one, first)
    sandbox.release()
    reply = await coming
    if wait is None:
        assert await ended(two, reply.job["id"])
    assert reply.status == 200
    assert await is_cancelled(one, first)
    assert await is_cancelled(one, second)


async def test_a_job_outlives_a_cancel_after_redis_was_emptied(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """Nobody knows any more which gateways have use for the run, until each has said so again."""
    one, two, three = gateways
    sandbox.hold()
    first, second = await begun(one), await join(two)
    async with emptied_unheard(redis, two):
        await cancel(one, first)
    sandbox.release()
    assert await ended(two, second)
    await all_back(gateways)
    for world in (three, one):
        assert await ended(world, second)
    assert await is_cancelled(one, first)


@asynccontextmanager
async def emptied_unheard(redis: RedisServer, world: World) -> AsyncIterator[None]:
    """Empty Redis; until this ends, the gateway does not hear of it."""
    with mock.patch.object(world.runtime.leases, "spread"):
        await redis.ask("FLUSHALL")
        yield


async def all_back(gateways: list[World]) -> None:
    """Wait until all have noticed that Redis was emptied, and have written what they know."""
    links = [world.runtime.store.link for world in gateways]
    await until(lambda: all(link.losses and link.up for link in links))


async def begun_and_followed(one: World, two: World) -> str:
    """A run that one gateway leads and another one follows, with one job."""
    one.sandbox.hold()
    first = await begun(one)
    await two.get(f"/api/jobs/{first}")
    await until(lambda: any(e.standing.follows for e in two.runtime.executions.flights.running))
    return first


async def test_a_caller_that_waits_elsewhere_keeps_the_run_alive(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    waits = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS, wait=30))
    await awaited(two)
    await cancel(one, first)
    hold.release()
    assert (await waits).rows
    assert cancels(sandbox) == 0
    assert await is_cancelled(two, first)


async def test_a_gateway_does_not_leave_a_run_that_another_of_its_callers_is_about_to_join(
    gateways: list[World], sandbox: Sandbox
) -> None:
    """A DELETE comes between the claim, which has told the leader of that caller, and the reply to it."""
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    noted, go_on, claim = asyncio.Event(), asyncio.Event(), RedisLeases.claim

    async def slow(leases: RedisLeases, wanted: Claim) -> RedisLease | Held:
        found = await claim(leases, wanted)
        if wanted.execution_id != led.id:
            noted.set()
            await go_on.wait()
        return found

    (led,) = one.runtime.executions.flights.running
    with mock.patch.object(RedisLeases, "claim", slow):
        waits = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS, wait=30))
        await noted.wait()
        assert isinstance(led.standing.lease, RedisLease)
        await led.standing.lease.renew()  # reads the ask: from now on only the use that is noted speaks for the caller
        await cancel(two, first)
        await until(lambda: not led.seen)
        go_on.set()
        await until(lambda: any(e.id == led.id and e.waiters for e in two.runtime.executions.flights.running))
        hold.release()
        assert (await waits).rows
    assert cancels(sandbox) == 0
    assert sandbox.counters.started == 1


@pytest.mark.parametrize("joins", [0, 1])
async def test_a_caller_whose_job_is_being_recorded_keeps_the_run_alive(
    gateways: list[World], sandbox: Sandbox, joins: int
) -> None:
    """A DELETE of the only other job comes while the caller has joined, but has no job id yet."""
    one = gateways[0]
    hold = sandbox.hold()
    first = await begun(one)
    recording, go_on, record = asyncio.Event(), asyncio.Event(), RedisLedger.record_job

    async def slow(ledger: RedisLedger, job: JobRecord) -> None:
        if job.id != first:
            recording.set()
            await go_on.wait()
        await record(ledger, job)

    with mock.patch.object(RedisLedger, "record_job", slow):
        joining = asyncio.create_task(join(gateways[joins]))
        await recording.wait()
        await cancel(one, first)
        go_on.set()
        second = await joining
    hold.release()
    await ended(one, second)
    assert cancels(sandbox) == 0


async def test_a_caller_that_joins_a_later_run_as_it_begins_keeps_it_alive(
    gateways: list[World], sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """Jobs are moved to the later run at once. Who joins it before its record is read has none, and waits for one."""
    one, two, _ = gateways
    first = await ended_unseen(one, proxy)
    moved = (await two.post("now", max_age=0)).job["id"]
    flights = two.runtime.executions.flights
    (earlier,) = flights.running
    go_on, read = asyncio.Event(), RedisLedger.execution

    async def slow(ledger: RedisLedger, run: str) -> ExecutionRecord | None:
        if ledger._link is two.runtime.store.link and run != earlier.id:
            await go_on.wait()
        return await read(ledger, run)

    hold = sandbox.hold()
    with mock.patch.object(RedisLedger, "execution", slow):
        proxy.clear()
        await ended(one, first)
        await until(lambda: any(moved in run.seen for run in flights.running if run is not earlier))
        joining = asyncio.create_task(two.post("now", max_age=0, wait=30))
        await until(lambda: any(moved in run.seen and run.can_respond.waiting for run in flights.running))
        await cancel(two, moved)
        go_on.set()
    hold.release()
    assert (await joining).rows
    assert cancels(sandbox) == 0


async def test_a_run_that_is_being_cancelled_takes_no_callers_of_other_gateways(
    gateways: list[World], sandbox: Sandbox
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    slow = sandbox.faults.add("latency", route="/api/jobs/<job_id>", method="DELETE", seconds=0.3)
    leaving = asyncio.create_task(cancel(one, first))
    await until(lambda: any(e.cancelling for e in one.runtime.executions.flights.running))
    joining = asyncio.create_task(join(two))
    await until(lambda: len(two.runtime.executions.flights.running) == 1)
    assert not two.runtime.executions.flights.running[0].standing.follows
    hold.release()
    await asyncio.gather(leaving, joining)
    slow.clear()
    await ended(two, await joining)
    assert await is_cancelled(two, first)
    assert sandbox.counters.posts[one.named["slow_seconds"]] == 2


async def test_a_run_that_waits_for_a_slot_is_cancelled_from_elsewhere(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, _ = gateways
    one.reconfigure(one.text.replace("[upstream]", "[upstream]\nmax_executions = 1"))
    hold = sandbox.hold()
    other = await begun(one, "now", parameters={})
    queued = await join(one)
    await cancel(two, queued)
    await until(lambda: len(one.runtime.executions.flights.running) == 1)
    hold.release()
    await ended(one, other)
    assert await is_cancelled(one, queued)
    assert sandbox.counters.started == 1


async def test_a_cancel_ends_no_job_that_was_given_out_where_nobody_could_hear_of_it(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """The run waits for a slot when its gateway is cut off; another one takes it over, and ends it."""
    one, two, three = gateways
    one.reconfigure(one.text.replace("[upstream]", "[upstream]\nmax_executions = 1"))
    hold = sandbox.hold()
    other = await begun(one, "now", parameters={})
    queued = await join(one)
    await lose_lease(one, redis)
    unheard = await join(one)
    await cancel(three, queued)
    await until(lambda: not three.runtime.executions.flights.running)
    hold.release()
    await ended(one, other)
    result = await ended(one, unheard)
    await one.runtime.store.link.open()
    assert await ended(two, unheard) == result
    assert await is_cancelled(two, queued)


async def test_a_cancel_elsewhere_does_not_end_a_run_that_waits_for_an_earlier_one(
    gateways: list[World], sandbox: Sandbox
) -> None:
    """Nobody leads it yet: only the gateway that gave its jobs out knows who has use for it."""
    one, two, three = gateways
    hold = sandbox.hold()
    earlier = await begun(one)
    edit(sandbox, two)
    first, second = await join(two), await join(two)
    await cancel(three, first)
    for world in gateways:
        assert (await world.get(f"/api/jobs/{second}")).job["status"] in (1, 2)
    hold.release()
    await ended(one, earlier)
    await ended(three, second)


async def test_a_run_that_waits_for_an_earlier_one_is_begun_again_for_callers_that_its_gateway_does_not_know(
    gateways: list[World], sandbox: Sandbox
) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    earlier = await begun(one)
    edit(sandbox, two, three)
    first = await join(two)
    await three.get(f"/api/jobs/{first}")
    unknown = (await three.post("slow_seconds", max_age=-1, parameters=SECONDS)).job["id"]
    (run,) = three.runtime.executions.flights.running
    assert unknown in run.seen
    await cancel(two, first)
    hold.release()
    await ended(one, earlier)
    result = await ended(three, unknown)
    for world in gateways:
        assert await ended(world, unknown) == result
        assert await is_cancelled(world, first)


async def test_a_job_that_the_leader_does_not_know_is_not_shown_as_cancelled_meanwhile(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """Its gateway is yet to begin another run for it."""
    one, two, _ = gateways
    sandbox.hold()
    first, second = await begun(one), await join(two)
    flights = two.runtime.executions.flights
    moving, go_on, move = asyncio.Event(), asyncio.Event(), flights.move_jobs
    assert move is not None

    async def slow(execution: Execution, follow_up: Execution) -> None:
        moving.set()
        await go_on.wait()
        await move(execution, follow_up)

    with mock.patch.object(flights, "move_jobs", slow):
        async with emptied_unheard(redis, two):
            await cancel(one, first)
        await moving.wait()
        await all_back(gateways)
        for world in gateways:
            assert (await world.get(f"/api/jobs/{second}")).job["status"] in (1, 2)
        go_on.set()
        sandbox.release()
        for world in gateways:
            assert await ended(world, second)


async def test_who_takes_a_run_over_knows_that_it_was_cancelled_for_want_of_callers(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """Its leader dies before it can say so, and another gateway hears from Redash that "the user" has cancelled it."""
    one, two, _ = gateways
    sandbox.hold()
    first, second = await begun(one), await join(two)
    (led,) = one.runtime.executions.flights.running
    sandbox.faults.add("latency", route="/api/jobs/<job_id>", method="DELETE", seconds=0.3)
    async with emptied_unheard(redis, two):
        leaving = asyncio.create_task(cancel(one, first))
        await until(lambda: led.cancelling)
        await lose_lease(one, redis)
    await leaving
    sandbox.release()
    assert await ended(two, second)
    assert cancels(sandbox) == 1


async def test_a_run_that_is_begun_while_an_earlier_one_is_being_cancelled_is_the_only_one(
    gateways: list[World], sandbox: Sandbox
) -> None:
    """It waits for the end of the earlier one, but has no use for it."""
    one, *_ = gateways
    sandbox.hold()
    first = await begun(one)
    (led,) = one.runtime.executions.flights.running
    slow = sandbox.faults.add("latency", route="/api/jobs/<job_id>", method="DELETE", seconds=0.3)
    leaving = asyncio.create_task(cancel(one, first))
    await until(lambda: led.cancelling)
    second = await join(one)
    await leaving
    slow.clear()
    sandbox.release()
    assert await ended(one, second)
    await until(lambda: not one.runtime.executions.flights.running)
    assert led.follow_up is None
    assert sandbox.counters.started == 2


async def test_a_job_whose_caller_was_silent_runs_again_when_it_comes_back_wherever_that_is(
    gateways: list[World], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run was cancelled with the last job that was polled, and it shows the same on all gateways."""
    monkeypatch.setattr(job_search, "LATE_SECONDS", 0.2)
    one, two, _ = gateways
    sandbox.hold()
    silent, last = await begun(one), await join(one)
    (led,) = one.runtime.executions.flights.running
    led.seen[silent] -= ALIVE_SECONDS + 1
    await cancel(one, last)
    await until(lambda: not one.runtime.executions.flights.running)
    assert led.follow_up is None
    sandbox.release()
    for world in (one, two):
        assert (await world.get(f"/api/jobs/{silent}")).job["status"] in (1, 2)
    await asyncio.sleep(0.2)
    assert len({await ended(world, silent) for world in gateways}) == 1
    assert await is_cancelled(two, last)
