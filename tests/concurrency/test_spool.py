"""The file that a large response arrives in: what its readers may see of it, and that it is deleted."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import until

from gateway.concurrency.spool import HELD_BACK_BYTES, Spool
from gateway.errors import UpstreamError, UpstreamUnusable


@given(
    pieces=st.lists(st.binary(max_size=6_000), max_size=8),
    reads=st.lists(st.integers(1, 5_000), min_size=1, max_size=4),
    good=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_readers_see_a_beginning_or_all(pieces: list[bytes], reads: list[int], good: bool) -> None:
    """However writer and readers take turns: never other bytes, and never the end of an invalid response."""

    async def read(spool: Spool, step: int) -> bytes:
        got = b""
        while (there := await spool.follow(len(got))) > len(got):
            got += spool.read(len(got), min(step, there - len(got)))
        return got

    async def scenario(path: Path) -> None:
        spool = Spool(path, None)
        readers = [asyncio.create_task(read(spool, step)) for step in reads]
        for piece in pieces:
            await spool.append([piece])
            assert await spool.follow(-1) <= max(0, len(b"".join(pieces)) - HELD_BACK_BYTES)
        if good:
            spool.end()
            assert spool.size == len(b"".join(pieces))
        spool.fail()  # does nothing after the end
        for got in await asyncio.gather(*readers, return_exceptions=True):
            assert got == b"".join(pieces) if good else isinstance(got, UpstreamError)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scenario(Path(directory) / "spool"))


def test_a_spool_without_space_raises(tmp_path: Path) -> None:
    with pytest.raises(UpstreamUnusable, match="no room"):
        Spool(tmp_path / "missing" / "spool", None)


def test_a_spool_may_be_freed_while_the_executor_holds_its_locks(tmp_path: Path) -> None:
    """The collector may free it during `ThreadPoolExecutor.submit`, whose locks cannot be taken twice."""

    async def scenario() -> None:
        await asyncio.to_thread(int)
        spool = Spool(tmp_path / "spool", None)
        with concurrent.futures.thread._global_shutdown_lock:  # type: ignore[attr-defined]
            del spool
        await until(lambda: not (tmp_path / "spool").exists())

    asyncio.run(scenario())
