"""Work without a waiting caller: it is committed in order, together with awaited work, and before a flush ends."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from store_helpers import FakeClock, make_sqlite, opened

from gateway.store.sqlite import writer as module
from gateway.store.sqlite.writer import DURABLE, Writer


@pytest.fixture
async def writer(path: Path, clock: FakeClock) -> AsyncIterator[Writer]:
    async with opened(make_sqlite(path, clock)) as store:
        yield store.writer


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 3600.0)


def noting(seen: list[int], number: int) -> Callable[[sqlite3.Connection], bool]:
    def work(_: sqlite3.Connection) -> bool:
        seen.append(number)
        return True

    return work


@pytest.mark.usefixtures("never")
async def test_work_without_a_caller_is_committed_with_awaited_work(writer: Writer) -> None:
    seen: list[int] = []
    for number in range(3):
        writer.submit(noting(seen, number), priority=DURABLE, awaited=False)
    await writer.submit(noting(seen, 3), priority=DURABLE)
    assert seen == [0, 1, 2, 3]


@pytest.mark.usefixtures("never")
async def test_a_flush_does_not_wait_for_the_timer(writer: Writer) -> None:
    seen: list[int] = []
    writer.submit(noting(seen, 1), awaited=False)
    async with asyncio.timeout(5):
        await writer.flushed()
    assert seen == [1]


async def test_work_without_a_caller_is_committed_after_a_while(writer: Writer) -> None:
    async with asyncio.timeout(5):
        assert await writer.submit(noting([], 1), awaited=False) is True


@pytest.mark.usefixtures("never")
async def test_closing_gives_up_queued_work(writer: Writer) -> None:
    seen: list[int] = []
    done = writer.submit(noting(seen, 1), awaited=False)
    await writer.close()
    assert await done is None
    assert seen == []
