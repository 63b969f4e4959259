"""Waiting for what only another thread, task or process decides, and nothing announces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(ready: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Wait until it holds; where there is an event, await that instead. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
