"""Waiting for what nothing announces, and bounds of time that hold on a busy machine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

TICK_SECONDS = 0.01


async def until(ready: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Wait until it holds; where there is an event, await that instead. Raises TimeoutError."""
    async with within(timeout):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS / 2)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError if the block takes longer, by the ticks of this event loop.

    A machine with too much to do delays the ticks as it delays the block; what only waits gets no more time.
    """
    async with asyncio.timeout(None) as limit:
        counting = asyncio.create_task(_count(limit, seconds))
        try:
            yield
        finally:
            counting.cancel()


async def _count(limit: asyncio.Timeout, seconds: float) -> None:
    for _ in range(math.ceil(seconds / TICK_SECONDS)):
        await asyncio.sleep(TICK_SECONDS)
    limit.reschedule(asyncio.get_running_loop().time())
