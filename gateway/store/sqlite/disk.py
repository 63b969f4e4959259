"""What is committed: rows and body files together."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path

import msgspec

from gateway.body import Body, BodyLostError
from gateway.model import Clock, Entry, Key
from gateway.store.body_files import BodyFiles
from gateway.store.sqlite import encoding, rows, schema
from gateway.store.sqlite.bloom import BloomFilter
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.failures import UnusableError
from gateway.store.sqlite.write_buffer import PendingPut
from gateway.store.sqlite.writer import FIRST, Writer
from gateway.store.verification import Complaints, Verification

log = logging.getLogger(__name__)

Written = list[tuple[PendingPut, rows.NewRow | None]]
"""None: the put is not written, but older entries under its keys are deleted."""


class DiskTier:
    """Rows and body files. `contents` is the number of entries that are committed."""

    def __init__(self, database: Database, writer: Writer, files: BodyFiles, clock: Clock) -> None:
        self.contents = schema.Contents(0, clean=True)
        self.evictions = 0
        self.on_drop: Callable[[bytes | None], None] = lambda body_id: None
        self.is_recent: Callable[[bytes], bool] = lambda body_id: False
        self._database = database
        self._writer = writer
        self._files = files
        self._clock = clock
        self._verification = Verification()
        self._complaints = Complaints(clock)
        self.filter = BloomFilter()
        database.on_opened.append(self._on_opened)

    def _on_opened(self, found: schema.Contents, replaced: bool) -> None:
        self.contents = found
        if replaced:
            self.on_drop(None)

    async def close(self) -> None:
        """Stop what is being read."""
        await self._verification.aclose()

    # -- reading

    async def get(self, key: Key) -> Entry | None:
        """Return the committed entry under `key`; delete it if its body is lost."""
        if not self.filter.may_contain(key):
            return None
        try:
            found = await self._database.run(partial(self._find, key, self._clock.wall()))
        except UnusableError:
            return None
        if found is None:
            return None
        entry = encoding.decode_entry(found, self._clock) if found.data_size == found.size else None
        if entry is None:
            self._lost(found.body_id, found.file)
        return entry

    def _find(self, key: Key, now: float, db: sqlite3.Connection) -> rows.EntryRow | None:
        found = rows.find(db, key, now)
        if found is not None and found.file is not None:
            file = self._files.find(found.file)
            return msgspec.structs.replace(found, data_size=None if file is None else file.size)
        return found

    async def read(self, body_id: bytes) -> Body | None:
        """Return a committed body; delete it if it does not match its length and digest."""
        try:
            found, body = await self._database.run(partial(self._load, body_id))
        except UnusableError:
            return None
        if found is None:
            return None
        if body is not None and body.path is not None and not await self._verification.holds(body, found.digest):
            body = None
        if body is None:
            self._lost(body_id, found.file)
        return body

    def _load(self, body_id: bytes, db: sqlite3.Connection) -> tuple[rows.BodyRow | None, Body | None]:
        found = rows.load(db, body_id)
        if found is None:
            return None, None
        if found.file is not None:
            body = self._files.find(found.file)
            return found, body if body is not None and body.size == found.size else None
        data = found.data if isinstance(found.data, bytes) else b""
        return found, Body.of(data) if hashlib.sha256(data).digest() == found.digest else None

    def _lost(self, body_id: bytes, file: str | None) -> None:
        """Delete a body whose bytes are not those that were stored."""
        self._complaints.add(file or body_id.hex(), "has other bytes than were stored, or none")
        self.delete(body_id)

    async def queries(self, scope: str) -> set[int] | None:
        """Return the queries of which entries are committed in a scope; None if the file is unusable."""
        try:
            return await self._database.run(partial(rows.queries, scope))
        except UnusableError:
            return None

    # -- writing

    async def write(self, puts: list[PendingPut], given_up: Set[PendingPut] = frozenset()) -> None:
        """Write puts and their bodies in one transaction; return when it is committed or given up.

        For those that are `given_up`, only the older entries under their keys are deleted.
        """
        written: Written = []
        self.filter.add(key for put in puts for key in put.keys)
        try:
            await asyncio.to_thread(self._prepare, puts, written, given_up)
            size = sum(len(row.data or b"") for _, row in written if row is not None)
            work = partial(_write, written, self._clock.wall())
            await self._writer.submit(work, size=size, then=partial(self._committed, written))
        except OSError as error:
            self._database.report_failure(error)
        finally:
            self._discard_unwritten(puts)

    def _prepare(self, puts: list[PendingPut], written: Written, given_up: Set[PendingPut]) -> None:
        for put in puts:
            if put in given_up or put.expires is not None:
                written.append((put, None))
            elif not put.cancelled:
                row = self._row(put)
                if row is not None:
                    written.append((put, row))

    def _row(self, put: PendingPut) -> rows.NewRow | None:
        try:
            return encoding.encode_row(put, self._files, self._clock)
        except (FileNotFoundError, BodyLostError):  # something removed or changed the file; the disk is not at fault
            return None
        except ValueError as error:  # a lone surrogate from a JSON escape cannot be encoded
            log.warning("the store cannot hold an entry: %s", type(error).__name__)
            return None

    def _committed(self, written: Written, done: tuple[list[bool], rows.Change]) -> None:
        for (put, row), wrote in zip(written, done[0], strict=True):
            put.written = wrote and row is not None
            if put.written and put.stored.path is not None:
                self._verification.note(put.stored)
        self.apply(done[1])

    def _discard_unwritten(self, puts: list[PendingPut]) -> None:
        for put in puts:
            if put.stored.path is not None and put.expires is None and not put.written:
                self.discard(put.entry.body_id, put.stored.path)

    def update_times(
        self, confirms: dict[Key, float], used: dict[bytes, float], then: Callable[[object], None]
    ) -> None:
        """Update when keys were confirmed (monotonic) and bodies used (wall clock)."""
        offset = self._clock.wall() - self._clock.monotonic()
        wall = {key: at + offset for key, at in confirms.items()}
        self._writer.submit(partial(_update_times, wall, used), size=100 * (len(wall) + len(used)), then=then)

    # -- deleting

    def apply(self, change: rows.Change) -> None:
        """Update totals and files after work has been committed."""
        self.contents.entries += change.entries
        self.evictions += change.evicted
        for body_id in change.bodies:
            self.on_drop(body_id)
        for name in change.files:
            self._files.discard(self._files.directory / name)

    def discard(self, body_id: bytes, path: Path) -> None:
        """Give up a file that has no row."""
        self.on_drop(body_id)
        self._files.discard(path)

    def delete(self, *body_ids: bytes, evicted: bool = False) -> asyncio.Future[object]:
        """Delete bodies that are lost or `evicted`, and all their entries."""
        return self._writer.submit(partial(_delete, list(body_ids), evicted=evicted), priority=FIRST, then=self.apply)


def _write(written: Written, now: float, db: sqlite3.Connection) -> tuple[list[bool], rows.Change]:
    change = rows.Change()
    wrote: list[bool] = []
    for put, row in written:
        keys = list(put.keys)  # the event loop may remove keys or cancel at any moment
        wrote.append(bool(keys) and not put.cancelled)
        if row is None:
            rows.delete_keys(db, keys, change)
        elif wrote[-1]:
            rows.put(db, keys, row, now, change)
    return wrote, change


def _delete(body_ids: list[bytes], db: sqlite3.Connection, *, evicted: bool) -> rows.Change:
    change = rows.Change()
    rows.delete_bodies(db, body_ids, change)
    change.evicted = -change.entries if evicted else 0
    return change


def _update_times(confirms: dict[Key, float], used: dict[bytes, float], db: sqlite3.Connection) -> bool:
    rows.confirm(db, confirms)
    rows.touch(db, used)
    return True
