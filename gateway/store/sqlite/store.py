"""The store in a SQLite file and a directory of large bodies beside it.

Accepts at once, writes behind; look-ups see what is accepted. Whatever is wrong with the medium, it is then empty.
What is written and dropped is in `disk`, what waits to be written in `pending`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from gateway.errors import StoreError
from gateway.model import Body, Clock, Entry, Key, TierStats
from gateway.store.background import run_forever
from gateway.store.body_files import BodyFiles
from gateway.store.memory import BRIEF_SECONDS
from gateway.store.sqlite import rows
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.disk import DiskTier
from gateway.store.sqlite.write_buffer import PendingPut, WriteBuffer
from gateway.store.sqlite.writer import FIRST, Writer

log = logging.getLogger(__name__)

QUEUE_BYTES = 64 * 2**20
FLUSH_SECONDS = 5.0
GATHER_SECONDS = 0.05
"""Writes wait so long for others: each by itself would take the processor from the misses that bring them."""

BATCH_PUTS = 64
BATCH_BYTES = 4 * 2**20
MARKS = 100_000
"""Confirmations and uses that may wait for the next tick; beyond, while the file is not usable, they are given up."""

Bar = tuple[str | None, int | None]


class SqliteStore:
    """Bounded by `disk_bytes`, least recently used first out; bodies over `max_entry_bytes` are kept for 60 s.

    `open` returns at once when another process holds the file. Until it lets go, and whenever the file is not
    usable, the store knows only what it has accepted and not written, up to `queue_bytes`.
    """

    def __init__(
        self,
        path: Path,
        *,
        disk_bytes: int,
        max_entry_bytes: int,
        clock: Clock,
        lock_wait_seconds: float = 30.0,
        retry_seconds: float = 1.0,
        tick_seconds: float = 5.0,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.database = Database(path, lock_wait_seconds=lock_wait_seconds, retry_seconds=retry_seconds)
        self.writer = Writer(self.database)
        self.files = BodyFiles(path.with_name(path.name + ".bodies"), clock)
        self.disk = DiskTier(self.database, self.writer, self.files, disk_bytes, clock)
        self.sweepers: list[Callable[[], Awaitable[None]]] = [self.sweep]
        self.dropped = 0  # writes given up because too many were waiting
        self._max_entry = min(max_entry_bytes, disk_bytes)
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._pending = WriteBuffer(queue_bytes)
        self._confirms: dict[Key, float] = {}
        self._used: dict[bytes, float] = {}
        self._barred: list[Bar] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()

    # -- life

    @property
    def ready(self) -> bool:
        """Whether the file is open and usable."""
        return self.database.up

    async def locked(self) -> None:
        """Wait until the file is ours, open and usable."""
        await self.database.usable.wait()

    async def failed(self) -> StoreError:
        """Wait until it is certain that the file cannot be had; never returns if all is well."""
        return await self.database.failed()

    def watch(self, on_drop: Callable[[bytes | None], None], is_recent: Callable[[bytes], bool]) -> None:
        """Tell a layer above which bodies go (None: all), and spare those it uses without asking here."""
        self.disk.on_drop, self.disk.is_recent = on_drop, is_recent

    async def open(self) -> None:
        """Make ready, or begin to wait for the lock and return. Raises StoreError where the operator must act."""
        try:
            self.files.make()
        except OSError as error:
            raise StoreError(f"cannot make {self.files.directory}: {error.strerror or error}") from error
        await self.database.open()
        self.writer.start()
        self._tasks = [asyncio.create_task(run_forever(step)) for step in (self._feed, self._keep_house)]

    async def close(self) -> None:
        """Write what is pending (for at most 5 s) and release every handle. Safe to call twice."""
        try:
            await self.flush()
        finally:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await self.disk.close()
            await self.writer.close()
            await self.database.close()
            self._give_up(self._pending.clear())
            await self.files.empty_trash(at_once=True)

    async def flush(self) -> None:
        """Wait (for at most 5 s) until all that was accepted is written, if the file is usable."""
        if not self.ready or not self._tasks:
            return
        self._hurry.set()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._pending.drained.wait()
                self._write_marks()
                await self.writer.flushed()
        except TimeoutError:
            log.warning("the store %s has writes that take longer than %g s", self.database.path, FLUSH_SECONDS)
        finally:
            self._hurry.clear()

    # -- Store

    def spool_path(self) -> Path:
        """Return a fresh path for the upstream client to write a large body to."""
        return self.files.spool_path()

    async def get(self, key: Key) -> Entry | None:
        """See the protocol."""
        put = self._pending.put_of(key, self._clock.monotonic())
        if put is not None:
            return self._with_confirmed(key, put.entry)
        entry = await self.disk.get(key)
        if entry is None or any(_matches(bar, entry) for bar in self._barred):
            return None
        return self._with_confirmed(key, entry)

    async def read(self, entry: Entry) -> Body | None:
        """See the protocol."""
        put = self._pending.put_with(entry.body_id, self._clock.monotonic())
        body = put.body if put is not None else await self.disk.read(entry.body_id)
        if body is None or entry.size not in (0, body.size):
            return None
        self._used[entry.body_id] = self._clock.wall()
        return body

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body) -> Body:
        """See the protocol."""
        if body.path is not None:
            try:
                path = await asyncio.to_thread(self.files.adopt, body.path, entry.body_id)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):  # then the fault is not the disk's
                    self.database.trouble(error)
                return body
            body = Body(size=body.size, path=path)
        expires = self._clock.monotonic() + BRIEF_SECONDS if body.size > self._max_entry else None
        put = PendingPut(keys, msgspec.structs.replace(entry, size=body.size), body, expires)
        for key in keys:
            self._confirms.pop(key, None)
        if not self._pending.add(put):
            self.dropped += 1
            self._give_up([put])
        return body

    async def confirm(self, key: Key, confirmed: float) -> None:
        """See the protocol; reaches the file with the next tick."""
        self._confirms[key] = confirmed

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """See the protocol. While the file is not usable, what it holds is barred, and dropped later."""
        keys, puts = self._pending.cancel(scope, query_id)
        self._give_up(puts)
        bar = (scope, query_id)
        if not self.ready and bar in self._barred:
            return len(keys)
        self._barred.append(bar)
        counted = len(keys)

        def committed(done: tuple[set[Key], rows.Change]) -> None:
            nonlocal counted
            counted = len(keys | {key for key in done[0] if not self._pending.hides(key)})
            self._barred.remove(bar)
            self.disk.apply(done[1])

        done = self.writer.submit(partial(_delete, bar, keys), rank=FIRST, then=committed)
        if self.ready:
            await done
        return counted

    def stats(self) -> list[TierStats]:
        """See the protocol."""
        held = self.disk.held
        return [TierStats("disk", held.bytes, held.entries, self.disk.evictions, up=self.ready)]

    # -- behind

    async def _feed(self) -> None:
        await self._pending.filled.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._hurry.wait()
        await self.database.usable.wait()
        puts = self._pending.take(BATCH_PUTS, BATCH_BYTES)
        try:
            await self.disk.write(puts)
            await self.disk.make_room()
        finally:
            self._pending.settle()

    async def _keep_house(self) -> None:
        await asyncio.sleep(self._tick_seconds)
        for sweep in self.sweepers:
            await sweep()

    async def sweep(self) -> None:
        """Drop what was kept briefly, unlink what was dropped, write down what was confirmed and used."""
        self._give_up(self._pending.expire(self._clock.monotonic()))
        if self.ready:
            self._write_marks()
        await self.disk.sweep()

    def _give_up(self, puts: list[PendingPut]) -> None:
        for put in puts:
            if put.body.path is not None:
                self.disk.discard(put.entry.body_id, put.body.path)

    def _write_marks(self) -> None:
        now = self._clock.monotonic()
        confirms = {key: at for key, at in self._confirms.items() if self._pending.put_of(key, now) is None}
        used, self._used = self._used, {}
        if confirms or used:
            self.disk.mark(confirms, used, then=lambda _: self._marked(confirms))
        if len(self._confirms) > MARKS:
            self._confirms.clear()

    def _marked(self, confirms: dict[Key, float]) -> None:
        for key, at in confirms.items():
            if self._confirms.get(key) == at:
                del self._confirms[key]

    def _with_confirmed(self, key: Key, entry: Entry) -> Entry:
        confirmed = self._confirms.get(key)
        return entry if confirmed is None else msgspec.structs.replace(entry, confirmed=confirmed)


def _matches(bar: Bar, entry: Entry) -> bool:
    return bar[0] in (None, entry.scope) and bar[1] in (None, entry.query_id)


def _delete(bar: Bar, keys: set[Key], db: sqlite3.Connection) -> tuple[set[Key], rows.Change]:
    change = rows.Change()
    rows.delete_keys(db, list(keys), change)  # what they led to before the put that is cancelled
    return rows.delete(db, *bar, change), change
