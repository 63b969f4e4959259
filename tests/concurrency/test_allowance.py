"""Memory for large objects: never more than the limit, in turn, and given back whatever becomes of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import until

from gateway.concurrency.allowance import Allowance, Share
from gateway.errors import ServiceUnavailable

Steps = list[tuple[int, int, bool]]


@given(
    steps=st.lists(st.tuples(st.integers(1, 120), st.integers(0, 3), st.booleans()), max_size=30),
    limit=st.integers(1, 100),
)
@settings(max_examples=60, deadline=None)
def test_no_more_than_the_limit_is_ever_taken(steps: Steps, limit: int) -> None:
    """Whoever leaves while it waits, or drops its bytes without a word, takes nothing from the others."""

    async def user(allowance: Allowance, count: int, pauses: int, most: list[int]) -> None:
        share = await allowance.take(count, 60)
        try:
            most.append(allowance.taken)
            for _ in range(pauses):
                await asyncio.sleep(0)
            share.shrink(min(count, limit) // 2)
            await asyncio.sleep(0)
        finally:
            del share  # otherwise the error of a cancelled task holds it

    async def scenario() -> None:
        allowance, most = Allowance(limit), [0]
        tasks = []
        for count, pauses, leaves in steps:
            tasks.append(asyncio.create_task(user(allowance, count, pauses, most)))
            await asyncio.sleep(0)
            if leaves:
                tasks[-1].cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()
        assert max(most) <= limit
        await until(lambda: allowance.taken == 0)

    asyncio.run(scenario())


async def test_a_large_share_is_not_passed_by_small_ones() -> None:
    allowance = Allowance(100)
    first: Share | None = await allowance.take(60, 1)
    large = asyncio.create_task(allowance.take(80, 10))
    await asyncio.sleep(0)
    small = asyncio.create_task(allowance.take(10, 10))
    await asyncio.sleep(0.01)
    assert first is not None
    assert not small.done(), "it would fit, but came later"
    first = None
    async with asyncio.timeout(5):
        await large
        await small


async def test_who_waits_too_long_gets_503() -> None:
    allowance = Allowance(100)
    held = await allowance.take(100, 1)
    with pytest.raises(ServiceUnavailable, match=r"cache\.memory"):
        await allowance.take(1, 0.01)
    del held
    await until(lambda: allowance.taken == 0)
    assert await allowance.take(100, 1)
