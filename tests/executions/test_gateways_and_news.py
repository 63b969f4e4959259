"""Nobody waits for what has happened: an end, a job or a loss of Redis is noticed, whenever it comes.

The look by which a follower would find out in the end is put off, so each wait for it fails the test.
"""

from __future__ import annotations

import asyncio
import time
from unittest import mock

import pytest
from support.fault_proxy import FaultProxy
from support.gateways import SECONDS, awaited, begun, ended
from support.redis_server import RedisServer
from support.waiting import until, within
from support.world import World

from gateway.executions import leading
from gateway.sandbox import Sandbox
from gateway.store import Claim, Held, Lease
from gateway.store.redis.lease_scripts import LIFE_MILLISECONDS
from gateway.store.redis.leases import RedisLease, RedisLeases


@pytest.fixture(autouse=True)
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "LOOK_SECONDS", 60.0)


async def run_once_more(world: World) -> str:
    """The job id of a caller that gets it long before a lease of a dead run could have run out."""
    async with within(LIFE_MILLISECONDS / 2000):
        return str((await world.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"])


async def test_the_lease_of_a_run_that_has_ended_keeps_nobody_waiting(gateways: list[World], sandbox: Sandbox) -> None:
    """Its leader was killed before it could give the lease up, or Redis did not hear of it."""
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one)
    with mock.patch.object(RedisLease, "end", return_value=None):
        hold.release()
        await ended(one, first)
        await until(lambda: not one.runtime.executions.flights.running)
    jobs = [await run_once_more(world) for world in (two, three)]
    for world, job in zip((two, three), jobs, strict=True):
        await ended(world, job)


async def test_a_lease_that_was_taken_again_just_before_the_end_is_given_up(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """It was flushed, so it gets another number, which its leader does not know yet when it gives the lease up."""
    one = gateways[0]
    async with sandbox.hold():
        await begun(one)
        (execution,) = one.runtime.executions.flights.running
        (key,) = await redis.ask("KEYS", "*:l:*")  # type: ignore[misc, union-attr]
        await redis.ask("DEL", str(key))
        await asyncio.gather(execution.standing.lease.renew(), execution.standing.lease.end())
        assert await redis.ask("KEYS", "*:l:*") == []


@pytest.mark.parametrize("edited", [False, True])
async def test_an_end_that_is_announced_before_the_wait_for_it_is_not_missed(
    gateways: list[World], sandbox: Sandbox, edited: bool
) -> None:
    """Replies and announcements come on two connections: the end may be heard of before the lease is known."""
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    leases = two.runtime.leases
    claim, slow = leases.claim, []
    if edited:
        sandbox.edit_query(one.named["slow_seconds"], query="select sleep({{ seconds }}) as slept, 1 as edited")
        two.runtime.results.definitions.drop(one.named["slow_seconds"])

    async def late(wanted: Claim) -> Lease | Held:
        found = await claim(wanted)
        if isinstance(found, Held) and not slow:
            slow.append(found)
            hold.release()
            await ended(one, first)
            await until(lambda: not one.runtime.executions.flights.running)
        return found

    with mock.patch.object(leases, "claim", late):
        job = await run_once_more(two)
    assert slow
    await ended(two, job)


async def test_who_was_cut_off_looks_when_it_is_back(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    waiting = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS, wait=30))
    await awaited(two)
    await two.runtime.store.link.close()
    hold.release()
    await ended(one, first)
    await two.runtime.store.link.open()
    async with within(20):  # the safety poll is 60 s away; a busy machine may lose Redis once more meanwhile
        assert (await waiting).rows
    assert sandbox.counters.started == 1


async def test_what_nobody_could_hear_of_is_announced_when_redis_is_back(
    gateways: list[World], sandbox: Sandbox
) -> None:
    """The leader has lost Redis when its run ends; its followers have not."""
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    waiting = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS, wait=30))
    await awaited(two)
    await one.runtime.store.link.close()
    hold.release()
    await ended(one, first)
    await until(lambda: not one.runtime.executions.flights.running)
    await one.runtime.store.link.open()
    async with within(LIFE_MILLISECONDS / 2000):
        assert (await waiting).rows
    assert sandbox.counters.started == 1


async def test_a_caller_of_a_run_without_a_job_gets_its_id_when_redis_goes_down(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer, proxy: FaultProxy
) -> None:
    """It is not known what the leader does; no second POST is sent at once, as its own may be on its way."""
    one, two, _ = gateways
    fault = proxy.add("hang", "/results", method="POST", count=1)
    leader = asyncio.create_task(one.post("slow_seconds", max_age=0, parameters=SECONDS))
    await until(lambda: fault.hits == 1)
    follower = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS))
    await until(lambda: any(e.standing.follows for e in two.runtime.executions.flights.running))
    # No claim is under way: the next test is about that.
    await until(lambda: any(e.standing.changed.waiting for e in two.runtime.executions.flights.running))
    await redis.kill()
    async with within(LIFE_MILLISECONDS / 2000):
        assert (await follower).job["id"]
    assert sandbox.counters.posts[one.named["slow_seconds"]] == 0
    leader.cancel()


async def test_a_follower_whose_claim_redis_breaks_off_sends_no_post_at_once(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits as it would have if it had looked a moment later; but not for ever."""
    one, two, _ = gateways
    monkeypatch.setattr(leading, "LOOK_SECONDS", 1.0)
    claim, looks = RedisLeases.claim, []

    async def broken_off(leases: RedisLeases, wanted: Claim) -> RedisLease | Held:
        if leases.owner == two.runtime.leases.owner and wanted.execution_id == led.id and not looks:
            looks.append(time.monotonic())
            await redis.kill()
        return await claim(leases, wanted)

    fault = proxy.add("hang", "/results", method="POST", count=1)
    leader = asyncio.create_task(one.post("slow_seconds", max_age=0, parameters=SECONDS))
    await until(lambda: fault.hits == 1)
    (led,) = one.runtime.executions.flights.running
    with mock.patch.object(RedisLeases, "claim", broken_off):
        follower = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS))
        await until(lambda: bool(looks))
        async with within(LIFE_MILLISECONDS / 2000):
            assert (await follower).job["id"]
        await sandbox.wait_executions(1)
    assert time.monotonic() - looks[0] >= leading.LOOK_SECONDS
    leader.cancel()


async def test_a_caller_that_follows_a_job_has_its_result_when_redis_is_down(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """Its gateway polls the same job in Redash at once."""
    one, two, _ = gateways
    hold = sandbox.hold()
    await begun(one)
    waiting = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS, wait=30))
    await until(lambda: any(e.standing.follows and e.upstream_job for e in two.runtime.executions.flights.running))
    await redis.kill()
    hold.release()
    async with within(LIFE_MILLISECONDS / 2000):
        assert (await waiting).rows
    assert sandbox.counters.started == 1
