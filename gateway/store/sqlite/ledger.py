"""The ledger in the SQLite store's file. A record is committed when its method returns, or queued until it can be.

Result ids are committed in the background, in the same order as all other records.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

import msgspec

from gateway.model import Clock, ExecutionRecord, JobRecord, digest
from gateway.store.memory_ledger import MOST_SCOPES, MemoryLedger, select_unfinished, sort_by_age
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.failures import UnusableError
from gateway.store.sqlite.writer import DURABLE, Writer

T = TypeVar("T")

COMMIT_SECONDS = 5.0
SWEEP_ROWS = 1000
MAX_SWEEP_STEPS = 10

EXPIRED_JOBS = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE noted_at < ? LIMIT ?)"
EXPIRED_EXECUTIONS = "DELETE FROM executions WHERE id IN (SELECT id FROM executions WHERE started_at < ? LIMIT ?)"
SURPLUS_RESULTS = (
    "DELETE FROM result_ids WHERE seq IN"
    " (SELECT seq FROM result_ids WHERE seq <= (SELECT max(seq) FROM result_ids) - ? ORDER BY seq LIMIT ?)"
)
SURPLUS_EXECUTIONS = (
    "DELETE FROM executions WHERE status >= 3 AND id IN (SELECT id FROM (SELECT id, sum(length(packed) + ?)"
    " OVER (ORDER BY started_at DESC, id) AS total FROM executions) WHERE total > ?)"
)
SURPLUS_JOBS = (
    "DELETE FROM jobs WHERE id IN (SELECT id FROM (SELECT id, sum(length(packed) + ?)"
    " OVER (ORDER BY noted_at DESC, id) AS total FROM jobs) WHERE total > ?)"
)
ROW_BYTES = 200
"""What a row takes beside its packed record: its other columns, its places in the indexes."""

COUNT_SECONDS = 60.0
"""To count the bytes reads all rows."""


class SqliteLedger:
    """Shares connection and writer with the store. The newest records are also in memory, which is read first."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        *,
        results: int = 1_000_000,
        limit_bytes: int = 256 * 2**20,
    ) -> None:
        """`limit_bytes`: of executions, and as much of jobs; more is deleted within a minute, the oldest first."""
        self._clock = clock
        self._limit = limit_bytes
        self._count_at = -math.inf
        self._database = database
        self._writer = writer
        self._results = results
        self._recent = MemoryLedger(clock, limit_bytes=16 * 2**20, results=50_000)
        database.on_opened.append(self._opened)

    def _opened(self, _found: object, replaced: bool) -> None:
        if replaced:  # the result ids are deleted with the old file
            self._recent.clear_results()

    # -- Ledger

    @property
    def ready(self) -> bool:
        """See the protocol."""
        return self._database.up

    async def record_execution(self, record: ExecutionRecord) -> None:
        """See the protocol."""
        self._recent.put_execution(record)
        await self._commit(partial(_put_execution, record), 500 + len(record.body) + len(record.error))

    async def record_job(self, job: JobRecord) -> None:
        """See the protocol."""
        self._recent.put_job(job)
        await self._commit(partial(_put_job, job), 500)

    async def job(self, job_id: str) -> JobRecord | None:
        """See the protocol."""
        recent = self._recent.get_job(job_id)
        if recent is not None:
            return recent
        jobs = await self._read(partial(_jobs, "id = ?", job_id)) or []
        return next(iter(sort_by_age(jobs, self._recent.oldest_time())), None)

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """See the protocol."""
        recent = self._recent.get_execution(execution_id)
        if recent is not None:
            return recent
        found = await self._read(partial(_executions, "id = ?", execution_id)) or []
        return next((record for record in found if record.started_at >= self._recent.oldest_time()), None)

    async def unfinished(self) -> list[ExecutionRecord]:
        """See the protocol."""
        oldest = self._recent.oldest_time()
        rows = await self._read(partial(_executions, "status < 3 AND started_at >= ?", oldest)) or []
        found = {record.id: record for record in rows}
        found.update((record.id, record) for record in self._recent.executions())
        return select_unfinished(found.values(), oldest)

    async def jobs_of(self, execution_id: str) -> list[JobRecord]:
        """See the protocol."""
        found = {job.id: job for job in await self._read(partial(_jobs, "execution_id = ?", execution_id)) or []}
        found.update((job.id, job) for job in self._recent.get_jobs_of(execution_id))
        return sort_by_age(found.values(), self._recent.oldest_time())

    async def record_result(self, scope: str, result_id: int, query_id: int, identity: bytes = b"") -> None:
        """See the protocol; a recently recorded one costs nothing."""
        if self._recent.put_result(scope, result_id, query_id, identity):
            work = partial(_put_result, _scope_digest(scope), result_id, query_id, identity)
            self._writer.submit(
                work, size=200, priority=DURABLE, awaited=False
            )  # same priority: in the order of all records

    async def queries_of_result(self, scope: str, result_id: int) -> Mapping[int, bytes]:
        """See the protocol."""
        found = await self._read(partial(_queries, _scope_digest(scope), result_id)) or {}
        recent = self._recent.get_queries(scope, result_id)
        return {**recent, **found, **{query_id: identity for query_id, identity in recent.items() if identity}}

    async def has_results(self, scope: str) -> bool:
        """See the protocol."""
        return await self._recent.has_results(scope) or bool(await self._read(partial(_has_any, _scope_digest(scope))))

    async def scope_of(self, name: str) -> str | None:
        """See the protocol."""
        return await self._read(partial(_scope_of, name))

    async def record_scope(self, name: str, scope: str) -> str | None:
        """See the protocol."""
        if not self._database.up:
            return None
        found: str | None = await self._commit(partial(_record_scope, name, scope), 500)
        return found

    async def spending(self, client: str) -> str | None:
        """See the protocol."""
        return await self._read(partial(_text, f"spending of {client}"))

    async def record_spending(self, client: str, text: str) -> None:
        """See the protocol."""
        await self._commit(partial(_record_text, f"spending of {client}", text), 200 + len(text))

    async def purges(self) -> str | None:
        """See the protocol."""
        return await self._read(partial(_text, "purges"))

    async def record_purges(self, text: str) -> None:
        """See the protocol."""
        await self._commit(partial(_record_text, "purges", text), 200 + len(text))

    async def sweep(self) -> None:
        """Delete what is older than 12 h, and the oldest result ids, in small steps; now and then what is too much."""
        if self._clock.monotonic() >= self._count_at and self._database.up:
            self._count_at = self._clock.monotonic() + COUNT_SECONDS
            await self._writer.submit(partial(_delete_surplus, self._limit))
        oldest = self._recent.oldest_time()
        for _ in range(MAX_SWEEP_STEPS):
            deleted = await self._writer.submit(partial(_sweep, oldest, self._results)) if self._database.up else None
            if deleted is None or deleted < SWEEP_ROWS:
                return

    # -- inside

    async def _commit(self, work: Callable[[sqlite3.Connection], Any], size: int) -> Any:
        """Return what the work has returned, None while it is not committed."""
        done = self._writer.submit(work, size=size, priority=DURABLE)
        if self._database.up:
            await asyncio.wait({done}, timeout=COMMIT_SECONDS)
        return done.result() if done.done() else None

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        try:
            return await self._database.run(work)
        except (UnusableError, msgspec.MsgspecError):
            return None


@lru_cache(maxsize=256)
def _scope_digest(scope: str) -> bytes:
    """Return a short id of a scope, as there may be a million rows."""
    return digest(scope.encode())[:16]


def _put_execution(record: ExecutionRecord, db: sqlite3.Connection) -> bool:
    values = (record.id, record.started_at, record.status, msgspec.msgpack.encode(record))
    db.execute("INSERT OR REPLACE INTO executions (id, started_at, status, packed) VALUES (?, ?, ?, ?)", values)
    return True


def _put_job(job: JobRecord, db: sqlite3.Connection) -> bool:
    values = (job.id, job.execution_id, job.noted_at, msgspec.msgpack.encode(job))
    db.execute("INSERT OR REPLACE INTO jobs (id, execution_id, noted_at, packed) VALUES (?, ?, ?, ?)", values)
    return True


def _put_result(scope: bytes, result_id: int, query_id: int, identity: bytes, db: sqlite3.Connection) -> bool:
    db.execute(
        "INSERT INTO result_ids (scope, result_id, query_id, identity) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET identity = excluded.identity WHERE excluded.identity <> x''",
        (scope, result_id, query_id, identity),
    )
    return True


def _jobs(where: str, value: str, db: sqlite3.Connection) -> list[JobRecord]:
    rows = db.execute(f"SELECT packed FROM jobs WHERE {where}", (value,))  # noqa: S608 - one of our own literals
    return [msgspec.msgpack.decode(row[0], type=JobRecord) for row in rows]


def _executions(where: str, value: object, db: sqlite3.Connection) -> list[ExecutionRecord]:
    rows = db.execute(f"SELECT packed FROM executions WHERE {where}", (value,))  # noqa: S608 - as above
    return [msgspec.msgpack.decode(row[0], type=ExecutionRecord) for row in rows]


def _queries(scope: bytes, result_id: int, db: sqlite3.Connection) -> dict[int, bytes]:
    rows = db.execute("SELECT query_id, identity FROM result_ids WHERE scope = ? AND result_id = ?", (scope, result_id))
    return dict(rows)


def _has_any(scope: bytes, db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM result_ids WHERE scope = ? LIMIT 1", (scope,)).fetchone() is not None


def _scope_of(name: str, db: sqlite3.Connection) -> str | None:
    found = db.execute("SELECT value FROM meta WHERE name = ?", (f"scope of {name}",)).fetchone()
    return None if found is None else str(found[0])


def _record_scope(name: str, scope: str, db: sqlite3.Connection) -> str | None:
    db.execute(
        "INSERT OR IGNORE INTO meta SELECT ?, ? WHERE (SELECT count(*) FROM meta) < ?",
        (f"scope of {name}", scope, MOST_SCOPES),
    )
    return _scope_of(name, db)


def _text(name: str, db: sqlite3.Connection) -> str | None:
    found = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])


def _record_text(name: str, text: str, db: sqlite3.Connection) -> bool:
    db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, text))
    return True


def _delete_surplus(limit: int, db: sqlite3.Connection) -> bool:
    for statement in (SURPLUS_EXECUTIONS, SURPLUS_JOBS):
        db.execute(statement, (ROW_BYTES, limit))
    return True


def _sweep(oldest: float, results: int, db: sqlite3.Connection) -> int:
    deleted = db.execute(EXPIRED_JOBS, (oldest, SWEEP_ROWS)).rowcount
    deleted += db.execute(EXPIRED_EXECUTIONS, (oldest, SWEEP_ROWS)).rowcount
    return deleted + db.execute(SURPLUS_RESULTS, (results, SWEEP_ROWS)).rowcount
