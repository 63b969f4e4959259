"""The ledger in memory: bounded, oldest records removed first. Used alone, and beside the other ledgers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from gateway.model import Clock, ExecutionRecord, JobRecord

LIFETIME_SECONDS = 12 * 3600.0
"""Redash's own lifetime of a job (CONTRACT 9)."""

RECORD_OVERHEAD = 1200
"""Bytes of an execution or job without the texts that callers or Redash made: struct, dictionary slots; rounded up."""

MOST_SCOPES = 10_000
"""Names that can have a scope, of a hundred bytes each. Replacing keys makes few."""

CLEANUP_STEP = 4
"""Each new record checks this many of the oldest: more can be removed than are added, and no call takes long."""


class MemoryLedger:
    """Holds up to `limit_bytes` of executions, as much of jobs, and `results` result ids."""

    def __init__(self, clock: Clock, *, limit_bytes: int = 32 * 2**20, results: int = 200_000) -> None:
        self._clock = clock
        self._limit = limit_bytes
        self._results_limit = results
        self._executions: dict[str, ExecutionRecord] = {}
        self._execution_bytes = 0
        self._jobs: dict[str, JobRecord] = {}
        self._jobs_of: dict[str, dict[str, None]] = {}
        self._results: dict[tuple[str, int], dict[int, bytes]] = {}
        self._scopes: set[str] = set()  # of results, also of those that are deleted by now
        self._scopes_by_name: dict[str, str] = {}
        self._spending: dict[str, str] = {}
        self._purges: str | None = None

    # -- Ledger

    ready = True

    async def record_execution(self, record: ExecutionRecord) -> None:
        """See the protocol."""
        self.put_execution(record)

    async def record_job(self, job: JobRecord) -> None:
        """See the protocol."""
        self.put_job(job)

    async def job(self, job_id: str) -> JobRecord | None:
        """See the protocol."""
        return self.get_job(job_id)

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """See the protocol."""
        return self.get_execution(execution_id)

    async def unfinished(self) -> list[ExecutionRecord]:
        """See the protocol."""
        return select_unfinished(self.executions(), self.oldest_time())

    async def jobs_of(self, execution_id: str) -> list[JobRecord]:
        """See the protocol."""
        return sort_by_age(self.get_jobs_of(execution_id), self.oldest_time())

    async def record_result(self, scope: str, result_id: int, query_id: int, identity: bytes = b"") -> None:
        """See the protocol."""
        self.put_result(scope, result_id, query_id, identity)

    async def queries_of_result(self, scope: str, result_id: int) -> Mapping[int, bytes]:
        """See the protocol."""
        return self.get_queries(scope, result_id)

    async def has_results(self, scope: str) -> bool:
        """See the protocol."""
        return scope in self._scopes

    async def scope_of(self, name: str) -> str | None:
        """See the protocol."""
        return self._scopes_by_name.get(name)

    async def record_scope(self, name: str, scope: str) -> str | None:
        """See the protocol."""
        if len(self._scopes_by_name) < MOST_SCOPES:
            self._scopes_by_name.setdefault(name, scope)
        return self._scopes_by_name.get(name)

    async def spending(self, client: str) -> str | None:
        """See the protocol."""
        return self._spending.get(client)

    async def record_spending(self, client: str, text: str) -> None:
        """See the protocol."""
        self._spending[client] = text

    async def purges(self) -> str | None:
        """See the protocol."""
        return self._purges

    async def record_purges(self, text: str) -> None:
        """See the protocol."""
        self._purges = text

    # -- the same without awaiting

    def oldest_time(self) -> float:
        """Return the wall-clock time before which a record has expired."""
        return self._clock.wall() - LIFETIME_SECONDS

    def put_execution(self, record: ExecutionRecord) -> None:
        """As `record_execution`, without awaiting."""
        old = self._executions.get(record.id)
        self._execution_bytes += _size(record) - (_size(old) if old is not None else 0)
        self._executions[record.id] = record
        for execution in list(itertools.islice(self._executions.values(), CLEANUP_STEP)):
            if self._execution_bytes > self._limit or execution.started_at < self.oldest_time():
                self._remove_execution(execution)

    def put_job(self, job: JobRecord) -> None:
        """As `record_job`, without awaiting."""
        old = self._jobs.get(job.id)
        if old is not None and old.execution_id != job.execution_id:
            self._remove_job(old)
        self._jobs[job.id] = job
        self._jobs_of.setdefault(job.execution_id, {})[job.id] = None
        for old in list(itertools.islice(self._jobs.values(), CLEANUP_STEP)):
            if len(self._jobs) * RECORD_OVERHEAD > self._limit or old.noted_at < self.oldest_time():
                self._remove_job(old)

    def put_result(self, scope: str, result_id: int, query_id: int, identity: bytes = b"") -> bool:
        """As `record_result`, without awaiting; return whether it was new."""
        known = self._results.setdefault((scope, result_id), {})
        if query_id in known and identity in (b"", known[query_id]):
            return False
        known[query_id] = identity
        self._scopes.add(scope)
        if len(self._results) > self._results_limit:
            del self._results[next(iter(self._results))]
        return True

    def get_job(self, job_id: str) -> JobRecord | None:
        """As `job`, without awaiting."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.noted_at >= self.oldest_time() else None

    def get_execution(self, execution_id: str) -> ExecutionRecord | None:
        """As `execution`, without awaiting."""
        record = self._executions.get(execution_id)
        return record if record is not None and record.started_at >= self.oldest_time() else None

    def executions(self) -> list[ExecutionRecord]:
        """Return all executions, expired ones included."""
        return list(self._executions.values())

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, expired ones included."""
        return list(self._jobs.values())

    def get_jobs_of(self, execution_id: str) -> list[JobRecord]:
        """Return the jobs of an execution, unordered, expired ones included."""
        return [self._jobs[job_id] for job_id in self._jobs_of.get(execution_id, ())]

    def get_queries(self, scope: str, result_id: int) -> Mapping[int, bytes]:
        """As `queries_of_result`, without awaiting."""
        return dict(self._results.get((scope, result_id), {}))

    def clear_results(self) -> None:
        """Remove all result ids."""
        self._results.clear()
        self._scopes.clear()

    def _remove_execution(self, record: ExecutionRecord) -> None:
        del self._executions[record.id]
        self._execution_bytes -= _size(record)

    def _remove_job(self, job: JobRecord) -> None:
        del self._jobs[job.id]
        siblings = self._jobs_of[job.execution_id]
        del siblings[job.id]
        if not siblings:
            del self._jobs_of[job.execution_id]


def select_unfinished(records: Iterable[ExecutionRecord], oldest: float) -> list[ExecutionRecord]:
    """Return the executions with status 1 or 2 that started at `oldest` (wall clock) or later, oldest first."""
    return sorted((r for r in records if r.status < 3 and r.started_at >= oldest), key=lambda r: r.started_at)


def sort_by_age(jobs: Iterable[JobRecord], oldest: float) -> list[JobRecord]:
    """Return the jobs recorded at `oldest` (wall clock) or later, oldest first."""
    return sorted((job for job in jobs if job.noted_at >= oldest), key=lambda job: job.noted_at)


def _size(record: ExecutionRecord) -> int:
    return RECORD_OVERHEAD + len(record.body) + len(record.path) + len(record.error)
