"""What the store takes on the disk: within its limit from the first byte on, and usable again after a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_helpers import (
    MB,
    FakeClock,
    bytes_of,
    entry,
    job,
    key,
    make_layered,
    make_memory,
    make_sqlite,
    opened,
    spooled,
)
from support.disks import fill, full_for_files, small_disk
from support.waiting import until

from gateway.body import Body
from gateway.concurrency.space import Space
from gateway.store.body_files import BodyFiles
from gateway.store.factory import remark
from gateway.store.sqlite.ledger import SqliteLedger
from gateway.store.sqlite.store import SqliteStore


def on_disk(path: Path) -> int:
    """All bytes of the store: the database, its WAL, and every file beside them."""
    sizes = {}
    for file in path.parent.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it has just been removed
            found = file.stat()
            sizes[found.st_ino] = 0 if file.is_dir() else found.st_size  # it may be renamed while we look
    return sum(sizes.values())


def files(store: SqliteStore) -> list[Path]:
    return [file for file in store.files.directory.iterdir() if file.suffix != ".own"]


async def test_all_bytes_are_within_the_limit_at_every_moment(path: Path, clock: FakeClock) -> None:
    """200 MB became 1,236 MB: responses in transit and discarded files did not count."""
    limit = 20 * MB
    most = 0
    rng = random.Random(7)
    async with opened(make_layered(path, clock, disk_bytes=limit, memory_bytes=MB)) as store:

        async def one(number: int) -> None:
            nonlocal most
            if number % 3:
                body = await spooled(store, bytes(rng.randrange(MB, 3 * MB)))
            else:
                body = Body.of(rng.randbytes(rng.randrange(200_000)))
            await store.put([key(number)], entry(number), body)
            most = max(most, on_disk(path))

        for number in range(0, 120, 4):
            clock.advance(1)
            await asyncio.gather(*(one(n) for n in range(number, number + 4)))
            most = max(most, on_disk(path))
            if number % 3:  # otherwise the next ones meet files that cannot be evicted yet
                await store.backing.flush()
        assert most <= limit
        assert store.stats()[1].bytes <= limit
        assert store.stats()[1].evictions > 0
        assert await bytes_of(store, 118) is not None, "the newest are there"
        assert abs(store.stats()[1].bytes - on_disk(path)) < MB, "and what the store counts is what is there"


async def test_a_lower_limit_holds_soon_after_the_start(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        for number in range(10):
            await store.put([key(number)], entry(number), await spooled(store, bytes(MB)))
            await store.put([key(-number)], entry(-number), Body.of(os.urandom(250_000)))
        await store.flush()
    assert on_disk(path) > 11 * MB
    async with opened(make_sqlite(path, clock, disk_bytes=4 * MB)) as store:
        await store.upkeep.checked()
        for _ in range(5):
            clock.advance(20)
            await store.sweep()
        assert on_disk(path) <= 4 * MB + 1000 * 4096, "but for pages that are kept for new rows"
        assert store.stats()[0].entries > 0


CRASHES = """
import asyncio, os, sys
from pathlib import Path
from gateway.model import SystemClock
from gateway.store.sqlite.store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), disk_bytes=2**30, max_entry_bytes=2**30, clock=SystemClock())
    await store.open()
    spools = [await store.begin_spool(None) for _ in range(4)]
    for spool in spools:
        await spool.append([bytes(2**19)])
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_files_of_processes_that_were_killed_are_swept_at_the_start(path: Path, clock: FakeClock) -> None:
    """A crash loop left 984 files. Their writers live no more, which shows at once, however young they are."""
    for _ in range(2):
        command = [sys.executable, "-c", CRASHES, str(path)]
        process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2])
        await process.wait()
    async with opened(make_sqlite(path, clock)) as store:
        await store.upkeep.checked()
        assert files(store) == []
        assert len(list(store.files.directory.iterdir())) == 1, "our own sign only"
        assert store.files.space.taken == 0


async def test_files_of_a_process_that_lives_are_not_swept(path: Path, clock: FakeClock) -> None:
    """It may still be sending what they hold, though it has left the lock to the next one."""
    other = BodyFiles(path.with_name(path.name + ".bodies"), clock, Space(MB))
    async with opened(make_sqlite(path, clock)) as store:
        other.make()
        left = other.create()
        os.utime(left.path, (0, 0))
        clock.advance(4_000)
        await store.sweep()
        assert left.path.exists()
        other.close()
        clock.advance(4_000)
        await store.sweep()
        assert not left.path.exists()


async def test_files_that_others_remove_make_room(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(1), await spooled(store, bytes(2 * MB)))
        await store.flush()
        for file in files(store):
            file.unlink()
        clock.advance(100)
        await store.sweep()
        assert store.files.space.taken == 0


async def test_a_body_over_the_entry_limit_evicts_nothing(path: Path, clock: FakeClock) -> None:
    """It takes what is free; what does not fit is not kept."""
    async with opened(make_sqlite(path, clock, disk_bytes=8 * MB, max_entry_bytes=2 * MB)) as store:
        for number in range(2):
            await store.put([key(number)], entry(number), await spooled(store, bytes(2 * MB)))
        await store.flush()
        body = await spooled(store, bytes(4 * MB))
        assert not body.is_kept
        assert store.stats()[0].evictions == 0
        del body
        bodies = [await spooled(store, bytes(2 * MB)) for _ in range(2)]
        assert [body.path is not None for body in bodies] == [True, True]
        assert store.stats()[0].evictions > 0, "smaller ones do"


async def test_a_database_that_was_set_aside_counts_and_makes_way(path: Path, clock: FakeClock) -> None:
    """The last one is kept for whoever wants to know what happened, as long as nobody needs its room."""
    async with opened(make_sqlite(path, clock, disk_bytes=8 * MB)) as store:
        for round_ in range(3):
            for number in range(12):
                await store.put([key(number)], entry(number), Body.of(os.urandom(250_000)))
            await store.flush()
            store.database.report_failure(sqlite3.DatabaseError(f"malformed {round_}"))
            await store.usable()
            assert len(list(path.parent.glob("gateway.db.damaged-*Z"))) == 1
        await store.sweep()
        assert list(path.parent.glob("gateway.db.damaged-*"))
        for number in range(20):
            await store.put([key(number)], entry(number), Body.of(os.urandom(250_000)))
            await store.flush()
            assert on_disk(path) <= 8 * MB
        assert not list(path.parent.glob("gateway.db.damaged-*"))
        assert await bytes_of(store, 19) is not None


# -- a full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 32 * MB) as place:
        yield place


async def test_a_full_disk_is_survived_and_used_again(
    disk: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.store")
    path = disk / "gateway.db"
    async with opened(make_layered(path, clock, disk_bytes=10**9)) as store:
        ledger = SqliteLedger(store.backing.database, store.backing.writer, clock)
        taken = fill(disk)
        body = await spooled(store, b"r" * MB)
        assert body.load() == b"r" * MB, "it is passed on"
        await store.put([key(1)], entry(1), body)
        await until(lambda: not store.ready)
        assert [tier.up for tier in store.stats()] == [True, False]
        await ledger.record_job(job())
        assert await ledger.job("j1") == job()
        taken.unlink()
        await store.backing.usable()
        body = await spooled(store, b"s" * MB)
        await store.put([key(2)], entry(2), body)
        await store.backing.flush()
        assert await bytes_of(store, 2) == b"s" * MB
        await until(lambda: not [file for file in files(store.backing) if file.suffix == ".tmp"])
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("gateway.store")]
    assert len([line for line in lines if "is not usable" in line]) == 1, lines
    assert len([line for line in lines if "usable again" in line]) == 1, lines
    async with opened(make_layered(path, clock, disk_bytes=10**9)) as store:
        assert await bytes_of(store, 2) == b"s" * MB
        assert await SqliteLedger(store.backing.database, store.backing.writer, clock).job("j1") == job()


async def test_a_store_that_fills_its_own_disk_leaves_a_reserve(disk: Path, clock: FakeClock) -> None:
    """`cache.disk` may be more than the disk has: the cache becomes smaller, and goes on working."""
    async with opened(make_layered(disk / "gateway.db", clock, disk_bytes=10**9)) as store:
        for number in range(60):
            clock.advance(6)
            await store.put([key(number)], entry(number), await spooled(store, bytes(MB)))
            await store.backing.flush()
            await store.backing.sweep()
            assert store.ready
        assert await bytes_of(store, 59) is not None
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize > MB


@pytest.mark.parametrize("what", [{}, {"query_id": 1}])
async def test_a_purge_on_a_full_disk_frees_it(disk: Path, clock: FakeClock, what: dict[str, Any]) -> None:
    async with opened(make_layered(disk / "gateway.db", clock, disk_bytes=10**9, retry_seconds=60)) as store:
        for number in range(5):
            await store.put([key(number)], entry(number), await spooled(store, bytes(MB)))
        await store.backing.flush()
        fill(disk)
        store.backing.database.report_failure(OSError(28, "No space left on device"))
        await store.delete(**what)
        assert files(store.backing) == []
        async with asyncio.timeout(5):
            await store.backing.usable()
        await store.backing.flush()
        assert store.stats()[1].entries == 0


async def test_the_least_recently_used_files_make_way_on_a_full_disk(disk: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(disk / "gateway.db", clock, disk_bytes=10**9)) as store:
        for number in range(12):
            clock.advance(1)
            await store.put([key(number)], entry(number), await spooled(store, bytes(MB)))
            await store.flush()
        fill(disk)
        store.database.report_failure(OSError(28, "No space left on device"))
        await store.usable()
        await store.flush()
        assert await bytes_of(store, 0) is None
        assert await bytes_of(store, 11) == bytes(MB)
        assert store.stats()[0].entries == len(files(store))


async def test_a_start_on_a_full_disk(disk: Path, clock: FakeClock) -> None:
    taken = fill(disk)
    async with opened(make_layered(disk / "gateway.db", clock)) as store:
        await store.put([key(1)], entry(1), Body.of(b"rows"))
        assert await bytes_of(store, 1) == b"rows"
        assert not store.ready
        taken.unlink()
        await store.backing.usable()


async def test_a_disk_that_is_full_for_files(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.store")
    """As above, where no file system can be mounted."""
    async with opened(make_layered(path, clock)) as store:
        with full_for_files(monkeypatch, after=300_000):
            for _ in range(3):
                body = await spooled(store, b"r" * 700_000)
                assert body.load() == b"r" * 700_000
                await store.put([key(1)], entry(1), Body.of(body.load()))
                await until(lambda: not store.ready)
            del body
            await until(lambda: not files(store.backing))
        await store.backing.usable()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("gateway.store")]
    assert [line.split(" is ")[1][:10] for line in lines] == ["not usable", "usable aga"], lines


async def test_temporary_files_have_a_bound_and_recover(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.store")
    monkeypatch.setattr("tempfile.tempdir", str(path.parent))
    async with opened(make_memory(path, clock, memory_bytes=4 * MB)) as store:
        for number in range(30):
            await store.put([key(number)], entry(number), await spooled(store, bytes(MB)))
            assert on_disk(path) <= 8 * MB
        with full_for_files(monkeypatch):
            for _ in range(2):
                assert (await spooled(store, b"r" * MB)).load() == b"r" * MB
            assert [tier.up for tier in store.stats()] == [False]
            await store.sweep()
            assert [tier.up for tier in store.stats()] == [False]
        await store.sweep()
        assert [tier.up for tier in store.stats()] == [True]
    assert list(path.parent.iterdir()) == []
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("gateway.store")]
    assert len(lines) == 2, lines


async def test_temporary_files_make_way_for_the_next_one(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file over half of the limit counts as half, so two of them may fit there, but not in the directory."""
    monkeypatch.setattr("tempfile.tempdir", str(path.parent))
    async with opened(make_memory(path, clock, memory_bytes=4 * MB, max_entry_bytes=8 * MB)) as store:
        for number, size in enumerate([6, 6, 5, 3, 1]):
            body = await spooled(store, bytes([number]) * (size * MB))
            assert body.path is not None
            await store.put([key(number)], entry(number), body)
            assert await bytes_of(store, number) == bytes([number]) * (size * MB)
        assert await store.get(key(0)) is None
        assert on_disk(path) <= 8 * MB


async def test_a_store_in_memory_needs_no_temporary_directory(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    async with opened(make_memory(path, clock)) as store:
        await store.put([key(1)], entry(1), Body.of(b"rows"))
        assert await bytes_of(store, 1) == b"rows"
        assert (await spooled(store, b"r" * MB)).load() == b"r" * MB
        assert [tier.up for tier in store.stats()] == [True]
    assert "no temporary directory" in caplog.text
    assert "no temporary directory" in (remark("memory:", MB, MB) or "")


async def test_temporary_directories_of_killed_processes_are_removed(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(path.parent))
    left, foreign = path.with_name("redash-gateway-0123"), path.with_name("redash-gateway-notes")
    for directory, name in ((left, "0123abcd-0.tmp"), (left, "0123abcd.own"), (foreign, "letter")):
        directory.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"left over")
        os.utime(directory, (0, 0))
    async with opened(make_memory(path, clock)), opened(make_memory(path, clock)):
        assert not left.exists()
        assert foreign.exists()
        assert len(list(path.parent.glob("redash-gateway-*"))) == 3
        for directory in path.parent.glob("redash-gateway-*"):
            os.utime(directory, (0, 0))
        async with opened(make_memory(path, clock)):
            assert len(list(path.parent.glob("redash-gateway-*"))) == 4, "those of living processes stay"


# -- files that are gone


def remove_database(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_database(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copyfile(path, other)
    other.rename(path)


@pytest.mark.parametrize("change", [remove_database, remove_all, replace_database])
async def test_a_database_that_is_gone_is_noticed_and_made_anew(
    tmp_path: Path, clock: FakeClock, change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It went on in a file without a name: nothing was said, and all was lost at the end."""
    path = tmp_path / "place" / "gateway.db"
    path.parent.mkdir()
    async with opened(make_layered(path, clock)) as store:
        await store.put([key(1)], entry(1), await spooled(store, b"r" * MB))
        await store.put([key(2)], entry(2), Body.of(b"rows"))
        await store.backing.flush()
        await store.backing.sweep()
        change(path)
        await store.backing.sweep()
        assert not store.ready
        await store.backing.usable()
        await store.put([key(3)], entry(3), await spooled(store, b"s" * MB))
        await store.put([key(4)], entry(4), Body.of(b"new"))
        await store.backing.flush()
        await store.backing.upkeep.checked()
        assert await bytes_of(store, 3) == b"s" * MB
        assert "removed" in caplog.text
    assert not path.with_name("gateway.db-wal").exists()
    async with opened(make_layered(path, clock)) as store:
        assert await bytes_of(store, 4) == b"new"
        assert await bytes_of(store, 3) == b"s" * MB
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING and "not usable" in r.getMessage()]) == 1
