"""Rates that gateways share, on a real Redis: what all get together, and what is left in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from support.redis_server import RedisServer
from support.waiting import until

from gateway.concurrency.leased_bucket import PORTIONS, LeasedBucket
from gateway.config.redis_url import redis_address
from gateway.model import SystemClock
from gateway.store.redis.link import Link
from gateway.store.redis.rates import RedisTokens
from gateway.store.redis.server import RedisOptions


@asynccontextmanager
async def links(redis: RedisServer, count: int = 3) -> AsyncIterator[list[Link]]:
    """Connected, and each knows of the others."""
    options = [RedisOptions(address=redis_address(redis.url), name=f"gateway-{n}") for n in range(count)]
    opened = [Link(one, SystemClock()) for one in options]
    async with AsyncExitStack() as stack:
        for link in opened:
            await link.open()
            stack.push_async_callback(link.close)
        await until(lambda: all(len(link.peers()) == count for link in opened))
        yield opened


def bucket(link: Link, rate: float, burst: float) -> LeasedBucket:
    return LeasedBucket("client", rate, burst, RedisTokens(link), time.monotonic)


async def use(bucket: LeasedBucket) -> bool:
    now = time.monotonic()
    return bucket.take(now) or (bucket.may_fetch(now) and await bucket.fetch())


async def uses(bucket: LeasedBucket, count: int) -> int:
    return (await asyncio.gather(*(use(bucket) for _ in range(count)))).count(True)


async def test_three_gateways_together_allow_what_one_would(redis: RedisServer) -> None:
    """In any time, burst + rate x time, and a portion for each gateway (docs/several-machines.md)."""
    rate, burst = 100.0, 40
    async with links(redis) as opened:
        buckets = [bucket(link, rate, burst) for link in opened]
        began, taken = time.monotonic(), 0
        while time.monotonic() < began + 0.7:
            taken += sum(await asyncio.gather(*(uses(one, 20) for one in buckets)))
            await asyncio.sleep(0.005)
        passed = time.monotonic() - began
    portions = 3 * max(1, burst // (PORTIONS * 3))
    assert burst + rate * 0.3 < taken <= burst + rate * passed + portions


async def test_a_gateway_that_has_just_come_counts_the_others(redis: RedisServer) -> None:
    """Otherwise it would take a portion as large as if it were alone."""
    async with links(redis, 2):
        late = Link(RedisOptions(address=redis_address(redis.url), name="late"), SystemClock())
        await late.open()
        assert late.gateways == 3
        await late.close()


async def test_a_client_of_one_gateway_gets_the_whole_burst(redis: RedisServer) -> None:
    async with links(redis) as opened:
        assert await uses(bucket(opened[0], 0.01, 40), 60) == 40
        assert await uses(bucket(opened[1], 0.01, 40), 60) == 0


async def test_without_redis_each_has_its_part_and_the_rest_is_not_given_twice(redis: RedisServer) -> None:
    async with links(redis) as opened:
        buckets = [bucket(link, 0.01, 60) for link in opened]
        assert await uses(buckets[0], 30) == 30
        await redis.kill()
        await until(lambda: not any(link.up for link in opened))
        alone = [await uses(one, 60) for one in buckets]
        assert alone == [5 + 25 // 3, 20, 20]  # the first had a portion of 5, and knew of 25 more; the others of 60
        await redis.start()  # empty
        await until(lambda: all(link.up for link in opened))
        assert sum([await uses(one, 60) for one in buckets]) <= 1  # three times what was left of a token


@pytest.mark.parametrize(("rate", "burst"), [(1 / 86400, 2.0**53), (1e9, 1.0), (1 / 86400, 1.0), (1e9, 2.0**53)])
async def test_the_largest_and_the_smallest_rates(redis: RedisServer, rate: float, burst: float) -> None:
    async with links(redis, 1) as (link,):
        assert await uses(bucket(link, rate, burst), 1) == 1
        (name,) = [key for key in await keys(redis) if ":r:" in key]
        assert 0 < int(str(await redis.ask("PTTL", name))) <= 10**12


async def test_a_bucket_that_is_full_again_is_forgotten(redis: RedisServer) -> None:
    async with links(redis, 1) as (link,):
        await uses(bucket(link, 1000.0, 4), 4)
        (name,) = [key for key in await keys(redis) if ":r:" in key]
        assert 0 < int(str(await redis.ask("PTTL", name))) <= 1010


async def keys(redis: RedisServer) -> list[str]:
    found = await redis.ask("KEYS", "redash-gateway:*")
    assert isinstance(found, list)
    return [str(one) for one in found]
