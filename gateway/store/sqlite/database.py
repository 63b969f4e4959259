"""The one connection to the SQLite file: lock, opening, failure and recovery. Knows no table.

Every use goes through `run`. It turns every failure into `UnusableError`, which callers treat as "nothing stored".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar, cast

import aiosqlite

from gateway.concurrency.events import Event, wait_for
from gateway.errors import ConfigurationError, GatewayError, StoreError
from gateway.store.sqlite import ownership, schema
from gateway.store.sqlite.aside import set_aside
from gateway.store.sqlite.failures import GoneError, UnusableError, is_damage, is_full, operator_must_act
from gateway.store.sqlite.file_lock import FileIdentity, FileLock

T = TypeVar("T")

log = logging.getLogger(__name__)

LOCK_POLL_SECONDS = 0.02
"""Callers wait meanwhile, when one process follows another."""

RUN_SECONDS = 5.0
OPEN_SECONDS = 30.0
MAX_RETRY_SECONDS = 30.0

MOST_WAL_BYTES = 4 * 2**20
LEAST_WAL_BYTES = 64 * 2**10


class Database:
    """An aiosqlite connection, unusable while another process has the lock, the disk is full or the file is damaged."""

    def __init__(self, path: Path, disk_bytes: int, *, lock_wait_seconds: float, retry_seconds: float = 1.0) -> None:
        self.path = path
        self._wal_bytes = min(MOST_WAL_BYTES, max(LEAST_WAL_BYTES, disk_bytes // 64))
        self.usable = asyncio.Event()
        self.on_opened: list[Callable[[schema.Contents, bool], None]] = []  # bool: a new file replaces an unusable one
        self.on_full: Callable[[], Awaitable[None]] = _nothing
        """Called when the disk is full, before the file is tried again: to delete something."""
        self.probe: Callable[[], object] = int
        """Raises OSError if the disk does not work; before the file is tried again. Blocks on the disk."""
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._lock_wait = lock_wait_seconds
        self._retry = retry_seconds
        self._failures = 0
        self._again = Event()
        self._identity = FileIdentity(path)
        self._connection: aiosqlite.Connection | None = None
        self._raw: sqlite3.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether the file can be used now."""
        return self.usable.is_set()

    async def open(self) -> None:
        """Open the file; wait while another process has its lock. As `SqliteStore.open`."""
        try:
            await self._acquire_lock()
            await self._connect_or_recover()
        except OSError as error:
            self._lock.release()
            raise StoreError(f"cannot open the store {self.path}: {error.strerror or error}") from error
        except GatewayError:
            self._lock.release()
            raise

    async def close(self) -> None:
        """Mark the file as clean, stop the connection's thread, release the lock. May be called twice."""
        self._closed = True
        await self._end_task()
        if self.up:
            with contextlib.suppress(UnusableError):
                await self.run(lambda db: schema.mark_clean(db, clean=True))
        self.usable.clear()
        await self._end_task()  # the last run may have started a recovery
        if await self._disconnect():
            self._lock.release()

    async def run(self, work: Callable[[sqlite3.Connection], T], *, seconds: float = RUN_SECONDS) -> T:
        """Run `work` on the connection's thread, never interleaved with other work. Raises UnusableError."""
        if not self.up:
            raise UnusableError
        try:
            return await self.on_thread(work, seconds)
        except (sqlite3.Error, OSError) as error:
            self.report_failure(error)
            raise UnusableError from error

    def report_failure(self, error: Exception) -> None:
        """Stop using the file and start to recover."""
        if not self.up:
            return
        self.usable.clear()
        log.warning("the store %s is not usable, going on without it: %s", self.path, error)
        if not self._closed:
            # Without its traceback, which holds what the failed calls worked on: spools, whose files would stay.
            self._task = asyncio.create_task(self._recover(error.with_traceback(None)))

    async def check_file(self) -> None:
        """Look whether the file is still the one that is open."""
        if self.up and not await asyncio.to_thread(self._identity.holds):
            self.report_failure(GoneError("it was removed, or another file has taken its place"))

    def try_again(self) -> None:
        """Try at once whether the file is usable again; something has changed."""
        self._again.set()

    def report_success(self) -> None:
        """Writing works: the next failure starts with the shortest retry again."""
        self._failures = 0

    # -- opening

    async def _acquire_lock(self) -> None:
        """Take the lock; wait for it if another process has it.

        Raises:
            OSError: the lock's file cannot be made.
            StoreError: the time is up.
        """
        if self._lock.acquire():
            return
        log.info("%s is in use by process %s; waiting until it has stopped", self.path, self._lock.holder())
        try:
            async with asyncio.timeout(self._lock_wait):
                while not self._lock.acquire():  # noqa: ASYNC110 - another process sends no event
                    await asyncio.sleep(LOCK_POLL_SECONDS)
        except TimeoutError:
            why = f"process {self._lock.holder()} keeps it; stop it, or give this gateway its own file"
            raise StoreError(f"cannot open the store {self.path}: {why}") from None

    async def _connect_or_recover(self) -> None:
        try:
            await self._connect()
        except (sqlite3.Error, OSError) as error:
            if operator_must_act(error):
                raise StoreError(f"cannot open the store {self.path}: {error}") from error
            log.warning("the store %s is not usable, going on without it: %s", self.path, error)
            self._task = asyncio.create_task(self._recover(error))

    async def _connect(self, *, replaced: bool = False) -> None:
        try:
            opened = await self._connect_once()
        except schema.UnknownFormatError as error:
            await self._set_aside("old", f"was written by another version ({error})")
            opened, replaced = await self._connect_once(), True
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            await self._set_aside("damaged", f"is damaged ({error})")
            opened, replaced = await self._connect_once(), True
        self._is_open(opened, replaced)

    def _is_open(self, opened: schema.Contents, replaced: bool) -> None:
        for notify in self.on_opened:
            notify(opened, replaced)
        self.usable.set()

    async def _connect_once(self) -> schema.Contents:
        found: list[schema.Contents] = []

        def connector() -> sqlite3.Connection:
            self._raw, opened = schema.connect(self.path, self._wal_bytes)
            self._identity.note()
            found.append(opened)
            return self._raw

        connection = aiosqlite.Connection(connector, 64)
        connection._thread.daemon = True  # otherwise a thread with a hanging disk keeps the process from exiting
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                self._connection = await connection
        except TimeoutError:
            raise
        except Exception:
            await asyncio.to_thread(connection._thread.join, RUN_SECONDS)  # it still has a callback for this loop
            raise
        return found[0]

    async def on_thread(self, work: Callable[[sqlite3.Connection], T], seconds: float = RUN_SECONDS) -> T:
        """As `run`, but also while the file is unusable; for recovery. Raises sqlite3.Error and OSError."""
        connection, raw = self._connection, self._raw
        if connection is None or raw is None:
            raise sqlite3.ProgrammingError("not connected")
        async with asyncio.timeout(seconds):
            # aiosqlite's public calls run one statement each. All of the work in one thread hop is three times as
            # fast, and a cancelled caller cannot leave a transaction open.
            return cast(T, await connection._execute(work, raw))  # type: ignore[no-untyped-call]

    async def _disconnect(self) -> bool:
        connection, self._connection, self._raw = self._connection, None, None
        if connection is None:
            return True
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await connection.close()
        except (sqlite3.Error, OSError) as error:
            log.warning("the store %s was not closed properly: %s", self.path, error)
            return not isinstance(error, TimeoutError)
        return True

    # -- recovery

    async def _recover(self, error: Exception) -> None:
        replaced = False
        while True:
            try:
                if is_damage(error):
                    await self._disconnect()
                    await self._set_aside("damaged", f"is damaged ({error})")
                elif isinstance(error, GoneError):
                    await self._leave()
                    replaced = True
                else:
                    await self._wait(error)
                await self._reopen(replaced=replaced)
            except (sqlite3.Error, OSError, schema.UnknownFormatError, ConfigurationError) as again:
                if isinstance(again, ConfigurationError) and str(again) != str(error):  # not at every try
                    log.error("the store %s: %s", self.path, again)
                error = again.with_traceback(None)
            else:
                log.info("the store %s is usable again", self.path)
                return

    async def _wait(self, error: Exception) -> None:
        """Wait longer from time to time, until something may have changed; make room where the disk is full."""
        self._again = Event()
        await wait_for(self._again, min(MAX_RETRY_SECONDS, self._retry * 2**self._failures))
        self._failures = min(self._failures + 1, 10)
        if is_full(error):
            await self.on_full()

    async def _reopen(self, *, replaced: bool) -> None:
        await asyncio.to_thread(self.probe)
        if self._connection is None:
            await self._connect(replaced=replaced)
        else:
            await self.on_thread(lambda db: schema.mark_clean(db, clean=False), RUN_SECONDS)
            self.usable.set()

    async def _leave(self) -> None:
        """Give up the file that has no name any more, with what SQLite left beside it, and prepare for a new one."""
        await self._disconnect()
        await asyncio.to_thread(self._identity.remove_wal)
        if not self._lock.is_there():
            self._lock.release()
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._lock.acquire():
                raise GoneError(f"process {self._lock.holder()} has taken its place")

    async def _set_aside(self, label: Literal["old", "damaged"], why: str) -> None:
        ownership.refuse_foreign(self.path)  # another file may have taken the place of ours since it was opened
        name = await asyncio.to_thread(set_aside, self.path, label)
        log.warning("the store %s %s; it is renamed to %s and a new file is started", self.path, why, name)

    async def _end_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


async def _nothing() -> None:
    """Do nothing."""
