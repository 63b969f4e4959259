"""Locked by another process, disk full, I/O that fails: the store behaves like an empty one and recovers by itself."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from store_helpers import (
    MB,
    FakeClock,
    bytes_of,
    entry,
    job,
    key,
    make_layered,
    make_sqlite,
    opened,
    spooled,
)

from gateway.body import Body
from gateway.errors import StoreError
from gateway.model import SystemClock
from gateway.store.sqlite.ledger import SqliteLedger
from gateway.store.sqlite.write_buffer import WriteBuffer

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
os.pwrite(fd, str(os.getpid()).encode(), 0)
print("held", flush=True)
sys.stdin.read()
"""

OTHER_GATEWAY = """
import asyncio, sys
from pathlib import Path
from gateway.body import Body
from gateway.model import Entry, SystemClock
from gateway.store.sqlite.store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), disk_bytes=2**20, max_entry_bytes=2**20, clock=SystemClock())
    await store.open()
    entry = Entry(body_id=b"b" * 32, scope="s", query_id=1, result_id=1, form="full", born=0.0)
    await store.put([b"k" * 32], entry, Body.of(b"theirs"))
    await store.flush()
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(main())
"""


@contextmanager
def other_process(code: str, argument: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, str(argument)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


async def test_a_second_process_waits_for_the_first_and_has_what_that_wrote_last(path: Path, clock: FakeClock) -> None:
    # Until then it can know neither job ids nor results, so it does not pretend to be open.
    with other_process(OTHER_GATEWAY, path) as other:
        store = make_layered(path, SystemClock())
        opening = asyncio.create_task(store.open())
        assert not (await asyncio.wait({opening}, timeout=0.2))[0]
        assert not store.ready
        assert other.stdin is not None
        other.stdin.close()
        async with asyncio.timeout(5):
            await opening
        assert store.ready
        found = await store.get(b"k" * 32)
        assert found is not None
        assert (await store.read(found)).load() == b"theirs"
        await store.close()


async def test_a_process_that_waits_can_be_stopped(path: Path, clock: FakeClock) -> None:
    with other_process(HOLDER, path.with_name("gateway.db.lock")):
        store = make_layered(path, clock)
        opening = asyncio.create_task(store.open())
        assert not (await asyncio.wait({opening}, timeout=0.1))[0]
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(5):
            await store.close()


async def test_a_lock_that_is_never_released_fails(path: Path, clock: FakeClock) -> None:
    with other_process(HOLDER, path.with_name("gateway.db.lock")) as other:
        store = make_layered(path, clock, lock_wait_seconds=0.2)
        async with asyncio.timeout(5):
            with pytest.raises(StoreError, match=f"process {other.pid} keeps it"):
                await store.open()
        await store.close()


async def test_lock_of_a_killed_process_is_free(path: Path, clock: FakeClock) -> None:
    with other_process(OTHER_GATEWAY, path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        async with opened(make_sqlite(path, clock)) as store:
            assert store.ready
            assert not store.disk.contents.clean
            assert store.stats()[0].entries == 1


async def test_full_disk_means_empty_and_is_logged_once(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.store")
    async with opened(make_sqlite(path, clock, retry_seconds=0.02)) as store:
        ledger = SqliteLedger(store.database, store.writer, clock)
        pages = await store.database.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await store.database.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone())
        gone = asyncio.Event()
        trouble = store.database.report_failure
        store.database.report_failure = lambda error: (trouble(error), gone.set())  # type: ignore[method-assign]
        await store.put([key(1)], entry(1), Body.of(bytes(200_000)))
        await gone.wait()
        assert [tier.up for tier in store.stats()] == [False]
        assert await store.get(key("x")) is None
        await ledger.record_job(job())
        assert await ledger.job("j1") == job()
        await store.database.on_thread(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchone())
        await store.usable()
        await store.put([key(2)], entry(2), Body.of(bytes(200_000)))
        await store.flush()
        assert [tier.up for tier in store.stats()] == [True]
        assert await bytes_of(store, 2) == bytes(200_000)
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("gateway.store")]
    assert len(warnings) == 2, warnings
    async with opened(make_sqlite(path, clock)) as store:
        assert await SqliteLedger(store.database, store.writer, clock).job("j1") == job()


async def test_disk_too_full_for_a_large_body(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(make_sqlite(path, clock)) as store:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("gateway.store.body_files.os.fsync", full)
        await store.put([key(1)], entry(1), Body.of(bytes(MB)))
        await store._buffer.drained.wait()
        assert await store.get(key(1)) is None
        monkeypatch.undo()
        await store.usable()
        assert not list(store.files.directory.glob("*.tmp"))


async def test_delete_while_the_file_is_unusable_is_done_later(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(1), Body.of(b"rows"))
        await store.flush()
        store.database.report_failure(sqlite3.OperationalError("disk I/O error"))
        assert await store.delete(query_id=1) == 0
        await store.usable()
        assert await store.get(key(1)) is None
        await store.flush()
        assert store.stats()[0].entries == 0


async def test_process_ends_although_the_store_was_not_closed(path: Path) -> None:
    code = OTHER_GATEWAY.replace('print("held", flush=True)', "raise SystemExit(3)")
    command = [sys.executable, "-c", code, str(path)]
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(*command, cwd=root)
    async with asyncio.timeout(10):
        assert await process.wait() == 3


async def test_cancelled_callers_leave_no_transaction_open(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        ledger = SqliteLedger(store.database, store.writer, clock)
        callers = [asyncio.create_task(ledger.record_job(job(f"j{number}"))) for number in range(50)]
        await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        await asyncio.wait(callers)
        await store.flush()
        fresh = SqliteLedger(store.database, store.writer, clock)
        assert len(await fresh.jobs_of("e1")) == 50


@pytest.mark.parametrize("as_file", [True, False])
async def test_what_could_not_be_stored_leaves_no_older_result_as_the_newest(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, as_file: bool
) -> None:
    """Callers that accept any age would get the older one for as long as it counts as confirmed."""
    async with opened(make_layered(path, clock)) as store:
        await store.put([key(1)], entry("old"), await spooled(store, b"o" * MB) if as_file else Body.of(b"old"))
        await store.backing.flush()
        monkeypatch.setattr(WriteBuffer, "add", lambda self, put: False)
        body = await spooled(store, b"n" * MB) if as_file else Body.of(b"n" * 3 * MB)
        await store.put([key(1)], entry("new"), body)
        monkeypatch.undo()
        assert store.peek(key(1)) is None or store.peek(key(1)).confirmed == -math.inf
        found = await store.get(key(1))
        assert found is None or found.confirmed == -math.inf
        await store.backing.sweep()
    async with opened(make_layered(path, clock)) as store:
        found = await store.get(key(1))
        assert found is None or found.confirmed == -math.inf
