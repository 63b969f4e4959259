"""The ledger that several gateways share, beyond what every ledger must promise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from store_helpers import MB, FakeClock, execution, job, make_link, opened
from support.waiting import until

from gateway.model import UNASKED
from gateway.store.redis.leases import RedisLeases
from gateway.store.redis.ledger import AT_ONCE, RedisLedger
from gateway.store.redis.ledger_layout import RECORD_JOB
from gateway.store.redis.link import Link
from gateway.store.redis.scripts import Script

pytestmark = pytest.mark.usefixtures("patience")

HOUR = 3600.0


@pytest.fixture
async def link(path: Path, clock: FakeClock) -> AsyncIterator[Link]:
    async with opened(make_link(path, clock)) as made:
        yield made


def ledger(link: Link, clock: FakeClock, limit_bytes: int = MB) -> RedisLedger:
    """Of a gateway that has just begun."""
    return RedisLedger(link, clock, limit_bytes=limit_bytes)


async def names(link: Link) -> set[str]:
    found = await link.command("KEYS", link.base + "*")
    return {name.decode().removeprefix(link.base) for name in found}


async def test_what_another_gateway_has_changed_is_seen(link: Link, clock: FakeClock) -> None:
    one, other = ledger(link, clock), ledger(link, clock)
    await one.record_execution(execution(status=2))
    await one.record_job(job())
    await other.record_execution(execution(status=3))
    await other.record_job(job(execution_id="e2", cancelled=True))
    assert (await one.execution("e1")).status == 3
    assert await one.unfinished() == []
    assert (await one.job("j1")).cancelled
    assert [found.id for found in await one.jobs_of("e2")] == ["j1"]


async def test_a_record_under_an_older_lease_changes_nothing(link: Link, clock: FakeClock) -> None:
    """A gateway that was paused wakes, and another one has its lease."""
    paused, other = ledger(link, clock), ledger(link, clock)
    await paused.record_execution(execution(status=2, fence=5))
    await other.record_execution(execution(status=2, fence=6, upstream_job="theirs"))
    await paused.record_execution(execution(status=4, fence=5, error="late"))
    assert await paused.execution("e1") == execution(status=2, fence=6, upstream_job="theirs")
    await other.record_execution(execution(status=3, fence=6))
    assert (await paused.execution("e1")).status == 3


async def test_times_are_those_of_the_gateway_that_reads(path: Path) -> None:
    """Wall clocks of machines differ; the records travel in Redis' time."""
    fast, slow = FakeClock(wall=1_800_000_900.0), FakeClock(wall=1_800_000_000.0)
    async with opened(make_link(path, fast)) as one, opened(make_link(path, slow)) as other:
        writer, reader = ledger(one, fast), ledger(other, slow)
        await writer.record_job(job(noted_at=fast.wall() - 10, not_before=fast.wall() - 70))
        await writer.record_execution(execution(started_at=fast.wall() - 20))
        read = await reader.job("j1")
        assert (read.noted_at, read.not_before) == (slow.wall() - 10, slow.wall() - 70)
        assert (await reader.execution("e1")).started_at == slow.wall() - 20


async def test_what_is_older_than_twelve_hours_is_deleted(link: Link, clock: FakeClock) -> None:
    one = ledger(link, clock)
    await one.record_execution(execution(fence=1))
    await one.record_job(job())
    clock.advance(13 * HOUR)
    await one.record_job(job("new", execution_id="e2", noted_at=clock.wall()))
    await one.sweep()
    left = await names(link)
    assert {"j:new", "xj:e2"} <= left
    assert not {"x:e1", "j:j1", "xj:e1", "xf", "xi", "xu"} & left
    assert await link.command("GET", link.base + "xb") == b"0"


async def test_executions_and_jobs_are_bounded_in_bytes(link: Link, clock: FakeClock) -> None:
    """A caller decides how many there are, and how long the error of a query is."""
    one = ledger(link, clock, limit_bytes=50_000)
    await one.record_execution(execution("open", body=bytes(20_000), started_at=clock.wall()))
    for number in range(200):
        clock.advance(1)
        await one.record_execution(execution(f"e{number}", status=4, error="x" * 1_000, started_at=clock.wall()))
        await one.record_job(job(f"j{number}", execution_id=f"e{number}", noted_at=clock.wall()))
    await one.sweep()
    sizes = [int(await link.command("GET", link.base + name)) for name in ("xb", "jb")]
    assert 20_000 < sizes[0] <= 50_000
    assert 0 < sizes[1] <= 50_000
    fresh = ledger(link, clock)
    assert await fresh.execution("e199") is not None
    assert await fresh.execution("e0") is None
    assert await fresh.execution("open") is not None, "what has not ended is followed by another gateway"


async def test_result_ids_are_bounded_and_the_oldest_are_deleted(link: Link, clock: FakeClock) -> None:
    one = ledger(link, clock)
    one._results = 10
    for number in range(15):
        await one.record_result("s", number, 1)
        await one.sweep()
    seen = [number for number in range(15) if await ledger(link, clock).queries_of_result("s", number)]
    assert seen == list(range(5, 15))


async def test_a_result_is_known_as_soon_as_what_is_recorded_after_it(link: Link, clock: FakeClock) -> None:
    one = ledger(link, clock)
    await one.record_result("s", 7, 1, b"identity")
    await one.record_execution(execution(status=3, result_id=7))
    assert await ledger(link, clock).queries_of_result("s", 7) == {1: b"identity"}


async def test_an_execution_may_have_thousands_of_jobs(link: Link, clock: FakeClock) -> None:
    one = ledger(link, clock)
    for number in range(1_200):
        await one.record_job(job(f"j{number}"))
    assert len({found.id for found in await ledger(link, clock).jobs_of("e1")}) == 1_200


async def test_records_that_cannot_be_read_are_as_unknown(link: Link, clock: FakeClock) -> None:
    await link.command("SET", link.base + "x:e1", b"\xc1")
    await link.command("HSET", link.base + "j:j1", "v", b"\xc1")
    assert await ledger(link, clock).execution("e1") is None
    assert await ledger(link, clock).job("j1") is None


async def test_everything_expires_when_no_gateway_is_left(link: Link, clock: FakeClock) -> None:
    one = ledger(link, clock)
    await one.record_execution(execution())
    await one.record_job(job())
    await one.record_result("s", 7, 1)
    await one.sweep()
    for name in ("x:e1", "j:j1", "xj:e1"):
        assert 12 * HOUR < await link.command("TTL", link.base + name) <= 13 * HOUR


@pytest.fixture
async def apart(path: Path, clock: FakeClock) -> AsyncIterator[tuple[Link, RedisLedger, RedisLedger]]:
    """The ledgers of two gateways that lead the same run, and the link of the second, which is cut off from Redis."""
    async with opened(make_link(path, clock)) as one, opened(make_link(path, clock)) as two:
        ledgers = ledger(one, clock), ledger(two, clock)
        await ledgers[0].record_execution(execution(status=2, fence=5))
        await two.close()
        yield two, *ledgers


async def test_jobs_given_out_while_cut_off_have_the_end_that_their_gateway_saw(
    apart: tuple[Link, RedisLedger, RedisLedger],
) -> None:
    """The run has ended twice. Its other end may be too old for them, or that of a cancel by somebody else."""
    link, one, two = apart
    await one.record_job(job("theirs"))
    await one.record_execution(execution(status=4, fence=5, error="cancelled"))
    await two.record_job(job("ours"))
    await two.record_execution(execution(status=3, result_id=7))
    await link.open()
    run = (await one.job("ours")).execution_id
    assert (await one.execution(run)).result_id == 7
    assert await two.job("ours") == await one.job("ours")
    assert (await one.job("theirs")).execution_id == "e1"
    assert (await two.execution("e1")).error == "cancelled"


async def test_who_leads_alone_does_not_end_the_run_of_who_has_its_lease(
    apart: tuple[Link, RedisLedger, RedisLedger],
) -> None:
    link, one, two = apart
    await two.record_job(job("ours"))
    await two.record_execution(execution(status=3, result_id=7))
    await link.open()
    assert (await one.execution("e1")).status == 2
    assert (await one.execution((await one.job("ours")).execution_id)).result_id == 7


async def test_the_same_end_that_two_gateways_saw_is_one_end(apart: tuple[Link, RedisLedger, RedisLedger]) -> None:
    link, one, two = apart
    await one.record_execution(execution(status=3, fence=5, result_id=7))
    await two.record_job(job("ours", ask=UNASKED))
    await two.record_execution(execution(status=3, result_id=7, started_at=1_800_000_000.5))
    await link.open()
    ours = await one.job("ours")
    assert (ours.execution_id, ours.ask) == ("e1", 0), "it serves the job, of which nobody could be told"


async def test_an_end_that_this_gateway_records_serves_jobs_of_which_nobody_could_be_told(
    link: Link, clock: FakeClock
) -> None:
    one, other = ledger(link, clock), ledger(link, clock)
    await one.record_job(job("ours", ask=UNASKED))
    await other.record_job(job("theirs", ask=UNASKED))
    await one.record_execution(execution(status=2))
    assert (await other.job("ours")).ask == UNASKED
    await one.record_execution(execution(status=3))
    assert (await other.job("ours")).ask == 0
    assert (await other.job("theirs")).ask == UNASKED


async def test_a_cancel_that_comes_while_an_outage_is_made_up_for_stays(link: Link, clock: FakeClock) -> None:
    one = ledger(link, clock)
    await link.close()
    for number in range(AT_ONCE + 1):
        await one.record_job(job(f"j{number}"))
    last, call = f"j{AT_ONCE}", link.call
    asked = []

    async def cancelled_meanwhile(script: Script, *arguments: Any) -> Any:
        if script is RECORD_JOB and not asked:
            asked.append(arguments)
            await one.record_job(job(last, cancelled=True))
        return await call(script, *arguments)

    with mock.patch.object(link, "call", cancelled_meanwhile):
        await link.open()
    assert asked
    assert (await one.job(last)).cancelled


async def test_a_job_that_was_cancelled_elsewhere_stays_so_when_redis_is_emptied(
    link: Link, path: Path, clock: FakeClock
) -> None:
    """The gateway that gave it out writes what it remembers; it has heard of the DELETE."""
    async with opened(make_link(path, clock)) as other:
        one, two = ledger(link, clock), ledger(other, clock)
        await one.record_job(job())
        await two.record_job(job(cancelled=True))
        await RedisLeases(other, clock).announce("cancelled", "e1", "j1")
        await until(lambda: one._recent.get_job("j1") == job(cancelled=True))
        await link.close()
        await other.command("FLUSHALL")
        await link.open()
        assert (await ledger(other, clock).job("j1")).cancelled


async def test_what_was_done_elsewhere_with_a_job_meanwhile_stays(
    apart: tuple[Link, RedisLedger, RedisLedger],
) -> None:
    link, one, two = apart
    await link.open()
    await two.record_job(job("cancelled"))
    await two.record_job(job("moved"))
    await link.close()
    await one.record_job(job("cancelled", cancelled=True))
    await one.record_job(job("moved", execution_id="e2"))
    await one.record_execution(execution(status=3, fence=5, result_id=6))
    await two.record_execution(execution(status=3, result_id=7))
    await link.open()
    assert (await one.job("cancelled")).cancelled
    assert (await one.job("moved")).execution_id == "e2"


async def test_ends_that_differ_are_found_after_redis_was_emptied(
    apart: tuple[Link, RedisLedger, RedisLedger],
) -> None:
    link, one, two = apart
    await link.open()
    await two.record_job(job("ours"))
    await two.record_execution(execution(status=3, fence=5, result_id=7))
    await link.close()
    names = await one._link.command("KEYS", one._link.base + "*")
    await one._link.command("DEL", *names)
    await one.record_execution(execution(status=3, fence=6, result_id=6))
    await link.open()
    assert (await one.execution("e1")).result_id == 6
    assert (await one.execution((await one.job("ours")).execution_id)).result_id == 7
