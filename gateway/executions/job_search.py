"""Finds jobs, their runs and their ends: in memory, in the ledger, and on other gateways."""

from __future__ import annotations

from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.errors import GatewayError, NotFound, ServiceUnavailable
from gateway.executions.ending import CANCELLED_TEXT
from gateway.executions.execution import LIFE_SECONDS, Execution
from gateway.executions.flights import Executions
from gateway.executions.job_views import JobView, pending_view, recorded_view, view_of
from gateway.executions.needs import Needs
from gateway.executions.revival import Revival
from gateway.executions.standing import is_within
from gateway.model import Clock, ExecutionRecord, JobRecord
from gateway.policy.access import Caller
from gateway.redash.requests import CancelJob, ReadJob
from gateway.store import Leases, Ledger

MOST_FOLLOW_UPS: Final = 8
MOST_UNSERVED: Final = 10_000

LATE_SECONDS: Final = 3.0
"""After so long another gateway begins the later run of a job: the one that gave it out is gone."""

UNKNOWN_TEXT: Final = "This client has no such job; job ids live for 12 hours."

_RECENT_BYTES: Final = 16 * 1024 * 1024
_OVERHEAD_BYTES: Final = 1_500

Found = tuple[JobRecord, Execution | JobView | None]


class JobFinder:
    """Remembers the newest jobs that this gateway has given out, with their runs or ends."""

    def __init__(
        self, executions: Executions, revival: Revival, needs: Needs, leases: Leases, ledger: Ledger, clock: Clock
    ) -> None:
        self._executions = executions
        self._revival = revival
        self._needs = needs
        self._leases = leases
        self._ledger = ledger
        self._clock = clock
        self._unserved: LRUCache[str, float] = LRUCache(MOST_UNSERVED)  # since when (monotonic)
        self.recent: LRUCache[str, tuple[JobRecord, Execution | JobView]] = LRUCache(_RECENT_BYTES, getsizeof=_size)

    async def find(self, operation: ReadJob | CancelJob, caller: Caller, allowed: frozenset[int] | None) -> Found:
        """Return a job of this caller, and its run or its end, if they are known here.

        Raises:
            NotFound: unknown, expired, another client's, or requested below the path of another query.
            ServiceUnavailable: the ledger cannot be read now.
        """
        job, execution = await self._known(operation.job_id)
        if job is None:
            raise self._unknown()
        if job.client != caller.name or not caller.owns(job.token_sha256):
            raise NotFound(UNKNOWN_TEXT)
        if self._clock.wall() - job.noted_at > LIFE_SECONDS:
            raise NotFound(UNKNOWN_TEXT)
        if operation.query_id is not None and operation.query_id != job.query_id:
            raise NotFound(UNKNOWN_TEXT)
        if allowed is not None and job.query_id not in allowed:
            raise NotFound(UNKNOWN_TEXT)
        return (job, execution) if execution is not None else await self._run_of(job)

    async def _known(self, job_id: str) -> tuple[JobRecord | None, Execution | JobView | None]:
        """Return a job, and its run if it is remembered here; another gateway may have ended or moved the job."""
        job, known = self.recent.get(job_id, (None, None))
        if job is not None and (isinstance(known, JobView) or not self._leases.shared):
            return job, known
        recorded = await self._ledger.job(job_id) or job
        if recorded is None or job is None or recorded.execution_id != job.execution_id:
            return recorded, None
        if recorded.is_over and isinstance(known, Execution):
            self.settle(recorded, known)
        return self.recent.get(job_id, (recorded, known))

    async def _run_of(self, job: JobRecord) -> Found:
        """Return what this process knows of the run of a job; where another gateway gave the job out, follow its run.

        The record of a run that another gateway led says whether it serves the caller; if not, a later run does.
        """
        for _ in range(MOST_FOLLOW_UPS):
            if job.is_over:
                return job, None
            execution = self._executions.current.by_id(job.execution_id) or await self._revival.adopt(job.execution_id)
            if execution is not None or not self._leases.for_many:
                return job, execution
            record = await self._ledger.execution(job.execution_id)
            if record is None or _serves(record, job, is_known_to_all=self._leases.shared):
                return job, None if record is None else recorded_view(job, record)
            if not record.follow_up or not (job.ask == 0 or is_within(job.ask, record.heard)):
                return await self._later_run(job, record)
            job = msgspec.structs.replace(job, execution_id=record.follow_up, ask=0)
        return job, pending_view(job)

    async def _later_run(self, job: JobRecord, record: ExecutionRecord) -> Found:
        """Return a job that is to wait for a later run. The gateway that gave it out begins that, if it is there."""
        now = self._clock.monotonic()
        if now - self._unserved.setdefault(job.id, now) < LATE_SECONDS:
            return job, pending_view(job)
        try:
            execution = await self._revival.rerun(record)
        except GatewayError:
            return job, pending_view(job)
        ask = await self._needs.number(execution, now)
        job = msgspec.structs.replace(job, execution_id=execution.id, ask=ask)
        execution.seen[job.id], execution.not_before[job.id] = now, now
        await self._ledger.record_job(job)
        return job, execution

    async def state(self, job: JobRecord, execution: Execution | JobView | None) -> JobView:
        """Return how a job stands; it ends with the stored result, if it has one and Redash does not answer now."""
        if isinstance(execution, JobView):
            return execution
        if execution is not None and execution.is_unanswered and job.fallback is not None and not job.is_over:
            job = msgspec.structs.replace(job, fell_back=True)
            self.settle(job, execution)
            await self._ledger.record_job(job)
        if execution is not None or job.is_over:
            return view_of(job, execution)
        record = await self._ledger.execution(job.execution_id)
        if record is None:
            raise self._unknown()
        return recorded_view(job, record)

    def _unknown(self) -> GatewayError:
        if not self._ledger.ready:
            return ServiceUnavailable(
                "The store, which has the records of jobs, cannot be read now; try again soon.", retry_after=1
            )
        return NotFound(UNKNOWN_TEXT)

    def drop(self, job_id: str, execution: Execution | None) -> None:
        """Take note that a job was cancelled."""
        job, known = self.recent.get(job_id, (None, None))
        if job is not None and isinstance(known, Execution):
            self.settle(msgspec.structs.replace(job, cancelled=True), execution)
        elif execution is not None:
            execution.release_job(job_id)

    def settle(self, job: JobRecord, execution: Execution | None) -> None:
        """Remember how a job ended that is over before its run, and wake its callers."""
        self.recent[job.id] = (job, view_of(job, None))
        if execution is not None:
            execution.release_job(job.id)


def _serves(record: ExecutionRecord, job: JobRecord, *, is_known_to_all: bool) -> bool:
    if record.abandoned and record.error == CANCELLED_TEXT:
        return False
    return record.status != 3 or not job.ask or not is_known_to_all or is_within(job.ask, record.served)


def _size(recent: tuple[JobRecord, Execution | JobView]) -> int:
    """Return what it counts: an execution is counted by `Executions` while it runs."""
    _, known = recent
    return _OVERHEAD_BYTES + (len(known.error) if isinstance(known, JobView) else 0)
