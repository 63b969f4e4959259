"""A large response in transit: what its readers may see, whatever room there is, and that its bytes are given back."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import until

from gateway.concurrency import spool as spools
from gateway.concurrency.space import Space
from gateway.concurrency.spool import HELD_BACK_BYTES, Spool
from gateway.concurrency.spool_file import SpoolFile, Window
from gateway.errors import UpstreamError, UpstreamUnusable


class Disk:
    """A directory whose disk has room for so many bytes: `limit` by agreement, `size` in fact."""

    def __init__(self, directory: Path, *, limit: float = math.inf, size: float = math.inf) -> None:
        self.directory = directory
        self.space = Space(0)
        self.space.limit = 10**12 if limit == math.inf else int(limit)
        self.size = size

    async def create(self) -> SpoolFile | None:
        path = self.directory / "spool"
        return None if self.size == 0 else SpoolFile(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), path, self.space)

    async def append(self, file: SpoolFile, size: int, pieces: list[bytes]) -> bool:
        count = sum(map(len, pieces))
        if not file.take(count):
            return False
        file.write(pieces, size)
        return size + count <= self.size


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


async def read(spool: Spool, step: int) -> bytes:
    """Read all of it, as a caller does."""
    got = b""
    with spool.reading() as reader:
        there = await reader.follow(0)
        while there > len(got):
            got += reader.read(len(got), min(step, there - len(got)))
            if len(got) == there:
                there = await reader.follow(there)
            await asyncio.sleep(0)
    return got


@contextmanager
def small_windows(size: int = 8_000) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Window, "LEAST_BYTES", size)
        patch.setattr(spools, "FIRST_READERS_SECONDS", 0.01)
        patch.setattr(spools, "TICK_SECONDS", 0.001)
        yield


@given(
    pieces=st.lists(st.binary(max_size=6_000), max_size=12),
    reads=st.lists(st.integers(1, 5_000), min_size=1, max_size=4),
    good=st.booleans(),
    limit=st.sampled_from([0, 5_000, 20_000, math.inf]),
    size=st.sampled_from([0, 3_000, math.inf]),
)
@settings(max_examples=150, deadline=None)
def test_readers_see_a_beginning_or_all(
    pieces: list[bytes], reads: list[int], good: bool, limit: float, size: float
) -> None:
    """However writer and readers take turns: never other bytes, and never the end of an invalid response."""

    async def scenario(disk: Disk) -> None:
        memory = Space(0)
        spool = await Spool.begin(disk, memory, None)
        readers = [asyncio.create_task(read(spool, step)) for step in reads]
        for piece in pieces:
            await spool.append([piece[:3_000], piece[3_000:]])
            assert await spool.follow(-1) <= max(0, len(b"".join(pieces)) - HELD_BACK_BYTES)
        whole = b"".join(pieces)
        body = await spool.body()
        assert body.size == len(whole)
        assert not body.is_kept or body.load() == whole
        assert body.ends(100, 4_096) == (whole[:100], whole[max(0, len(whole) - 4_096) :])
        if good:
            spool.end()
            assert spool.size == len(whole)
        spool.fail()  # does nothing after the end
        for got in await asyncio.gather(*readers, return_exceptions=True):
            assert got == whole if good else isinstance(got, UpstreamError)
        del spool, readers, body
        await until(lambda: memory.used == disk.space.used == 0)

    with tempfile.TemporaryDirectory() as directory, small_windows():
        asyncio.run(scenario(Disk(Path(directory), limit=limit, size=size)))


async def test_a_response_without_end_takes_a_bounded_room(disk: Disk) -> None:
    """It grew at 25 MB/s past every bound. Its readers still get it, at their own pace."""
    disk.space.limit = 100_000
    memory = Space(0)
    with small_windows(50_000):
        spool = await Spool.begin(disk, memory, None)
        readers = [asyncio.create_task(read(spool, step)) for step in (3_000, 40_000)]
        for number in range(200):
            await spool.append([bytes([number]) * 10_000])
            assert disk.space.used <= 100_000
            assert memory.used <= 50_000
        with pytest.raises(UpstreamUnusable, match="larger than the gateway can keep"):
            await spool.follow(0)
        spool.end()
        with pytest.raises(UpstreamUnusable):  # as HTTP/1.0, which waits for all of it
            await spool.follow(math.inf)
        for got in await asyncio.gather(*readers):
            assert got == b"".join(bytes([number]) * 10_000 for number in range(200))


async def test_a_reader_that_stands_still_holds_up_nobody_for_long(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "SLOW_SECONDS", 0.05)
    disk.space.limit = 0
    with small_windows(50_000):
        spool = await Spool.begin(disk, Space(0), None)
        with spool.reading() as still:
            other = asyncio.create_task(read(spool, 1_000))
            for number in range(20):
                await spool.append([bytes([number]) * 10_000])
            spool.end()
            assert len(await other) == 200_000
            with pytest.raises(TimeoutError):
                still.read(0, 1)
            with pytest.raises(TimeoutError):
                await still.follow(0)


async def test_a_response_that_is_too_large_and_that_nobody_reads_is_given_up(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would hold a connection to Redash for a quarter of an hour."""
    monkeypatch.setattr(spools, "UNREAD_SECONDS", 0.0)
    disk.space.limit = 0
    with small_windows(50_000):
        spool = await Spool.begin(disk, Space(0), None)
        for _ in range(5):
            await spool.append([bytes(10_000)])
        with pytest.raises(UpstreamUnusable, match=r"cache\.max_entry"):
            await spool.append([bytes(10_000)])


async def test_windows_share_their_memory(disk: Disk) -> None:
    """Each may take its least; more only as long as all together are within the limit."""
    disk.space.limit = 0
    memory = Space(100_000)
    with small_windows(50_000):
        first, second, third = [await Spool.begin(disk, memory, None) for _ in range(3)]
        for spool in (first, second, third):
            for _ in range(9):
                await spool.append([bytes(10_000)])
        assert [spool.is_whole for spool in (first, second, third)] == [True, False, False]
        assert memory.used == 190_000
        first.fail()
        assert memory.used == 100_000


def test_a_spool_may_be_freed_while_the_executor_holds_its_locks(tmp_path: Path) -> None:
    """The collector may free it during `ThreadPoolExecutor.submit`, whose locks cannot be taken twice."""

    async def scenario() -> None:
        await asyncio.to_thread(int)
        spool = await Spool.begin(Disk(tmp_path), Space(0), None)
        with concurrent.futures.thread._global_shutdown_lock:  # type: ignore[attr-defined]
            del spool
        await until(lambda: not (tmp_path / "spool").exists())

    asyncio.run(scenario())
