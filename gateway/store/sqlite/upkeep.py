"""What is done beside the requests: filling the filter, checking the database, removing files that are left over."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial

from gateway.model import Clock
from gateway.store.body_files import BodyFiles
from gateway.store.sqlite import rows, schema
from gateway.store.sqlite.bloom import BloomFilter
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.failures import UnusableError
from gateway.store.sqlite.room import Room

CHECK_SECONDS = 60.0
KEYS_PER_STEP = 1000
RECOUNT_SECONDS = 60.0
ORPHAN_SWEEP_SECONDS = 3600.0


class Upkeep:
    """Checks the database whenever it was opened, sweeps the directory of bodies, and keeps both within the limit."""

    def __init__(self, database: Database, files: BodyFiles, keys: BloomFilter, room: Room, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._filter = keys
        self._room = room
        self._clock = clock
        self._checking: asyncio.Task[None] | None = None
        self._recount_at = self._orphans_at = clock.monotonic()
        database.on_opened.append(self._on_opened)

    async def close(self) -> None:
        """Stop the check that runs after opening."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait({self._checking})

    async def checked(self) -> None:
        """Wait until the check after opening has ended."""
        if self._checking is not None:
            await asyncio.wait({self._checking})

    async def sweep(self) -> None:
        """Unlink discarded files, evict what is over the limit; now and then count again, and look for orphans."""
        await self._database.check_file()
        await self._files.empty_trash()
        now = self._clock.monotonic()
        if now >= self._recount_at:
            self._recount_at = now + RECOUNT_SECONDS
            await self._files.recount()
        if now >= self._orphans_at:
            self._orphans_at = now + ORPHAN_SWEEP_SECONDS
            await self._sweep_orphans()
        await self._room.adapt()
        if self._database.up:
            await self._room.make_room()

    async def _sweep_orphans(self) -> None:
        """Unlink files of earlier processes that have no row."""
        try:
            known = await self._database.run(rows.files)
        except UnusableError:
            return
        await asyncio.to_thread(lambda: self._files.unlink(self._files.orphans(known)))

    def _on_opened(self, found: schema.Contents, _replaced: bool) -> None:
        self._filter.complete = False
        self._recount_at = self._orphans_at = self._clock.monotonic()
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(clean=found.clean))

    async def _check(self, *, clean: bool) -> None:
        await self._database.usable.wait()
        await self.sweep()
        await self._fill_filter()
        for table in () if clean else schema.CHECKED_TABLES:
            try:
                found = await self._database.run(partial(schema.check, table=table), seconds=CHECK_SECONDS)
            except UnusableError:
                return
            if found != "ok":
                self._database.report_failure(sqlite3.DatabaseError(f"quick_check of {table}: {found}"))
                return

    async def _fill_filter(self) -> None:
        """Add every key of the file to the filter, in steps so that other work runs in between."""
        last = b""
        while True:
            try:
                keys = await self._database.run(partial(rows.keys_after, key=last, count=KEYS_PER_STEP))
            except UnusableError:
                await self._database.usable.wait()
                continue
            self._filter.add(keys)
            if len(keys) < KEYS_PER_STEP:
                break
            last = keys[-1]
        self._filter.complete = True
