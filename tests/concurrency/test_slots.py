"""Slots say what takes them."""

from __future__ import annotations

import asyncio

import pytest

from gateway.concurrency.slots import FairSlots
from gateway.errors import ServiceUnavailable


@pytest.mark.parametrize(
    ("queue", "text"), [(10, "no slot became free within upstream.queue_timeout"), (0, "the queue is full")]
)
async def test_an_error_names_who_is_busy(queue: int, text: str) -> None:
    """Not always Redash: large forms wait for each other, too."""
    slots = FairSlots(1, timeout=0.01, queue=queue, busy="The gateway is busy with other forms")
    await slots.acquire("a")
    with pytest.raises(ServiceUnavailable, match=f"The gateway is busy with other forms.*{text}"):
        async with asyncio.timeout(5):
            await slots.acquire("b")
