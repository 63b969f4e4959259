"""The one connection to the SQLite file: lock, opening, failure and recovery. Knows no table.

Every use goes through `run`. It turns every failure into `UnusableError`, which callers treat as "nothing stored".
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast

import aiosqlite

from gateway.errors import ConfigurationError, GatewayError, StoreError
from gateway.store.sqlite import ownership, schema
from gateway.store.sqlite.file_lock import FileLock

T = TypeVar("T")

log = logging.getLogger(__name__)

LOCK_POLL_SECONDS = 0.1
RUN_SECONDS = 5.0
OPEN_SECONDS = 30.0
MAX_RETRY_SECONDS = 30.0

PERMANENT_ERRNOS = (errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS)
PERMANENT_SQLITE_CODES = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


class UnusableError(Exception):
    """The file cannot be used now."""


class Database:
    """An aiosqlite connection, unusable while another process has the lock, the disk is full or the file is damaged."""

    def __init__(self, path: Path, *, lock_wait_seconds: float, retry_seconds: float = 1.0) -> None:
        self.path = path
        self.usable = asyncio.Event()
        self.on_opened: list[Callable[[schema.Contents, bool], None]] = []  # bool: a new file replaces an unusable one
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._lock_wait = lock_wait_seconds
        self._retry = retry_seconds
        self._failures = 0
        self._connection: aiosqlite.Connection | None = None
        self._raw: sqlite3.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: StoreError | None = None
        self._failed = asyncio.Event()
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether the file can be used now."""
        return self.usable.is_set()

    async def open(self) -> None:
        """Open the file; if it is locked, return at once and wait in the background. As `SqliteStore.open`."""
        try:
            if not self._lock.acquire():
                log.info("%s is in use by process %s; waiting for it", self.path, self._lock.holder())
                self._task = asyncio.create_task(self._wait_for_lock())
                return
            await self._connect_or_recover()
        except OSError as error:
            self._lock.release()
            raise StoreError(f"cannot open the store {self.path}: {error.strerror or error}") from error
        except GatewayError:
            self._lock.release()
            raise

    async def failed(self) -> StoreError:
        """Return once it is certain that the file cannot be opened (locked past the deadline); never otherwise."""
        await self._failed.wait()
        assert self._failure is not None  # noqa: S101 - set before the event
        return self._failure

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
            self._task = asyncio.create_task(self._recover(error))

    def report_success(self) -> None:
        """Writing works: the next failure starts with the shortest retry again."""
        self._failures = 0

    # -- opening

    async def _wait_for_lock(self) -> None:
        try:
            async with asyncio.timeout(self._lock_wait):
                while not self._lock.acquire():  # noqa: ASYNC110 - another process sends no event
                    await asyncio.sleep(LOCK_POLL_SECONDS)
            await self._connect_or_recover()
        except TimeoutError:
            self._fail(f"process {self._lock.holder()} keeps it; stop it, or give this gateway its own file")
        except OSError as error:
            self._fail(str(error.strerror or error))
        except GatewayError as error:
            self._fail(error.detail)

    def _fail(self, why: str) -> None:
        self._failure = StoreError(f"cannot open the store {self.path}: {why}")
        self._failed.set()

    async def _connect_or_recover(self) -> None:
        try:
            await self._connect()
        except (sqlite3.Error, OSError) as error:
            if _operator_must_act(error):
                raise StoreError(f"cannot open the store {self.path}: {error}") from error
            log.warning("the store %s is not usable, going on without it: %s", self.path, error)
            self._task = asyncio.create_task(self._recover(error))

    async def _connect(self) -> None:
        replaced = False
        try:
            opened = await self._connect_once()
        except schema.UnknownFormatError as error:
            await self._set_aside("old", f"was written by another version ({error})")
            opened, replaced = await self._connect_once(), True
        except sqlite3.Error as error:
            if not schema.is_damage(error):
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
            self._raw, opened = schema.connect(self.path)
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
        for _ in itertools.count():
            try:
                if schema.is_damage(error):
                    await self._disconnect()
                    await self._set_aside("damaged", f"is damaged ({error})")
                else:
                    await asyncio.sleep(min(MAX_RETRY_SECONDS, self._retry * 2**self._failures))
                    self._failures = min(self._failures + 1, 10)
                await self._reopen()
            except (sqlite3.Error, OSError, schema.UnknownFormatError, ConfigurationError) as again:
                if isinstance(again, ConfigurationError) and str(again) != str(error):  # not at every try
                    log.error("the store %s: %s", self.path, again)
                error = again
            else:
                log.warning("the store %s is usable again", self.path)
                return

    async def _reopen(self) -> None:
        if self._connection is None:
            await self._connect()
        else:
            await self.on_thread(lambda db: schema.mark_clean(db, clean=False), RUN_SECONDS)
            self.usable.set()

    async def _set_aside(self, label: str, why: str) -> None:
        ownership.refuse_foreign(self.path)  # another file may have taken the place of ours since it was opened
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = self.path.with_name(f"{self.path.name}.{label}-{stamp}")
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
        log.warning("the store %s %s; it is renamed to %s and a new file is started", self.path, why, aside.name)

    async def _end_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _operator_must_act(error: Exception) -> bool:
    """Whether waiting cannot help (wrong path, no permission), as it could with a full or failing disk."""
    if isinstance(error, OSError):
        return error.errno in PERMANENT_ERRNOS
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in PERMANENT_SQLITE_CODES
