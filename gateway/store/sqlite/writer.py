"""Group commit: one task commits the work of many callers in one transaction. Knows no table."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from gateway.store.background import run_forever
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.failures import UnusableError

log = logging.getLogger(__name__)

Work = Callable[[sqlite3.Connection], Any]
Then = Callable[[Any], None]

Priority = Literal[0, 1, 2]
FIRST: Priority = 0
DURABLE: Priority = 1
BEST_EFFORT: Priority = 2

BATCH = 200
GATHER_SECONDS = 0.05
"""How long work that no caller awaits may wait for more: a commit costs the event loop half as much as a response."""

COMMIT_SECONDS = 30.0
VALUE_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
)
"""Raised for a value that SQLite cannot store (a lone surrogate, an integer over 64 bits); the file is not at fault."""


class _Operation:
    __slots__ = ("done", "priority", "size", "then", "work")

    def __init__(self, work: Work, size: int, priority: Priority, then: Then | None) -> None:
        self.work = work
        self.size = size
        self.priority = priority
        self.then = then
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def finish(self, result: object) -> None:
        if not self.done.done():
            self.done.set_result(result)


class Writer:
    """Commits submitted work, FIRST before DURABLE before BEST_EFFORT, and in order within a priority.

    A future resolves to the result of the work once it is committed, or to None if that fails: FIRST and DURABLE
    then stay in the queue until the file is usable again, BEST_EFFORT is given up. Beyond `limit_bytes`, the oldest
    work of priority DURABLE is given up.
    """

    def __init__(self, database: Database, limit_bytes: int) -> None:
        self._database = database
        self._limit = limit_bytes
        self._queues: tuple[deque[_Operation], deque[_Operation], deque[_Operation]] = (deque(), deque(), deque())
        self._bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the task that commits."""
        self._task = asyncio.create_task(run_forever(self._step))

    def submit(
        self,
        work: Work,
        *,
        size: int = 256,
        priority: Priority = BEST_EFFORT,
        then: Then | None = None,
        awaited: bool = True,
    ) -> asyncio.Future[Any]:
        """Queue work; `size` is what it takes in memory until then, `then` gets the result once it is committed.

        Work that is not `awaited` may wait briefly for more work to share its commit.
        """
        op = _Operation(work, size, priority, then)
        self._queues[priority].append(op)
        self._bytes += size
        while self._bytes > self._limit and len(self._queues[DURABLE]) > 1:
            self._finish(self._queues[DURABLE].popleft(), None)
        self._idle.clear()
        if awaited:
            self._wake.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._wake_up)
        return op.done

    def _wake_up(self) -> None:
        self._timer = None
        self._wake.set()

    async def flushed(self) -> None:
        """Wait until nothing is queued."""
        self._wake.set()
        await self._idle.wait()

    async def close(self) -> None:
        """Stop at once; queued work is given up."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for queue in self._queues:
            while queue:
                self._finish(queue.popleft(), None)

    async def _step(self) -> None:
        await self._wake.wait()
        await self._database.usable.wait()
        batch = self._take()
        if batch:
            await self._commit(batch)
        else:
            self._wake.clear()
            self._idle.set()

    def _take(self) -> list[_Operation]:
        batch: list[_Operation] = []
        for queue in self._queues:
            while queue and len(batch) < BATCH:
                batch.append(queue.popleft())
        return batch

    async def _commit(self, batch: list[_Operation]) -> None:
        works = [op.work for op in batch]
        try:
            results = await self._database.run(lambda db: _transaction(db, works), seconds=COMMIT_SECONDS)
        except (UnusableError, asyncio.CancelledError) as error:
            self._requeue(batch)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._database.report_success()
        for op, result in zip(batch, results, strict=True):
            self._finish(op, result)
            if op.then is not None and result is not None:
                op.then(result)

    def _requeue(self, batch: list[_Operation]) -> None:
        for op in reversed(batch):
            if op.priority != BEST_EFFORT:
                self._queues[op.priority].appendleft(op)
                op.finish(None)  # callers go on; the work stays queued
            else:
                self._finish(op, None)

    def _finish(self, op: _Operation, result: object) -> None:
        self._bytes -= op.size
        op.finish(result)


def _transaction(db: sqlite3.Connection, works: list[Work]) -> list[object]:
    db.execute("BEGIN IMMEDIATE")
    try:
        results = [_one(db, work) for work in works]
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # on a full disk SQLite has rolled back already
            db.execute("ROLLBACK")
        raise
    return results


def _one(db: sqlite3.Connection, work: Work) -> object:
    db.execute("SAVEPOINT one")
    try:
        result: object = work(db)
    except VALUE_ERRORS as error:
        log.warning("the store cannot hold a value: %s", type(error).__name__)
        db.execute("ROLLBACK TO one")
        result = None
    db.execute("RELEASE one")
    return result
