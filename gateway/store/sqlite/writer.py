"""Group commit: one task takes what many have submitted and commits it in one transaction. Knows no table."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from gateway.store.background import run_forever
from gateway.store.sqlite.database import Database, UnusableError

log = logging.getLogger(__name__)

Work = Callable[[sqlite3.Connection], Any]
Then = Callable[[Any], None]

Rank = Literal[0, 1, 2]
FIRST: Rank = 0
LASTING: Rank = 1
OTHER: Rank = 2

BATCH = 200
GATHER_SECONDS = 0.05
"""How long work that nobody waits for may wait for more: each commit costs the event loop as much as half an answer."""

COMMIT_SECONDS = 30.0
QUEUE_BYTES = 32 * 2**20
"""Bound of what waits while the file cannot be used; beyond it the oldest of rank LASTING is given up."""

OWN_FAULT = (ValueError, TypeError, OverflowError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.IntegrityError)
"""What a value that SQLite cannot hold raises (a lone surrogate, an integer over 64 bits): not the file's fault."""


class _Op:
    __slots__ = ("done", "rank", "size", "then", "work")

    def __init__(self, work: Work, size: int, rank: Rank, then: Then | None) -> None:
        self.work = work
        self.size = size
        self.rank = rank
        self.then = then
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def finish(self, result: object) -> None:
        if not self.done.done():
            self.done.set_result(result)


class Writer:
    """Submitted work is committed in order within its rank, lower ranks first; what nobody awaits waits for more.

    Futures resolve to what the work returned, once it is committed, or to None where it could not be: ranks FIRST
    and LASTING then stay in the queue until the file is usable again, OTHER is given up.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queues: tuple[deque[_Op], deque[_Op], deque[_Op]] = (deque(), deque(), deque())
        self._bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(run_forever(self._step))

    def submit(
        self, work: Work, *, size: int = 256, rank: Rank = OTHER, then: Then | None = None, awaited: bool = True
    ) -> asyncio.Future[Any]:
        """Queue work; `size` is what it holds in memory meanwhile, `then` gets the result once it is committed.

        What is not `awaited` may wait for more to be committed with it.
        """
        op = _Op(work, size, rank, then)
        self._queues[rank].append(op)
        self._bytes += size
        while self._bytes > QUEUE_BYTES and len(self._queues[LASTING]) > 1:
            self._leave(self._queues[LASTING].popleft(), None)
        self._idle.clear()
        if awaited:
            self._wake.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._time_is_up)
        return op.done

    def _time_is_up(self) -> None:
        self._timer = None
        self._wake.set()

    async def flushed(self) -> None:
        """Wait until nothing is queued."""
        self._wake.set()
        await self._idle.wait()

    async def close(self) -> None:
        """Stop at once; what is queued is given up."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for queue in self._queues:
            while queue:
                self._leave(queue.popleft(), None)

    async def _step(self) -> None:
        await self._wake.wait()
        await self._database.usable.wait()
        batch = self._take()
        if batch:
            await self._commit(batch)
        else:
            self._wake.clear()
            self._idle.set()

    def _take(self) -> list[_Op]:
        batch: list[_Op] = []
        for queue in self._queues:
            while queue and len(batch) < BATCH:
                batch.append(queue.popleft())
        return batch

    async def _commit(self, batch: list[_Op]) -> None:
        works = [op.work for op in batch]
        try:
            results = await self._database.run(lambda db: _transaction(db, works), seconds=COMMIT_SECONDS)
        except (UnusableError, asyncio.CancelledError) as error:
            self._give_back(batch)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._database.succeeded()
        for op, result in zip(batch, results, strict=True):
            self._leave(op, result)
            if op.then is not None and result is not None:
                op.then(result)

    def _give_back(self, batch: list[_Op]) -> None:
        for op in reversed(batch):
            if op.rank != OTHER:
                self._queues[op.rank].appendleft(op)
                op.finish(None)  # who waits goes on; the work itself stays
            else:
                self._leave(op, None)

    def _leave(self, op: _Op, result: object) -> None:
        self._bytes -= op.size
        op.finish(result)


def _transaction(db: sqlite3.Connection, works: list[Work]) -> list[object]:
    db.execute("BEGIN IMMEDIATE")
    try:
        results = [_one(db, work) for work in works]
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself rolls back on a full disk
            db.execute("ROLLBACK")
        raise
    return results


def _one(db: sqlite3.Connection, work: Work) -> object:
    db.execute("SAVEPOINT one")
    try:
        result: object = work(db)
    except OWN_FAULT as error:
        log.warning("the store cannot hold a value: %s", type(error).__name__)
        db.execute("ROLLBACK TO one")
        result = None
    db.execute("RELEASE one")
    return result
