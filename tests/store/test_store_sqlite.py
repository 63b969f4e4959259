"""The SQLite store over restarts, kills and damage, and the files beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from store_helpers import MB, FakeClock, bytes_of, entry, job, key, make_layered, make_sqlite, opened, spooled
from support.waiting import until

from gateway.body import Body
from gateway.errors import StoreError
from gateway.model import Entry, ExecutionRecord, JobRecord
from gateway.store.redis import scripts
from gateway.store.sqlite import schema
from gateway.store.sqlite.ledger import SqliteLedger


async def fill(store: Any) -> None:
    await store.put([key("blob")], entry("blob"), Body.of(b"rows"))
    await store.put([key("large")], entry("large"), Body.of(b"l" * MB))
    await store.put([key("file")], entry("file"), await spooled(store, b"f" * MB))
    await store.flush()


NAMES = ("blob", "large", "file")


def row_files(path: Path) -> list[Path]:
    return sorted(file for file in path.with_name(path.name + ".bodies").iterdir() if file.suffix != ".own")


async def test_restart_keeps_everything(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
        await store.confirm(key("blob"), 4_900.0)
        before = store.stats()[0]
    async with opened(make_sqlite(path, clock)) as store:
        assert [len(await bytes_of(store, name)) for name in NAMES] == [4, MB, MB]
        assert (await store.get(key("blob"))).confirmed == 4_900.0
        await store.upkeep.checked()
        after = store.stats()[0]
        assert (after.entries, after.up) == (before.entries, before.up)
        assert 2 * MB < after.bytes < 3 * MB


async def test_close_writes_what_is_pending(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(), Body.of(b"rows"))
    async with opened(make_sqlite(path, clock)) as store:
        assert await bytes_of(store, 1) == b"rows"


async def test_ages_continue_over_a_restart_with_another_monotonic_clock(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(born=clock.monotonic() - 10), Body.of(b"rows"))
    later = FakeClock(wall=clock.wall() + 100, monotonic=3.0)
    async with opened(make_sqlite(path, later)) as store:
        found = await store.get(key(1))
        assert found.age(later.monotonic()) == pytest.approx(110)


async def test_entries_from_the_future_are_absent(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(), Body.of(b"rows"))
        await store.flush()
        clock.set_wall(clock.wall() - 5)
        assert await store.get(key(1)) is None
        clock.set_wall(clock.wall() + 5)
        assert await store.get(key(1)) is not None


def copied(path: Path, to: Path) -> Path:
    """The files as a kill -9 leaves them."""
    shutil.copytree(path.parent, to, ignore=shutil.ignore_patterns("*.lock", to.name))
    return to / path.name


def spoil(path: Path) -> None:
    """Overwrite half of every page but the first few."""
    with path.open("r+b") as file:
        for page in range(8, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 2_000)


async def test_kill_keeps_what_was_written_and_checks_the_file(path: Path, clock: FakeClock, tmp_path: Path) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
        ledger = SqliteLedger(store.database, store.writer, clock)
        await ledger.record_job(job())
        killed = copied(path, tmp_path / "killed")
    store = make_sqlite(killed, clock)
    async with opened(store):
        assert not store.disk.contents.clean
        await store.upkeep.checked()
        assert store.ready
        assert [len(await bytes_of(store, name)) for name in NAMES] == [4, MB, MB]
        assert await SqliteLedger(store.database, store.writer, clock).job("j1") == job()
    async with opened(make_sqlite(killed, clock)) as store:
        assert store.disk.contents.clean


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, b"\xff" * 50_000])
async def test_damaged_file_is_renamed_aside(
    path: Path, clock: FakeClock, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(make_sqlite(path, clock)):
        pass
    header = (await asyncio.to_thread(path.read_bytes))[:100]  # without it, the file would not be known as ours
    await asyncio.to_thread(path.write_bytes, header + damage)
    async with opened(make_sqlite(path, clock)) as store:
        assert store.ready
        await store.put([key(1)], entry(), Body.of(b"rows"))
        await store.flush()
        assert await bytes_of(store, 1) == b"rows"
    assert len(list(path.parent.glob("gateway.db.damaged-*"))) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


async def test_damage_found_later_starts_a_new_file(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        for number in range(300):
            await store.put([key(number)], entry(number), Body.of(bytes(2_000)))
    spoil(path)
    async with opened(make_sqlite(path, clock)) as store:
        found = [await store.get(key(number)) for number in range(300)]
        assert None in found
        await store.usable()
        await store.put([key("new")], entry("new"), Body.of(b"new"))
        await store.flush()
        assert await bytes_of(store, "new") == b"new"
        assert store.stats()[0].entries == 1
    assert list(path.parent.glob("gateway.db.damaged-*"))


async def test_check_after_an_unclean_stop_finds_damage(path: Path, clock: FakeClock) -> None:
    store = make_sqlite(path, clock)
    async with opened(store):
        await fill(store)
    db = sqlite3.connect(path)
    db.execute("UPDATE meta SET value = '0' WHERE name = 'clean'")
    db.execute("PRAGMA writable_schema = 1")
    db.execute("UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'jobs_noted')"
               " WHERE name = 'jobs_execution'")  # fmt: skip
    db.commit()
    db.close()
    store = make_sqlite(path, clock)
    async with opened(store):
        await store.upkeep.checked()
        await until(lambda: list(path.parent.glob("gateway.db.damaged-*")))
        await store.usable()
        assert store.stats()[0].entries == 0


@pytest.mark.parametrize("version", list(schema.VERSIONS))
async def test_other_versions_are_renamed_aside(path: Path, clock: FakeClock, version: str) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
    db = sqlite3.connect(path)
    db.execute("UPDATE meta SET value = 'other' WHERE name = ?", (version,))
    db.commit()
    db.close()
    async with opened(make_sqlite(path, clock)) as store:
        assert await store.get(key("blob")) is None
        assert store.stats()[0].entries == 0
    assert len(list(path.parent.glob("gateway.db.old-*"))) == 1


def test_entry_version_is_raised_when_fields_change() -> None:
    """When this fails, raise schema.VERSIONS["entry"] and scripts.FORMAT, and write the new fields here."""
    kinds = (Entry, JobRecord, ExecutionRecord)
    names = {kind.__name__: " ".join(field.name for field in msgspec.structs.fields(kind)) for kind in kinds}
    assert (schema.VERSIONS["entry"], scripts.FORMAT) == ("6", 3)
    assert names == {
        "Entry": "body_id scope query_id result_id form marker query_hash data_source_id retrieved_at runtime"
        " born confirmed size",
        "JobRecord": "id execution_id client scope query_id noted_at cancelled token_sha256 not_before ask"
        " fallback fell_back",
        "ExecutionRecord": "id key scope credential query_id path body marker started_at upstream_job status error"
        " result_id purged fence abandoned unavailable follow_up served heard",
    }


@pytest.mark.parametrize("damage", ["shorter", "gone"])
async def test_an_entry_without_its_file_is_not_found(path: Path, clock: FakeClock, damage: str) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
        for file in row_files(path):
            if damage == "gone":
                file.unlink()
            else:
                os.truncate(file, 1000)
        assert [await bytes_of(store, name) for name in NAMES] == [b"rows", None, None]
        await store.flush()
        assert store.stats()[0].entries == 1


async def test_a_blob_that_does_not_match_its_digest_is_deleted(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
        await store.database.run(lambda db: db.execute("UPDATE bodies SET data = x'00112233' WHERE file IS NULL"))
        assert await bytes_of(store, "blob") is None
        await store.flush()
        assert await store.get(key("blob")) is None


async def test_a_spool_file_of_the_wrong_length_is_not_stored(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        body = msgspec.structs.replace(await spooled(store, bytes(1000)), size=2000)
        await store.put([key(1)], entry(), body)
        await store.flush()
        assert await store.get(key(1)) is None


async def test_orphans_are_swept(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
        known = row_files(path)
    orphans = [known[0].with_name(name) for name in ("aa.01234567-0", "01234567-0.tmp", "89abcdef-0.tmp")]
    for orphan in orphans:
        orphan.write_bytes(b"left over")
    for old in (*known, *orphans[:2]):
        os.utime(old, (time.time() - 3600,) * 2)
    async with opened(make_sqlite(path, clock)) as store:
        await store.upkeep.checked()
        clock.advance(11)
        await store.sweep()
        assert row_files(path) == sorted([*known, orphans[2]])


async def test_delete_cancels_queued_writes(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        for number in range(200):
            await store.put([key(number)], entry(number, query_id=number % 2), Body.of(bytes(50_000)))
        assert await store.delete(query_id=0) == 100
    async with opened(make_sqlite(path, clock)) as store:
        left = [number for number in range(200) if await store.get(key(number))]
        assert left == list(range(1, 200, 2))


async def test_writes_over_the_limit_of_the_buffer_are_dropped_and_counted(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock, memory_bytes=16 * MB)) as store:
        for number in range(50):
            await store.put([key(number)], entry(number), Body.of(bytes(200_000)))
        assert store.dropped == 50 - 4 * MB // 201_024


async def test_a_value_that_sqlite_cannot_store_harms_nothing_else(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        ledger = SqliteLedger(store.database, store.writer, clock)
        await asyncio.gather(ledger.record_job(job("bad", client="\ud800")), ledger.record_job(job("good")))
        await store.put([key("bad")], entry("bad", retrieved_at="\ud800"), Body.of(b"rows"))
        await store.put([key("good")], entry("good"), Body.of(b"rows"))
        await store.flush()
        assert store.stats()[0].entries == 1
        assert store.ready
        assert await SqliteLedger(store.database, store.writer, clock).job("good") == job("good")


async def test_a_missing_spool_file_is_not_the_disks_fault(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(1), Body(size=5, path=store.files.directory / "0123abcd-0.tmp"))
        await store.put([key(2)], entry(2), await spooled(store, b"there"))
        await asyncio.to_thread(lambda: [file.unlink() for file in row_files(path)])
        await store.flush()
        assert store.ready
        assert await store.get(key(1)) is None
        assert await store.get(key(2)) is None


async def test_what_memory_has_used_recently_is_evicted_last(path: Path, clock: FakeClock) -> None:
    async with opened(make_layered(path, clock, disk_bytes=MB, memory_bytes=16 * MB)) as layered:
        await layered.put([key("hot")], entry("hot"), Body.of(bytes(90_000)))
        for number in range(30):
            clock.advance(1)
            await layered.put([key(number)], entry(number), await spooled(layered, bytes(90_000)))
            await layered.backing.flush()
        assert layered.stats()[1].bytes <= MB
        assert layered.peek(key("hot")) is not None


async def test_missing_directory_raises_a_store_error(tmp_path: Path, clock: FakeClock) -> None:
    store = make_sqlite(tmp_path / "nowhere" / "gateway.db", clock)
    with pytest.raises(StoreError, match="nowhere"):
        await store.open()
    await store.close()


async def test_files_are_readable_by_this_user_only(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
        assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}


async def test_files_of_before_are_closed_to_others(path: Path, clock: FakeClock) -> None:
    """They may have been made under another umask, or unpacked from a backup."""
    async with opened(make_sqlite(path, clock)) as store:
        await fill(store)
    for file in path.parent.iterdir():
        file.chmod(0o777 if file.is_dir() else 0o666)
    async with opened(make_sqlite(path, clock)):
        modes = {file.name: file.stat().st_mode & 0o077 for file in path.parent.iterdir()}
        assert modes == dict.fromkeys(modes, 0)
