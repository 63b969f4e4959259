"""What is done beside the requests: filling the filter, checking the database, removing files that are left over."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial

from gateway.model import Clock
from gateway.store.body_files import BodyFiles
from gateway.store.sqlite import rows, schema
from gateway.store.sqlite.bloom import BloomFilter
from gateway.store.sqlite.database import Database, UnusableError

CHECK_SECONDS = 60.0
KEYS_PER_STEP = 1000
ORPHAN_SWEEP_SECONDS = 3600.0


class Upkeep:
    """Checks the database whenever it was opened, and sweeps the directory of bodies."""

    def __init__(self, database: Database, files: BodyFiles, keys: BloomFilter, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._filter = keys
        self._clock = clock
        self._checking: asyncio.Task[None] | None = None
        self._orphans_at = clock.monotonic() + ORPHAN_SWEEP_SECONDS
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
        """Unlink discarded files; once an hour look for orphaned files."""
        await self._files.empty_trash()
        if self._clock.monotonic() >= self._orphans_at:
            self._orphans_at = self._clock.monotonic() + ORPHAN_SWEEP_SECONDS
            await self._sweep_orphans()

    async def _sweep_orphans(self) -> None:
        """Discard files of earlier processes that have no row."""
        try:
            known = await self._database.run(rows.files)
        except UnusableError:
            return
        for path in await asyncio.to_thread(self._files.orphans, known):
            self._files.discard(path)

    def _on_opened(self, found: schema.Contents, _replaced: bool) -> None:
        self._filter.complete = False
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(clean=found.clean))

    async def _check(self, *, clean: bool) -> None:
        await self._database.usable.wait()
        await self._fill_filter()
        await self._sweep_orphans()
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
