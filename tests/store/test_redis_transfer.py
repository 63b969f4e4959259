"""Large bodies come from Redis a few pieces at a time, and the next ones while some are unpacked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from store_helpers import MB, FakeClock, make_memory, noise

from gateway.body import Body
from gateway.concurrency.spool import Spool
from gateway.store.memory import MemoryStore
from gateway.store.redis.pieces import PIECE_BYTES, DamagedError
from gateway.store.redis.transfer import AT_ONCE, Transfer
from gateway.store.redis.wire import Command

BATCHES = 3


class DictLink:
    """In place of Redis; counts how often pieces were asked for."""

    origin = base = "x"

    def __init__(self) -> None:
        self.values: dict[object, object] = {}
        self.asked = 0
        self.asks = asyncio.Condition()

    async def transfer(self, commands: Sequence[Command]) -> list[Any]:
        if commands[0][0] == "SET":
            self.values.update((command[1], command[2]) for command in commands)
            return [b"OK"] * len(commands)
        async with self.asks:
            self.asked += 1
            self.asks.notify_all()
        return [self.values.get(command[1]) for command in commands]


@pytest.fixture
async def memory(tmp_path: Path, clock: FakeClock) -> AsyncIterator[MemoryStore]:
    store = make_memory(tmp_path, clock)
    await store.open()
    yield store
    await store.close()


async def test_the_next_pieces_come_while_some_are_unpacked_and_no_more(memory: MemoryStore) -> None:
    """Otherwise a hit waits for the network and for the processor in turns; more would need more memory."""
    link, append, seen = DictLink(), Spool.append, []

    async def slow(spool: Spool, batch: list[bytes]) -> int:
        async with link.asks, asyncio.timeout(5):
            await link.asks.wait_for(lambda: link.asked >= min(len(seen) + 2, BATCHES))
        await asyncio.sleep(0)
        seen.append(link.asked)
        return await append(spool, batch)

    transfer = Transfer(link, memory.begin_spool)  # type: ignore[arg-type]
    data = noise(BATCHES * AT_ONCE * PIECE_BYTES)
    stored = await transfer.upload(Body.of(data))
    with mock.patch.object(Spool, "append", slow):
        body = await transfer.download(stored)
    assert body.load() == data
    assert seen == [2, 3, 3]


async def test_a_download_that_fails_leaves_nothing_under_way(memory: MemoryStore) -> None:
    link = DictLink()
    transfer = Transfer(link, memory.begin_spool)  # type: ignore[arg-type]
    stored = await transfer.upload(Body.of(noise(2 * MB + BATCHES * AT_ONCE)))
    link.values[next(iter(link.values))] = b"\x01nothing that can be unpacked"
    tasks = asyncio.all_tasks()
    with pytest.raises(DamagedError):
        await transfer.download(stored)
    assert asyncio.all_tasks() == tasks
