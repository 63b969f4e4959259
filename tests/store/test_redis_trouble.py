"""Redis is stopped, hung, emptied, restarted, full, slow, cut: nobody waits for it, nothing wrong is served."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from store_helpers import (
    MB,
    FakeClock,
    StandingTime,
    bytes_of,
    entry,
    execution,
    heard,
    job,
    key,
    make_memory,
    noise,
    opened,
)
from support.redis_server import Network, RedisServer
from support.waiting import until, within

from gateway.body import Body
from gateway.config import RedisAddress
from gateway.store.redis import link, silence
from gateway.store.redis.ledger import RedisLedger
from gateway.store.redis.link import Link
from gateway.store.redis.server import RedisOptions
from gateway.store.redis.sharing import RedisSharing
from gateway.store.redis.store import RedisStore

SILENT_SECONDS = 0.2
"""Instead of 45 ms: this machine may have other things to do, and Redis with it."""

A_MOMENT = SILENT_SECONDS + 0.3

NO_TIME = 0.02
ROWS = b"rows" * 100


@pytest.fixture
async def network(redis: RedisServer, tmp_path: Path) -> AsyncIterator[Network]:
    between = Network(tmp_path / "network", redis)
    await between.start()
    yield between
    between.resume()
    await between.kill()


@pytest.fixture
async def stack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncExitStack]:
    monkeypatch.setattr(silence, "SILENT_SECONDS", SILENT_SECONDS)
    async with AsyncExitStack() as opened_here:
        yield opened_here


async def gateway(stack: AsyncExitStack, server: RedisServer | Network, clock: FakeClock) -> RedisStore:
    address = RedisAddress(hosts=(("127.0.0.1", server.port),), tls=False)
    link = Link(RedisOptions(address=address), clock)
    link.time = StandingTime(clock)
    store = RedisStore(link, make_memory(Path(), clock), disk_bytes=16 * MB, max_entry_bytes=4 * MB, clock=clock)
    return await stack.enter_async_context(opened(store))


async def back(*stores: RedisStore) -> None:
    async with within(20):
        for store in stores:
            await store.usable()


async def seconds(waiting: Awaitable[Any]) -> float:
    began = time.monotonic()
    await waiting
    return time.monotonic() - began


async def test_a_hung_redis_delays_one_moment_only_and_is_used_again(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store = await gateway(stack, redis, clock)
    await store.put([key(1)], entry(), Body.of(ROWS))
    redis.pause()
    asked = [store.get(key(f"unknown {number}")) for number in range(200)]
    assert await seconds(asyncio.gather(*asked)) < A_MOMENT
    assert not store.ready
    assert await seconds(store.get(key("unknown"))) < NO_TIME
    assert await seconds(store.put([key(2)], entry(2), Body.of(ROWS))) < NO_TIME
    assert await seconds(store.delete(query_id=9)) < NO_TIME
    assert (await bytes_of(store, 1), await bytes_of(store, 2)) == (ROWS, ROWS), "memory serves alone"
    redis.resume()
    await back(store)
    await store.put([key(3)], entry(3), Body.of(ROWS))
    store._drop_memory()
    assert await bytes_of(store, 3) == ROWS
    assert await bytes_of(store, 1) == ROWS


async def test_a_redis_that_hangs_in_a_large_transfer_delays_one_moment_only(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store = await gateway(stack, redis, clock)
    await store.put([key(1)], entry(), Body.of(noise(2 * MB)))
    store._drop_memory()
    append = store._transfer._link.transfer

    async def hangs(commands: Any) -> Any:
        redis.pause()
        return await append(commands)

    store._transfer._link.transfer = hangs
    assert await seconds(store.get(key(1))) < A_MOMENT
    store._transfer._link.transfer = append
    redis.resume()
    await back(store)
    assert await bytes_of(store, 1) == noise(2 * MB)


async def test_a_stopped_redis_delays_nobody_and_comes_back_empty(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store, other = [await gateway(stack, redis, clock) for _ in range(2)]
    await store.put([key(1)], entry(1), Body.of(ROWS))
    await other.get(key(1))
    await redis.kill()
    assert await seconds(store.get(key("unknown"))) < A_MOMENT
    await store.put([key(2)], entry(2), Body.of(ROWS))
    assert (await bytes_of(store, 1), await bytes_of(store, 2)) == (ROWS, ROWS)
    await redis.start()
    await back(store, other)
    assert await other.get(key(1)) is None, "what Redis lacks, memory may not have instead: it may have been purged"
    await other.put([key(3)], entry(3), Body.of(ROWS))
    assert await bytes_of(store, 3) == ROWS


async def test_a_gateway_starts_without_redis(redis: RedisServer, stack: AsyncExitStack, clock: FakeClock) -> None:
    await redis.kill()
    store = await gateway(stack, redis, clock)
    await store.put([key(1)], entry(), Body.of(ROWS))
    assert await bytes_of(store, 1) == ROWS
    await redis.start()
    await back(store)
    await store.put([key(2)], entry(2), Body.of(ROWS))
    assert store.stats()[1].up


async def test_a_purge_that_a_restarted_redis_has_forgotten_still_holds(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    """Redis may start with a file that is older than the last purge."""
    store = await gateway(stack, redis, clock)
    await store.put([key(1)], entry(), Body.of(ROWS))
    await redis.ask("SAVE")
    await store.delete(query_id=1)
    await redis.kill()
    await redis.start()
    await back(store)
    assert await redis.ask("DBSIZE") != 0
    assert await store.get(key(1)) is None


async def test_an_emptied_redis_is_empty_for_all(redis: RedisServer, stack: AsyncExitStack, clock: FakeClock) -> None:
    store, other = [await gateway(stack, redis, clock) for _ in range(2)]
    await store.put([key(1)], entry(), Body.of(ROWS))
    await other.get(key(1))
    epoch = store.link.seen.epoch
    await redis.ask("FLUSHALL")
    await until(lambda: all(one.ready and one.link.seen.epoch != epoch for one in (store, other)))
    assert store.link.seen.epoch == other.link.seen.epoch
    assert other.peek(key(1)) is None
    assert await other.get(key(1)) is None
    await store.put([key(1)], entry(), Body.of(ROWS))
    assert await bytes_of(other, 1) == ROWS


async def test_a_clock_that_was_set_back_makes_everything_too_young(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store, other = [await gateway(stack, redis, clock) for _ in range(2)]
    await store.put([key(1)], entry(), Body.of(ROWS))
    epoch = store.link.seen.epoch
    await redis.ask("INCRBY", store.link.base + "time", "2000000")  # as if it had been later before
    await until(lambda: all(one.ready and one.link.seen.epoch != epoch for one in (store, other)))
    assert await store.get(key(1)) is None
    assert await other.get(key(1)) is None


async def test_a_slow_redis_is_given_up_and_found_again(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store = await gateway(stack, redis, clock)
    await redis.ask("CLIENT", "PAUSE", "600")
    assert await seconds(store.get(key("unknown"))) < A_MOMENT
    assert not store.ready
    await back(store)


async def test_nothing_is_lost_on_a_line_that_is_cut_and_mended(
    redis: RedisServer, network: Network, stack: AsyncExitStack, clock: FakeClock
) -> None:
    cut_off, other = await gateway(stack, network, clock), await gateway(stack, redis, clock)
    for name in range(4):
        await other.put([key(name)], entry(name, query_id=name), Body.of(b"old"))
        await heard(cut_off)
        assert await bytes_of(cut_off, name) == b"old"
    network.pause()
    await until(lambda: not cut_off.ready)
    await cut_off.delete(query_id=1)
    await cut_off.confirm(key(2), float("-inf"))
    await cut_off.put([key(3)], entry("new", query_id=3), Body.of(b"new"))
    await other.delete(query_id=0)
    assert await bytes_of(cut_off, 0) == b"old", "it cannot know"
    network.resume()
    await back(cut_off)
    assert await cut_off.get(key(0)) is None, "now it does"
    await until(lambda: other.peek(key(1)) is None)
    assert await other.get(key(1)) is None
    denied = [(await other.get(key(name))).confirmed for name in (2, 3)]
    assert denied == [float("-inf")] * 2, "its newer result is not in Redis, so the older one must be confirmed first"


async def test_a_write_by_a_gateway_that_is_cut_off_is_announced_later(
    redis: RedisServer, network: Network, stack: AsyncExitStack, clock: FakeClock
) -> None:
    """The others have heard everything else, and would show for a minute what was changed."""
    stores = [await gateway(stack, network, clock), await gateway(stack, redis, clock)]
    cut_off, other = (RedisSharing(store.link) for store in stores)
    dropped: list[str] = []
    other.on_write(lambda: dropped.append("other"))
    await network.kill()
    await until(lambda: not stores[0].ready)
    await cut_off.announce_write()
    assert dropped == []
    await network.start()
    await back(*stores)
    await until(lambda: dropped == ["other"])
    await cut_off.announce_write()
    await until(lambda: dropped == ["other"] * 2)


async def test_announcements_that_do_not_arrive_are_noticed(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store, other = [await gateway(stack, redis, clock) for _ in range(2)]
    await store.put([key(1)], entry(), Body.of(ROWS))
    await other.get(key(1))
    other.link._session._on_message = lambda _message: None  # as a line that is dead in one direction
    await store.put([key(1)], entry("new"), Body.of(b"new"))
    await until(lambda: other.peek(key(1)) is None)
    assert await bytes_of(other, 1) == b"new"
    await until(lambda: other.link.seen.number == store.link.seen.number)
    assert other.peek(key(1)) is None or other.peek(key(1)).body_id == entry("new").body_id


async def test_memory_stays_where_nothing_was_missed(
    redis: RedisServer, network: Network, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store = await gateway(stack, network, clock)
    await store.put([key(1)], entry(), Body.of(ROWS))
    await until(lambda: store.link.seen.number == 1)
    await network.kill()
    await until(lambda: not store.ready)
    await network.start()
    await back(store)
    assert store.peek(key(1)) is not None


async def test_a_full_redis_still_has_ledger_and_purges_and_makes_room_for_results(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store = await gateway(stack, redis, clock)
    ledger = RedisLedger(store.link, clock, limit_bytes=MB)
    for number in range(40):
        await store.put([key(number)], entry(number), Body.of(noise(100_000, number)))
    used = int(
        str(
            dict(line.split(":") for line in str(await redis.ask("INFO", "memory")).split() if ":" in line)[
                "used_memory"
            ]
        )
    )
    await redis.ask("CONFIG", "SET", "maxmemory", str(used + 100_000))
    for number in range(40, 60):
        await store.put([key(number)], entry(number), Body.of(noise(100_000, number)))
        await ledger.record_job(job(f"j{number}"))
        await ledger.record_execution(execution(f"e{number}"))
    assert store.ready
    store._drop_memory()
    assert await bytes_of(store, 59) == noise(100_000, 59)
    assert store.stats()[1].evictions > 0
    fresh = RedisLedger(store.link, clock, limit_bytes=MB)
    assert len(await fresh.unfinished()) == 20
    await redis.ask("CONFIG", "SET", "maxmemory", "1")
    assert await store.delete() > 0
    assert await store.get(key(59)) is None


async def test_what_the_ledger_could_not_write_is_there_when_redis_is_back(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    store, other = [await gateway(stack, redis, clock) for _ in range(2)]
    ledger, others = [RedisLedger(one.link, clock, limit_bytes=MB) for one in (store, other)]
    await ledger.record_execution(execution("before"))
    await ledger.record_job(job("before"))
    await redis.kill()
    await until(lambda: not store.ready)
    await ledger.record_execution(execution("during", status=2, started_at=clock.wall() + 1))
    await ledger.record_job(job("during", execution_id="during"))
    await ledger.record_result("s", 7, 1)
    assert (await ledger.job("during")).execution_id == "during"
    assert [found.id for found in await ledger.unfinished()] == ["before", "during"]
    await redis.start()
    await back(store, other)
    await ledger.sweep()
    assert [(await others.job(name)).id for name in ("before", "during")] == ["before", "during"]
    assert [found.id for found in await others.unfinished()] == ["before", "during"]
    assert await others.queries_of_result("s", 7) == {1: b""}


async def test_a_hiccup_of_redis_hides_no_job_of_another_gateway(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    """What only Redis knows is worth a second; after that, and for what memory knows, nobody waits any more."""
    stores = [await gateway(stack, redis, clock) for _ in range(2)]
    one, two = [RedisLedger(store.link, clock, limit_bytes=MB) for store in stores]
    await one.record_execution(execution())
    await one.record_job(job())
    await one.record_result("s", 7, 1)
    await one.sweep()
    redis.pause()
    reads = [asyncio.create_task(read) for read in (two.job("j1"), two.execution("e1"), two.queries_of_result("s", 7))]
    await until(lambda: not stores[1].ready)
    reads.append(asyncio.create_task(two.job("j1")))
    assert await seconds(one.job("j1")) < A_MOMENT
    redis.resume()
    assert [found is not None and found != {} for found in await asyncio.gather(*reads)] == [True] * len(reads)
    redis.pause()
    await until(lambda: not any(store.ready for store in stores))
    stores[1].link.settled_at = time.monotonic()
    assert await seconds(two.job("j2")) < NO_TIME
    redis.resume()


async def test_an_emptied_redis_hides_no_job_that_another_gateway_is_about_to_write(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock
) -> None:
    stores = [await gateway(stack, redis, clock) for _ in range(2)]
    one, two = [RedisLedger(store.link, clock, limit_bytes=MB) for store in stores]
    await one.record_job(job())
    lock = asyncio.Lock()
    stores[0].link.on_up.insert(0, lock.acquire)
    await lock.acquire()
    await redis.ask("FLUSHALL")
    await until(lambda: stores[1].link.losses == 1 and stores[1].ready)
    asked = asyncio.create_task(two.job("j1"))
    await asyncio.sleep(0)
    lock.release()
    assert await asked is not None


@pytest.mark.parametrize("name", ["seq", "time", "peers", "bytes"])
async def test_keys_that_no_gateway_has_written_fill_no_log(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    store = await gateway(stack, redis, clock)
    await redis.ask("SET", store.link.base + name, "x")
    with mock.patch("gateway.store.background.PAUSE_SECONDS", 0.01), mock.patch.object(link, "BEAT_SECONDS", 0.01):
        await asyncio.sleep(0.7)
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.exc_info for record in lines] == [None] * (name != "bytes")
    assert [record for record in lines if "or choose another redis.prefix" not in record.getMessage()] == []


async def test_one_line_in_the_log_for_each_change(
    redis: RedisServer, stack: AsyncExitStack, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = await gateway(stack, redis, clock)
    await redis.kill()
    await until(lambda: not store.ready)
    for _ in range(3):
        store.link._wake.set()
        await asyncio.sleep(0)
    await redis.start()
    await back(store)
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.store.redis.reports"]
    assert len(lines) == 2, lines
    assert "is not usable, this gateway works alone: " in lines[0]
    assert lines[1].endswith("is usable again")
