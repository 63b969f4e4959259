"""The store in a SQLite file and a directory of large bodies beside it.

It accepts writes at once and commits them in the background; look-ups see what is accepted. If the medium fails, the
store behaves like an empty one. `disk` is what is committed, `write_buffer` what is not committed yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from gateway.body import Body
from gateway.concurrency.space import Space
from gateway.errors import StoreError
from gateway.model import Clock, Entry, Key, TierStats
from gateway.store.background import run_forever
from gateway.store.body_files import BodyFiles
from gateway.store.lru import OVERSIZE_SECONDS
from gateway.store.spools import Spools
from gateway.store.sqlite import ownership, rows
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.disk import DiskTier
from gateway.store.sqlite.failures import operator_must_act
from gateway.store.sqlite.room import Room
from gateway.store.sqlite.upkeep import Upkeep
from gateway.store.sqlite.write_buffer import PendingPut, WriteBuffer, queue_limit
from gateway.store.sqlite.writer import FIRST, Writer

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
GATHER_SECONDS = 0.05
"""How long a write waits for others: a commit for each would take processor time from the misses that cause them."""

BATCH_PUTS = 64
BATCH_BYTES = 4 * 2**20
MAX_PENDING_TIMES = 100_000
"""Limit of the confirmations that wait for an unusable file; beyond it they are given up."""

Selection = tuple[str | None, int | None]
"""Scope and query id of a deletion; None: all."""


class SqliteStore:
    """Bounded by `disk_bytes`, with LRU eviction; bodies over `max_entry_bytes` are stored for 60 s.

    `open` returns at once if another process has locked the file. Until it is unlocked, and whenever the file is
    unusable, the store has only what it has accepted and not committed, up to shares of `memory_bytes`.
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
        sweep_seconds: float = 5.0,
        memory_bytes: int = 256 * 10**6,
    ) -> None:
        self.database = Database(path, disk_bytes, lock_wait_seconds=lock_wait_seconds, retry_seconds=retry_seconds)
        self.writer = Writer(self.database, queue_limit(memory_bytes // 8))
        self.files = BodyFiles(path.with_name(path.name + ".bodies"), clock, Space(disk_bytes))
        self.database.probe = self.files.probe
        self.disk = DiskTier(self.database, self.writer, self.files, clock)
        self.room = Room(self.database, self.files, self.disk, clock)
        self.upkeep = Upkeep(self.database, self.files, self.disk.filter, self.room, clock)
        windows, failed = Space(memory_bytes // 8), self.database.report_failure
        self.begin_spool = Spools(self.files, windows, max_entry_bytes, self.room.make_room, failed).begin
        self.sweepers: list[Callable[[], Awaitable[None]]] = [self.sweep]
        self.dropped = 0  # writes given up because the buffer was full
        self._max_entry = min(max_entry_bytes, disk_bytes)
        self._clock = clock
        self._sweep_seconds = sweep_seconds
        self._buffer = WriteBuffer(queue_limit(memory_bytes // 4))
        self._confirms: dict[Key, float] = {}
        self._used: dict[bytes, float] = {}
        self._deleting: list[Selection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()

    # -- opening and closing

    @property
    def ready(self) -> bool:
        """Whether the file is open and usable."""
        return self.database.up

    async def usable(self) -> None:
        """Wait until the file is open and usable."""
        await self.database.usable.wait()

    def watch(self, on_drop: Callable[[bytes | None], None], is_recent: Callable[[bytes], bool]) -> None:
        """Call `on_drop` with the id of each deleted body (None: all); evict bodies that `is_recent` accepts last."""
        self.disk.on_drop, self.disk.is_recent = on_drop, is_recent

    async def open(self) -> None:
        """Open the file; if another process has it, wait until that has stopped.

        Raises:
            ConfigurationError: the path, or one beside it that we need, is another program's.
            StoreError: the operator must act.
        """
        path = self.database.path
        try:
            await asyncio.to_thread(ownership.refuse_foreign, path)  # before anything is made or changed
        except OSError as error:
            raise StoreError(f"cannot open the store {path}: {error.strerror or error}") from error
        try:
            self.files.make()
        except OSError as error:
            if operator_must_act(error):
                raise StoreError(f"cannot make {self.files.directory}: {error.strerror or error}") from error
        await self.files.recount()
        await self.database.open()
        await self.room.measure()
        self.writer.start()
        self._tasks = [asyncio.create_task(run_forever(step)) for step in (self._feed, self._sweep_later)]

    async def close(self) -> None:
        """Write what is pending (for at most 5 s) and release every handle. May be called twice."""
        try:
            await self.flush()
        finally:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await self.upkeep.close()
            await self.disk.close()
            await self.writer.close()
            await self.database.close()
            self._give_up(self._buffer.clear())
            await self.files.empty_trash(at_once=True)
            await asyncio.to_thread(self.files.close)

    async def flush(self) -> None:
        """If the file is usable, wait (for at most 5 s) until everything accepted is committed."""
        if not self.ready or not self._tasks:
            return
        self._hurry.set()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._buffer.drained.wait()
                self._write_times()
                await self.writer.flushed()
        except TimeoutError:
            log.warning("the store %s has writes that take longer than %g s", self.database.path, FLUSH_SECONDS)
        finally:
            self._hurry.clear()

    # -- Store

    async def get(self, key: Key) -> Entry | None:
        """See the protocol."""
        put = self._buffer.get(key, self._clock.monotonic())
        if put is not None:
            return self._with_confirmed(key, put.entry)
        entry = await self.disk.get(key)
        if entry is None or any(_matches(selection, entry) for selection in self._deleting):
            return None
        return self._with_confirmed(key, entry)

    async def read(self, entry: Entry) -> Body | None:
        """See the protocol."""
        put = self._buffer.get_by_body(entry.body_id, self._clock.monotonic())
        body = put.body if put is not None else await self.disk.read(entry.body_id)
        if body is None or entry.size not in (0, body.size) or not body.is_there():
            return None
        self._used[entry.body_id] = self._clock.wall()
        return body

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body, fence: object = None) -> Body:
        """See the protocol."""
        if body.path is not None:
            try:
                body = await asyncio.to_thread(self.files.adopt, body.path, entry.body_id, body.size)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):  # otherwise the disk is not at fault
                    self.database.report_failure(error)
                self._confirms.update(dict.fromkeys(keys, -math.inf))
                return body
        expires = self._clock.monotonic() + OVERSIZE_SECONDS if body.size > self._max_entry else None
        put = PendingPut(keys, msgspec.structs.replace(entry, size=body.size), body, expires)
        for key in keys:
            self._confirms.pop(key, None)
        if not self._buffer.add(put):
            self.dropped += 1
            self._confirms.update(dict.fromkeys(keys, -math.inf))  # what is stored is not the newest any more
            self._give_up([put])
        return body

    async def confirm(self, key: Key, confirmed: float) -> None:
        """See the protocol; written to the file with the next sweep."""
        self._confirms[key] = confirmed

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """See the protocol. While the file is unusable, its matching entries are hidden and deleted later."""
        keys, puts = self._buffer.cancel(scope, query_id)
        self._give_up(puts)
        selection = (scope, query_id)
        if not self.ready and selection in self._deleting:
            return len(keys)
        self._deleting.append(selection)
        counted = len(keys)

        def committed(done: tuple[set[Key], rows.Change]) -> None:
            nonlocal counted
            counted = len(keys | {key for key in done[0] if not self._buffer.hides(key)})
            self._deleting.remove(selection)
            self.disk.apply(done[1])

        done = self.writer.submit(partial(rows.delete_selected, selection, keys), priority=FIRST, then=committed)
        if self.ready:
            await done
        else:
            await self.room.unlink_all(scope, query_id)
            self.database.try_again()
        return counted

    async def queries(self, scope: str) -> set[int] | None:
        """See the protocol."""
        committed = await self.disk.queries(scope)
        return None if committed is None else committed | self._buffer.queries(scope)

    def stats(self) -> list[TierStats]:
        """See the protocol."""
        entries = self.disk.contents.entries
        used = self.files.space.taken + self.room.database_bytes
        limit = self.files.space.limit
        return [TierStats("disk", used, entries, self.disk.evictions, limit, up=self.ready)]

    # -- in the background

    async def _feed(self) -> None:
        await self._buffer.filled.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._hurry.wait()
        await self.database.usable.wait()
        puts = self._buffer.take(BATCH_PUTS, BATCH_BYTES)
        try:
            async with self.room.reserved(puts) as given_up:
                await self.disk.write(puts, given_up)
            await self.room.make_room()
        finally:
            self._buffer.settle()

    async def _sweep_later(self) -> None:
        await asyncio.sleep(self._sweep_seconds)
        for sweep in self.sweepers:
            await sweep()

    async def sweep(self) -> None:
        """Remove expired oversize bodies, unlink discarded files, write times of confirmation and use."""
        self._give_up(self._buffer.expire(self._clock.monotonic()))
        if self.ready:
            self._write_times()
        await self.upkeep.sweep()

    def _give_up(self, puts: list[PendingPut]) -> None:
        for put in puts:
            if put.body.path is not None:
                self.disk.discard(put.entry.body_id, put.body.path)

    def _write_times(self) -> None:
        now = self._clock.monotonic()
        confirms = {key: at for key, at in self._confirms.items() if self._buffer.get(key, now) is None}
        used, self._used = self._used, {}
        if confirms or used:
            self.disk.update_times(confirms, used, then=lambda _: self._times_written(confirms))
        if len(self._confirms) > MAX_PENDING_TIMES:
            self._confirms.clear()

    def _times_written(self, confirms: dict[Key, float]) -> None:
        for key, at in confirms.items():
            if self._confirms.get(key) == at:
                del self._confirms[key]

    def _with_confirmed(self, key: Key, entry: Entry) -> Entry:
        confirmed = self._confirms.get(key)
        return entry if confirmed is None else msgspec.structs.replace(entry, confirmed=confirmed)


def _matches(selection: Selection, entry: Entry) -> bool:
    return selection[0] in (None, entry.scope) and selection[1] in (None, entry.query_id)
