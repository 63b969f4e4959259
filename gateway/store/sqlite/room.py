"""How much the store takes on the disk, and what is deleted where that is too much."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from gateway.model import Clock
from gateway.store.body_files import BodyFiles
from gateway.store.sqlite import aside, encoding, rows, schema
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.disk import DiskTier
from gateway.store.sqlite.failures import UnusableError
from gateway.store.sqlite.write_buffer import PendingPut

log = logging.getLogger(__name__)

HEADROOM = 0.05
"""Share of the limit that is kept free for responses in transit and for discarded files; an eviction frees as much
again, so that not every write has to evict."""

FREED_BYTES = 8 * 2**20
"""So much is deleted at least when the disk is full."""

ROOM_SECONDS = 5.0
"""How long a response in transit may wait for others to be evicted."""

CANDIDATES = 1000
SPARING_ROUNDS = 20

LOG_SHARE = 8
MOST_LOG_BYTES = 8 * 2**20
"""What is kept free for the WAL: it grows with each transaction, and shrinks afterwards."""

RESERVE_SHARE = 0.05
MOST_RESERVE_BYTES = 64 * 2**20
"""What is left free on the disk: a twentieth of it, at most this. The store needs it to delete something."""


class Room:
    """Evicts what was not used for the longest time. The files count in their `space`, the database is measured."""

    def __init__(self, database: Database, files: BodyFiles, disk: DiskTier, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._disk = disk
        self._clock = clock
        self._space = files.space
        self._limit = self._space.limit
        self._for_log = min(MOST_LOG_BYTES, self._limit // LOG_SHARE)
        self._log_bytes = 0
        self._free = 0  # bytes of the database that are free for new rows
        self._aside_bytes = 0  # of a damaged database, which is kept as long as its room is not needed
        self._reserved = 0  # for what is being written
        self.database_bytes = 0
        self._evicting = asyncio.Lock()
        database.on_full = self.free

    async def make_room(self, count: int = 0) -> None:
        """Evict the least recently used bodies until there is room for `count` more bytes, or nothing to evict."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOM_SECONDS), self._evicting:
                await self.measure()
                if self._excess(count, HEADROOM) > 0:
                    await self.adapt()
                if self._excess(count, HEADROOM) > 0 and self._aside_bytes:
                    await self._remove_aside()
                if self._excess(count, HEADROOM) > 0:
                    await self._evict(count)
                if not self._space.fits(count):  # no time for the grace period
                    await self._files.empty_trash(at_once=True)
                if not self._space.fits(count):
                    await self._shorten(count)

    async def _remove_aside(self) -> None:
        await asyncio.to_thread(aside.remove, self._database.path)
        log.warning("a database that had been set aside beside %s is deleted for its room", self._database.path)
        self._aside_bytes = 0
        await self.measure()

    @asynccontextmanager
    async def reserved(self, puts: list[PendingPut]) -> AsyncIterator[set[PendingPut]]:
        """Make room for what is about to be written, and count it meanwhile; gives those for which there is none."""
        await self.make_room(self._needed(puts))
        written, given_up = list(puts), set[PendingPut]()
        for put in puts:
            if put.body.data is not None and not self._space.fits(self._needed(written)):
                given_up.add(put)
                written.remove(put)
        count = self._needed(written)
        self._reserved += count
        self._space.beside += count
        try:
            yield given_up
        finally:
            self._reserved -= count
            self._space.beside -= count

    def _needed(self, puts: list[PendingPut]) -> int:
        """Return the bytes that puts will take more: large bodies become files, the others rows in the WAL and then in
        the file.
        """
        in_files = sum(put.size for put in puts if put.size > encoding.BLOB_BYTES)
        in_rows = sum(put.size for put in puts if put.size <= encoding.BLOB_BYTES)
        in_log = max(0, self._log_bytes + in_rows - max(self._log_bytes, self._for_log))
        return in_files + in_log + max(0, in_rows - self._free)

    async def _shorten(self, count: int) -> None:
        """Make the database shorter, if it has free pages, until there is room for `count` more bytes."""
        with contextlib.suppress(UnusableError):
            while self._free > 0 and not self._space.fits(count) and await self._database.run(schema.give_back):
                await self.measure()
            await self.measure()

    async def free(self) -> None:
        """Unlink discarded files at once, and the least recently used ones: the disk is full."""
        await self._files.empty_trash(at_once=True)
        try:
            await self._unlink(await self._database.on_thread(self._oldest_files))
            await self._database.on_thread(schema.empty_wal)
        except (sqlite3.Error, OSError) as error:
            log.info("nothing could be deleted on the full disk: %s", error)

    def _oldest_files(self, db: sqlite3.Connection) -> dict[bytes, str]:
        wanted = max(FREED_BYTES, self._space.limit * HEADROOM)
        found = {}
        for body_id, name, size in rows.files_by_use(db):
            if wanted <= 0:
                break
            if self._files.find(name) is not None:  # its row may be left from the last time
                found[body_id] = name
                wanted -= size
        return found

    async def unlink_all(self, scope: str | None, query_id: int | None) -> None:
        """Unlink the files of that scope and query (None: of all) while the database cannot be written."""
        with contextlib.suppress(sqlite3.Error, OSError):
            await self._unlink(await self._database.on_thread(partial(rows.files_of, scope=scope, query_id=query_id)))
        await self._files.empty_trash(at_once=True)

    async def _unlink(self, files: dict[bytes, str]) -> None:
        """Unlink files now, and delete their rows as soon as that is possible."""
        for body_id in files:
            self._disk.on_drop(body_id)
        await asyncio.to_thread(self._files.unlink, [self._files.directory / name for name in files.values()])
        if files:
            self._disk.delete(*files, evicted=True)

    async def measure(self) -> None:
        """Take note of what the database takes on the disk."""
        with contextlib.suppress(UnusableError):
            work = partial(schema.size, path=self._database.path)
            rows_bytes, self._log_bytes, self._free = await self._database.run(work)
            self.database_bytes = rows_bytes + self._log_bytes
            self._space.beside = rows_bytes + max(self._log_bytes, self._for_log) + self._aside_bytes + self._reserved

    async def adapt(self) -> None:
        """Let the limit be no more than what the disk has room for, with a reserve."""
        space = self._space
        try:
            found = await asyncio.to_thread(os.statvfs, self._files.directory)
            self._aside_bytes = await asyncio.to_thread(aside.size, self._database.path)
        except OSError:
            return
        reserve = min(MOST_RESERVE_BYTES, int(found.f_blocks * found.f_frsize * RESERVE_SHARE))
        room = space.taken + self.database_bytes + self._aside_bytes + found.f_bavail * found.f_frsize - reserve
        before, space.limit = space.limit, max(0, min(self._limit, room))
        if space.limit < self._limit <= before:
            log.warning("the disk of %s has less room than cache.disk allows", self._files.directory)

    def _excess(self, count: int, headroom: float) -> float:
        """Return how many bytes must be evicted so that there is room for `count` more, and headroom."""
        soon_free = self._files.trash_bytes + self._free
        return self._space.used - soon_free + count - self._space.limit * (1 - headroom)

    async def _evict(self, count: int) -> None:
        for sparing in range(SPARING_ROUNDS, -1, -1):
            spared, victims = await self._victims(self._excess(count, 2 * HEADROOM), spare=sparing > 0)
            if spared:
                self._disk.update_times({}, dict.fromkeys(spared, self._clock.wall()), then=lambda _: None)
            if victims:
                await self._disk.delete(*victims, evicted=True)
                await self.measure()
            if self._excess(count, HEADROOM) <= 0 or not (spared or victims):
                return

    async def _victims(self, excess: float, *, spare: bool) -> tuple[list[bytes], list[bytes]]:
        try:
            candidates = await self._database.run(partial(rows.oldest, count=CANDIDATES))
        except UnusableError:
            return [], []
        spared: list[bytes] = []
        victims: list[bytes] = []
        for body_id, size in candidates:
            if excess <= 0:
                break
            if spare and self._disk.is_recent(body_id):
                spared.append(body_id)
            else:
                victims.append(body_id)
                excess -= size
        return spared, victims
