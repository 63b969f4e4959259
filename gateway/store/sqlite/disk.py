"""What lies on the disk: rows and files together, their total, its bound and their housekeeping."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from gateway.model import Body, Clock, Entry, Key
from gateway.store.body_files import BodyFiles
from gateway.store.sqlite import encoding, rows, schema
from gateway.store.sqlite.bloom import BloomFilter
from gateway.store.sqlite.database import Database, UnusableError
from gateway.store.sqlite.write_buffer import PendingPut
from gateway.store.sqlite.writer import Writer

log = logging.getLogger(__name__)

ROOM = 0.05
"""Share of the bound that is freed at once, so that not every write has to make room."""

CANDIDATES = 1000
SPARING_ROUNDS = 20
CHECK_SECONDS = 60.0
KEYS_AT_ONCE = 1000
ORPHANS_EVERY_SECONDS = 3600.0

Written = list[tuple[PendingPut, rows.NewRow | None]]
"""None: not to be written, but older entries under its keys are to go."""


class DiskTier:
    """Rows and files. `held` are the totals of what is committed."""

    def __init__(self, database: Database, writer: Writer, files: BodyFiles, limit_bytes: int, clock: Clock) -> None:
        self.held = schema.Opened(0, 0, 0, clean=True)
        self.evictions = 0
        self.on_drop: Callable[[bytes | None], None] = lambda body_id: None
        self.is_recent: Callable[[bytes], bool] = lambda body_id: False
        self._database = database
        self._writer = writer
        self._files = files
        self._limit = limit_bytes
        self._clock = clock
        self._after_open: asyncio.Task[None] | None = None
        self._keys = BloomFilter()
        self._orphans_at = clock.monotonic() + ORPHANS_EVERY_SECONDS
        database.on_opened.append(self._opened)

    async def close(self) -> None:
        """Stop what checks the file in the background."""
        if self._after_open is not None:
            self._after_open.cancel()
            await asyncio.wait({self._after_open})

    async def looked_over(self) -> None:
        """Wait until what is done after opening is done."""
        if self._after_open is not None:
            await asyncio.wait({self._after_open})

    # -- reading

    async def get(self, key: Key) -> Entry | None:
        """Return the committed entry under `key`; drops it when its body is lost."""
        if not self._keys.may_contain(key):
            return None
        try:
            found = await self._database.run(partial(self._find, key, self._clock.wall()))
        except UnusableError:
            return None
        if found is None:
            return None
        entry = encoding.decode_entry(found, self._clock) if found.data_size == found.size else None
        if entry is None:
            self.drop(found.body_id)
        return entry

    def _find(self, key: Key, now: float, db: sqlite3.Connection) -> rows.EntryRow | None:
        found = rows.find(db, key, now)
        if found is not None and found.file is not None:
            return msgspec.structs.replace(found, data_size=self._files.size(found.file))
        return found

    async def read(self, body_id: bytes) -> Body | None:
        """Return a committed body; drops it when it does not match its length and digest."""
        try:
            found, body = await self._database.run(partial(self._load, body_id))
        except UnusableError:
            return None
        if found and body is None:
            self.drop(body_id)
        return body

    def _load(self, body_id: bytes, db: sqlite3.Connection) -> tuple[bool, Body | None]:
        found = rows.load(db, body_id)
        if found is None:
            return False, None
        if found.file is not None:  # its digest would cost a reading of the whole; length shows what a crash leaves
            whole = self._files.size(found.file) == found.size
            return True, Body(size=found.size, path=self._files.directory / found.file) if whole else None
        data = found.data if isinstance(found.data, bytes) else b""
        return True, Body.of(data) if hashlib.sha256(data).digest() == found.digest else None

    # -- writing

    async def write(self, puts: list[PendingPut]) -> None:
        """Write puts and their bodies in one transaction; returns when it is committed or given up."""
        written: Written = []
        self._keys.add(key for put in puts for key in put.keys)
        try:
            await asyncio.to_thread(self._prepare, puts, written)
            size = sum(len(row.data or b"") for _, row in written if row is not None)
            work = partial(_put, written, self._clock.wall())
            await self._writer.submit(work, size=size, then=partial(self._committed, written))
        except OSError as error:
            self._database.trouble(error)
        finally:
            self._clear_away(puts)

    def _prepare(self, puts: list[PendingPut], written: Written) -> None:
        for put in puts:
            if put.expires is not None:
                written.append((put, None))
            elif not put.cancelled:
                row = self._row(put)
                if row is not None:
                    written.append((put, row))

    def _row(self, put: PendingPut) -> rows.NewRow | None:
        try:
            return encoding.encode_row(put, self._files, self._clock)
        except FileNotFoundError:  # somebody took the file away; the disk is not at fault
            return None
        except ValueError as error:  # a lone surrogate from a JSON escape cannot be encoded
            log.warning("the store cannot hold an entry: %s", type(error).__name__)
            return None

    def _committed(self, written: Written, done: tuple[list[bool], rows.Change]) -> None:
        for (put, _), wrote in zip(written, done[0], strict=True):
            put.written = wrote
        self.apply(done[1])

    def _clear_away(self, puts: list[PendingPut]) -> None:
        for put in puts:
            if put.file is not None and put.expires is None and not put.written:
                self.discard(put.entry.body_id, put.file)

    def mark(self, confirms: dict[Key, float], used: dict[bytes, float], then: Callable[[object], None]) -> None:
        """Write down when keys were confirmed (monotonic) and bodies used (wall-clock)."""
        ahead = self._clock.wall() - self._clock.monotonic()
        wall = {key: at + ahead for key, at in confirms.items()}
        self._writer.submit(partial(_mark, wall, used), size=100 * (len(wall) + len(used)), then=then)

    # -- dropping

    def apply(self, change: rows.Change) -> None:
        """Take over what a committed piece of work did."""
        self.held.entries += change.entries
        self.held.bytes += change.size
        self.evictions += change.evicted
        for body_id in change.bodies:
            self.on_drop(body_id)
        for name in change.files:
            self._files.discard(self._files.directory / name)

    def discard(self, body_id: bytes, path: Path) -> None:
        """Give up a file that no row leads to."""
        self.on_drop(body_id)
        self._files.discard(path)

    def drop(self, body_id: bytes) -> None:
        """Drop a body that is lost, with all that leads to it."""
        self._writer.submit(partial(_drop, [body_id]), then=self.apply)

    async def make_room(self) -> None:
        """Drop what was used least recently until the total is within its bound."""
        if self.held.bytes <= self._limit:
            return
        for sparing in range(SPARING_ROUNDS, -1, -1):
            spared, victims = await self._victims(spare=sparing > 0)
            if spared:
                self.mark({}, dict.fromkeys(spared, self._clock.wall()), then=lambda _: None)
            if victims:
                await self._writer.submit(partial(_drop, victims, evicted=True), then=self.apply)
            if self.held.bytes <= self._limit or not (spared or victims):
                return

    async def _victims(self, *, spare: bool) -> tuple[list[bytes], list[bytes]]:
        try:
            candidates = await self._database.run(partial(rows.oldest, count=CANDIDATES))
        except UnusableError:
            return [], []
        excess = self.held.bytes - self._limit * (1 - ROOM)
        spared: list[bytes] = []
        victims: list[bytes] = []
        for body_id, size in candidates:
            if excess <= 0:
                break
            if spare and self.is_recent(body_id):
                spared.append(body_id)
            else:
                victims.append(body_id)
                excess -= size
        return spared, victims

    # -- housekeeping

    async def sweep(self) -> None:
        """Unlink what was dropped; once an hour look for files that nothing leads to."""
        await self._files.empty_trash()
        if self._clock.monotonic() >= self._orphans_at:
            self._orphans_at = self._clock.monotonic() + ORPHANS_EVERY_SECONDS
            await self.sweep_orphans()

    async def sweep_orphans(self) -> None:
        """Drop files of earlier processes that no row leads to."""
        try:
            known = await self._database.run(rows.files)
        except UnusableError:
            return
        for path in await asyncio.to_thread(self._files.orphans, known):
            self._files.discard(path)

    def _opened(self, found: schema.Opened, replaced: bool) -> None:
        self.held = found
        self._keys.complete = False
        if replaced:
            self.on_drop(None)
        if self._after_open is None or self._after_open.done():
            self._after_open = asyncio.create_task(self._look_over(clean=found.clean))

    async def _look_over(self, *, clean: bool) -> None:
        await self._database.usable.wait()
        await self._read_keys()
        await self.sweep_orphans()
        for table in () if clean else schema.CHECKED_TABLES:
            try:
                found = await self._database.run(partial(schema.check, table=table), seconds=CHECK_SECONDS)
            except UnusableError:
                return
            if found != "ok":
                self._database.trouble(sqlite3.DatabaseError(f"quick_check of {table}: {found}"))
                return

    async def _read_keys(self) -> None:
        """Learn which keys the file holds, in steps between which others have their turn."""
        last = b""
        while True:
            try:
                keys = await self._database.run(partial(rows.keys_after, key=last, count=KEYS_AT_ONCE))
            except UnusableError:
                await self._database.usable.wait()
                continue
            self._keys.add(keys)
            if len(keys) < KEYS_AT_ONCE:
                break
            last = keys[-1]
        self._keys.complete = True


def _put(written: Written, now: float, db: sqlite3.Connection) -> tuple[list[bool], rows.Change]:
    change = rows.Change()
    wrote: list[bool] = []
    for put, row in written:
        keys = list(put.keys)  # the loop may take keys away, or cancel, at any moment
        wrote.append(bool(keys) and not put.cancelled)
        if row is None:
            rows.delete_keys(db, keys, change)
        elif wrote[-1]:
            rows.put(db, keys, row, now, change)
    return wrote, change


def _drop(body_ids: list[bytes], db: sqlite3.Connection, *, evicted: bool = False) -> rows.Change:
    change = rows.Change()
    rows.delete_bodies(db, body_ids, change)
    change.evicted = -change.entries if evicted else 0
    return change


def _mark(confirms: dict[Key, float], used: dict[bytes, float], db: sqlite3.Connection) -> bool:
    rows.confirm(db, confirms)
    rows.touch(db, used)
    return True
