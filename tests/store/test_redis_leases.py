"""Leases that gateways share, on a real Redis: one owner at a time, numbers that only grow, and no ask lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.redis_server import RedisServer
from support.waiting import until

from gateway.config.redis_url import redis_address
from gateway.model import ExecutionRecord, SystemClock, digest
from gateway.store.protocols import Claim, Held, LeaseLostError
from gateway.store.redis import silence
from gateway.store.redis.leases import RedisLease, RedisLeases
from gateway.store.redis.ledger import RedisLedger
from gateway.store.redis.link import Link
from gateway.store.redis.server import RedisOptions

KEY = digest(b"key")


@pytest.fixture
async def two(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[RedisLeases]]:
    """The leases of two gateways."""
    monkeypatch.setattr(silence, "SILENT_SECONDS", 5.0)
    async with AsyncExitStack() as stack:
        made = []
        for name in ("one", "two"):
            link = Link(RedisOptions(address=redis_address(redis.url), name=name), SystemClock())
            made.append(RedisLeases(link, SystemClock()))
            await link.open()
            stack.push_async_callback(link.close)
        yield made


def wanted(run: str, **more: Any) -> Claim:
    return Claim(KEY, run, "marker", **more)


async def led(leases: RedisLeases, run: str, **more: Any) -> RedisLease:
    lease = await leases.claim(wanted(run, **more))
    assert isinstance(lease, RedisLease)
    assert lease.number > 0
    return lease


async def held(leases: RedisLeases, run: str, **more: Any) -> Held:
    found = await leases.claim(wanted(run, **more))
    assert isinstance(found, Held)
    return found


async def test_one_gateway_leads_and_the_other_learns_which_run(two: list[RedisLeases]) -> None:
    one, other = two
    await led(one, "x")
    assert await held(other, "y") == Held("x", joinable=True)
    assert not await other.is_free(KEY)


async def test_runs_by_another_definition_and_runs_that_end_take_no_callers(two: list[RedisLeases]) -> None:
    one, other = two
    lease = await led(one, "x")
    assert not (await other.claim(Claim(KEY, "y", "edited", age=1.0))).joinable  # type: ignore[union-attr]
    assert await lease.close()
    assert await held(other, "y", age=1.0) == Held("x", joinable=False)
    await lease.reopen()
    assert (await held(other, "y", age=1.0)).ask > 0


async def test_each_lease_has_a_higher_number_also_after_redis_was_emptied(
    two: list[RedisLeases], redis: RedisServer
) -> None:
    """Whoever holds an older number can write nothing any more."""
    one, other = two
    first = await led(one, "x")
    await first.end()
    second = await led(other, "y")
    await redis.ask("FLUSHALL")
    third = await led(one, "z")
    assert first.number < second.number < third.number


async def test_an_owner_whose_lease_was_taken_finds_out_before_a_post(
    two: list[RedisLeases], redis: RedisServer
) -> None:
    one, other = two
    lease = await led(one, "x")
    await redis.let_leases_run_out()
    await led(other, "x")
    lease._kept = -1e9  # it was paused for long
    with pytest.raises(LeaseLostError):
        await lease.confirm()
    with pytest.raises(LeaseLostError):
        await lease.confirm()
    assert (one.held, one.losses, other.held) == (0, 1, 1)


async def test_what_an_owner_awaits_ends_when_the_lease_is_lost(two: list[RedisLeases], redis: RedisServer) -> None:
    one, other = two
    lease = await led(one, "x")
    began = asyncio.Event()

    async def work() -> None:
        async with lease.until_lost():
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    await redis.let_leases_run_out()
    await led(other, "x")
    await lease.renew()
    with pytest.raises(LeaseLostError):
        await task


async def test_a_lease_that_ran_out_while_nobody_took_it_is_taken_again(
    two: list[RedisLeases], redis: RedisServer
) -> None:
    lease = await led(two[0], "x")
    before = lease.number
    await redis.let_leases_run_out()
    assert await lease.close()
    assert lease.number > before


async def recorded(leases: RedisLeases, fence: int, status: int, run_id: str = "x") -> None:
    """Note how far a run is."""
    run = ExecutionRecord(
        id=run_id,
        key=KEY,
        scope="",
        credential="",
        query_id=1,
        path="",
        body=b"",
        marker="marker",
        started_at=0.0,
        status=status,
        fence=fence,
    )
    await RedisLedger(leases._link, SystemClock(), limit_bytes=1_000_000).record_execution(run)


@pytest.mark.parametrize("status", [2, 3, 4])
async def test_a_lease_that_another_gateway_had_meanwhile_is_lost_though_it_is_free(
    two: list[RedisLeases], redis: RedisServer, status: int
) -> None:
    """The other one has led the run to its end, or died: whoever had it before knows nothing of that."""
    one, other = two
    lease = await led(one, "x")
    await recorded(one, lease.number, 1)
    await redis.let_leases_run_out()
    await recorded(other, (await led(other, "x")).number, status)
    await redis.let_leases_run_out()
    lease._kept = -1e9
    with pytest.raises(LeaseLostError):
        await lease.confirm()
    assert await one.is_free(KEY)


async def test_a_run_that_has_ended_is_not_led_again(two: list[RedisLeases]) -> None:
    one, other = two
    lease = await led(one, "x")
    await recorded(one, lease.number, 3)
    await lease.end()
    assert (await held(other, "x")).execution_id == "x"
    await led(other, "y")


async def test_an_end_is_not_taken_back_by_a_renewal_that_comes_late(
    two: list[RedisLeases], redis: RedisServer
) -> None:
    """It would keep the key for a run that is over, and nobody would give it up."""
    lease = await led(two[0], "x")
    await lease.end()
    assert not await lease.renew()
    assert await two[1].is_free(KEY)
    assert await redis.ask("KEYS", "*:l:*") == []


async def test_the_follow_up_gets_the_lease_before_anybody_else(two: list[RedisLeases]) -> None:
    one, other = two
    lease = await led(one, "x")
    await lease.close()
    await lease.end("follow-up", "marker")
    assert (await held(other, "y")).execution_id == "follow-up"
    later = await led(one, "follow-up")
    assert later.number > lease.number


async def test_asks_count_from_when_they_were_made_and_never_earlier(two: list[RedisLeases]) -> None:
    """Whether the leader hears of them at once, or reads them when the run ends, or leads only later."""
    one, other = two
    clock = SystemClock()
    lease = await led(one, "x")
    earliest = clock.monotonic()
    first = (await held(other, "y", age=3.0)).ask
    await until(lambda: first in lease.needs)
    second = (await held(other, "x", age=0.0)).ask
    await lease.close()
    assert lease.needs.keys() == {first, second}
    for number, age in ((first, 3.0), (second, 0.0)):
        assert earliest - age <= lease.needs[number] <= clock.monotonic() - age


async def test_the_asks_of_a_leader_that_died_are_read_by_the_next_one(
    two: list[RedisLeases], redis: RedisServer
) -> None:
    one, other = two
    clock = SystemClock()
    await led(one, "x")
    asked_at = clock.monotonic()
    number = (await held(other, "y", age=0.0)).ask
    await asyncio.sleep(0.3)
    await redis.let_leases_run_out()
    lease = await led(other, "x")
    assert asked_at <= lease.needs[number] < asked_at + 0.3


async def test_a_run_that_others_use_is_not_closed(two: list[RedisLeases]) -> None:
    one, other = two
    lease = await led(one, "x")
    await held(other, "x", unused=0.0)
    assert not await lease.close(unless_used=True)
    await other.announce("left", "x", leaves=True)
    assert await lease.close(unless_used=True)


async def test_a_job_in_redash_that_a_run_without_the_lease_follows_too_is_not_cancelled(
    two: list[RedisLeases],
) -> None:
    """After an outage two runs of a key may have the same job; one has lost its lease, and goes on by itself."""
    one, other = two
    lease = await led(one, "x", upstream_job=lambda: "job")
    await recorded(other, 0, 2, "y")
    await held(other, "y", unused=100.0, upstream_job=lambda: "job")
    assert not await lease.close(unless_used=True)


async def test_a_claim_whose_caller_left_keeps_nobody_waiting(two: list[RedisLeases], redis: RedisServer) -> None:
    one, other = two
    claim = asyncio.create_task(one.claim(wanted("x")))
    await asyncio.sleep(0)
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim
    assert any([await other.is_free(KEY) or await asyncio.sleep(0.01) for _ in range(100)])
    assert one.held == 0


async def test_without_redis_everybody_leads_alone_and_afterwards_one(
    two: list[RedisLeases], redis: RedisServer
) -> None:
    one, other = two
    await redis.kill()
    await until(lambda: not one.shared and not other.shared)
    leases = [await side.claim(wanted(run)) for side, run in ((one, "x"), (other, "y"))]
    assert [lease.number for lease in leases if isinstance(lease, RedisLease)] == [0, 0]
    await redis.start()
    await until(lambda: one.shared and other.shared)
    await until(lambda: one.held + other.held == 1)
    assert [lease.is_lost for lease in leases if isinstance(lease, RedisLease)].count(True) == 1


async def test_followers_in_the_leaders_own_gateway_are_heard_too(two: list[RedisLeases]) -> None:
    one, _ = two
    lease = await led(one, "x")
    found = await held(one, "x", age=1.0)
    assert found.ask in lease.needs


async def test_an_ask_of_a_run_that_nobody_leads_reaches_its_leader(two: list[RedisLeases]) -> None:
    one, other = two
    number = await one.note_ask("x", 5.0)
    lease = await led(other, "x", age=None)
    assert number in lease.needs
    assert lease.needs[number] <= other.clock.monotonic() - 5.0


async def test_an_ask_after_the_end_of_a_run_is_none_of_those_that_its_leader_knew(two: list[RedisLeases]) -> None:
    one, other = two
    lease = await led(other, "x")
    before = await one.note_ask("x", 0.0)
    await lease.close()
    known = set(lease.needs)
    await lease.end()
    assert before in known
    assert await one.note_ask("x", 0.0) not in known | {0}


async def test_without_redis_an_ask_has_no_number(two: list[RedisLeases]) -> None:
    await two[0]._link.close()
    assert await two[0].note_ask("x", 0.0) == 0
