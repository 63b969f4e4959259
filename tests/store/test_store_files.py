"""Files of large bodies: verified by their digest when they are read first, and recognised afterwards."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from store_helpers import MB, FakeClock, bytes_of, entry, key, make_layered, make_sqlite, opened, spooled

from gateway.body import Body
from gateway.store import verification
from gateway.store.sqlite.store import SqliteStore

ROWS = bytes(range(256)) * (MB // 256)


async def fill(store: SqliteStore) -> Path:
    """Store one body from a spool file; return its file."""
    await store.put([key(1)], entry(), await spooled(store, ROWS))
    await store.flush()
    return next(file for file in store.files.directory.iterdir() if file.stat().st_size == MB)


def flip_a_bit(file: Path) -> None:
    with file.open("r+b") as opened_file:
        opened_file.seek(MB // 2)
        opened_file.write(b"\xff")


def quietly(change: Callable[[Path], None], file: Path) -> None:
    """Change the file and put its time back, as a disk does that loses a bit."""
    before = file.stat()
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def shorten(file: Path) -> None:
    os.truncate(file, MB - 1)


def replace(file: Path) -> None:
    """Put another file of the same length in its place, as a careless restore does."""
    other = file.with_name("other")
    other.write_bytes(bytes(MB))
    other.rename(file)


def remove(file: Path) -> None:
    file.unlink()


CHANGES = [flip_a_bit, shorten, replace, remove]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_was_changed_between_two_processes_is_a_miss(
    path: Path, clock: FakeClock, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        file = await fill(store)
    if change is remove:
        remove(file)
    else:
        quietly(change, file)
    async with opened(make_layered(path, clock)) as store:
        assert [await bytes_of(store, 1) for _ in range(3)] == [None] * 3
        await store.backing.flush()
        assert store.backing.stats()[0].entries == 0
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1, lines
    assert file.name in lines[0]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layered", [True, False], ids=["in memory", "not in memory"])
async def test_a_file_that_changes_while_the_process_uses_it_is_a_miss(
    path: Path, clock: FakeClock, change: Callable[[Path], None], layered: bool
) -> None:
    async with opened((make_layered if layered else make_sqlite)(path, clock)) as store:
        backing = store.backing if layered else store
        await store.put([key(1)], entry(), await spooled(store, ROWS))
        await backing.flush()
        assert await bytes_of(store, 1) == ROWS
        (file,) = backing.files.directory.glob("*-*[0-9]")
        found = await store.get(key(1))
        change(file)
        assert not layered or not store.holds(key(1), found)
        assert not layered or store.peek(key(1)) is None
        assert await bytes_of(store, 1) is None
        await store.put([key(1)], entry(), await spooled(store, ROWS))
        await backing.flush()
        assert await bytes_of(store, 1) == ROWS


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_changes_before_its_row_is_written_is_a_miss(
    path: Path, clock: FakeClock, change: Callable[[Path], None]
) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        body = await store.put([key(1)], entry(), await spooled(store, ROWS))
        assert body.path is not None
        change(body.path)
        assert await bytes_of(store, 1) is None
        await store.flush()
        assert await bytes_of(store, 1) is None


async def test_a_body_that_was_opened_in_time_is_the_one_that_was_stored(path: Path, clock: FakeClock) -> None:
    """What a look-up returned is opened later; by then the file may be another one."""
    async with opened(make_layered(path, clock)) as store:
        body = await store.put([key(1)], entry(), await spooled(store, ROWS))
        assert body.path is not None
        shorten(body.path)
        with pytest.raises(OSError, match="has changed"):
            body.load()
        with pytest.raises(OSError, match="has changed"):
            list(body.pieces(MB))


async def test_a_file_is_hashed_once_in_a_process(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counted(body: Body) -> bytes:
        assert body.path is not None
        hashed.append(body.path)
        return hash_of(body)

    hash_of = verification.hash_of
    monkeypatch.setattr(verification, "hash_of", counted)
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
        assert await bytes_of(store, 1) == ROWS
        assert hashed == [], "it was hashed when it was written"
    async with opened(make_sqlite(path, clock)) as store:
        for _ in range(3):
            assert await bytes_of(store, 1) == ROWS
        assert len(hashed) == 1
        os.utime(hashed[0])  # a backup program, or `touch`: other time, same bytes
        assert await bytes_of(store, 1) == ROWS
        assert len(hashed) == 2


async def test_a_large_blob_that_became_a_file_is_not_hashed_again(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(), Body.of(ROWS))
        await store.flush()
        monkeypatch.setattr(verification, "hash_of", lambda _: b"other")
        assert await bytes_of(store, 1) == ROWS


async def test_callers_that_come_together_cause_one_hash(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
    hashed: list[Body] = []
    hash_of = verification.hash_of
    monkeypatch.setattr(verification, "hash_of", lambda body: (hashed.append(body), hash_of(body))[1])
    async with opened(make_sqlite(path, clock)) as store:
        assert await asyncio.gather(*(bytes_of(store, 1) for _ in range(20))) == [ROWS] * 20
        assert len(hashed) == 1


async def test_a_missing_directory_is_noticed_and_made_anew(path: Path, clock: FakeClock) -> None:
    async with opened(make_layered(path, clock)) as store:
        await store.put([key(1)], entry(1), await spooled(store, ROWS))
        await store.backing.flush()
        shutil.rmtree(store.backing.files.directory)
        assert await bytes_of(store, 1) is None
        await store.put([key(2)], entry(2), Body.of(ROWS))
        await store.backing.flush()
        assert await bytes_of(store, 2) == ROWS
        assert store.ready
    async with opened(make_layered(path, clock)) as store:
        assert await bytes_of(store, 2) == ROWS
