"""Job ids: the gateway's own, one for each caller, whatever they stand for (an execution under way, ended, or none)."""

from __future__ import annotations

import uuid
from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.access import Caller
from gateway.calls import Call, Redash
from gateway.errors import NotFound
from gateway.execution import CANCELLED_TEXT, Execution, Phase
from gateway.executions import Executions
from gateway.model import Clock, JobRecord
from gateway.outcome import Sender
from gateway.policy import Plan
from gateway.redash.answers import job_body
from gateway.store import Ledger

ALIVE_SECONDS: Final = 60.0
"""A job id that polled or waited within this time keeps Redash's job from being cancelled by another's DELETE."""

_RECENT: Final = 10_000
_UNKNOWN_TEXT: Final = "This client has no such job; job ids live for 12 hours."


class JobView(msgspec.Struct, frozen=True):
    """What a caller is told of its job."""

    id: str
    status: int
    error: str
    result_id: int | None
    execution_id: str
    query_id: int

    @property
    def pending(self) -> bool:
        """Whether it has not ended."""
        return self.status in (1, 2)

    def body(self) -> bytes:
        """Return the job as Redash writes it."""
        return job_body(self.id, self.status, error=self.error, result_id=self.result_id)


class Jobs:
    """The job ids of every client."""

    def __init__(self, executions: Executions, upstream: Redash, ledger: Ledger, clock: Clock) -> None:
        self._executions = executions
        self._upstream = upstream
        self._ledger = ledger
        self._clock = clock
        self._recent: LRUCache[str, tuple[JobRecord, Execution]] = LRUCache(_RECENT)

    async def new(self, x: Execution, client: str) -> JobView:
        """Give a caller a job id of its own for `x`; it is in the ledger when this returns."""
        if not x.noted:
            await self._executions.note(x)
        job = await self._new_record(x, client)
        self._recent[job.id] = (job, x)
        x.seen[job.id] = self._clock.monotonic()
        return _view(job, x)

    async def finished(self, plan: Plan, result_id: int, client: str, sender: Sender) -> JobView:
        """Give a caller a job that has already succeeded: it asked for a run, and a floor lets an entry answer."""
        x = Execution(plan, sender, self._clock.monotonic())
        record = x.record(self._clock.wall(), self._clock.monotonic())
        await self._ledger.note_execution(msgspec.structs.replace(record, status=3, result_id=result_id))
        job = await self._new_record(x, client)
        return JobView(job.id, 3, "", result_id, x.id, plan.query_id)

    async def _new_record(self, x: Execution, client: str) -> JobRecord:
        job = JobRecord(
            id=str(uuid.uuid4()),
            execution_id=x.id,
            client=client,
            scope=x.plan.credential.scope,
            query_id=x.plan.query_id,
            noted_at=self._clock.wall(),
        )
        await self._ledger.note_job(job)
        return job

    async def look_up(self, job_id: str, caller: Caller) -> tuple[JobView, Execution | None]:
        """Return what is known of a job, and its execution if it is in this process.

        Raises:
            NotFound: unknown, expired, or another client's.
        """
        job, x = await self._find(job_id, caller)
        if x is not None and not job.cancelled:
            x.seen[job_id] = self._clock.monotonic()
        return await self._told(job, x), x

    async def _find(self, job_id: str, caller: Caller) -> tuple[JobRecord, Execution | None]:
        job, x = self._recent.get(job_id) or (await self._ledger.job(job_id), None)
        if job is None or job.client != caller.name:
            raise NotFound(_UNKNOWN_TEXT)
        return job, x or self._executions.by_id(job.execution_id)

    async def _told(self, job: JobRecord, x: Execution | None) -> JobView:
        if x is not None or job.cancelled:
            return _view(job, x)
        record = await self._ledger.execution(job.execution_id)
        if record is None:
            raise NotFound(_UNKNOWN_TEXT)
        return JobView(job.id, record.status, record.error, record.result_id, record.id, job.query_id)

    async def cancel(self, job_id: str, caller: Caller, sender: Sender) -> None:
        """End one job id; Redash's job too, when nobody else has asked for it lately. What has ended stays as it was.

        Raises:
            NotFound: as `look_up`.
        """
        job, x = await self._find(job_id, caller)
        if not (await self._told(job, x)).pending:
            return
        cancelled = msgspec.structs.replace(job, cancelled=True)
        await self._ledger.note_job(cancelled)
        if x is None:
            return
        self._recent[job_id] = (cancelled, x)
        x.seen.pop(job_id, None)
        if not self._wanted(x):
            await self._stop(x, sender)

    def _wanted(self, x: Execution) -> bool:
        horizon = self._clock.monotonic() - ALIVE_SECONDS
        return len(x.ended) > 0 or any(seen >= horizon for seen in x.seen.values())

    async def _stop(self, x: Execution, sender: Sender) -> None:
        if x.phase is Phase.QUEUED and x.task is not None:
            x.cancelled = True
            x.task.cancel()
            return
        shared = any(o is not x and o.upstream_job == x.upstream_job for o in self._executions.running)
        if not x.upstream_job or shared or x.plan.credential.is_query_key:
            return  # Redash lets no query key cancel (CONTRACT 2); the run goes on and its result is kept
        x.cancelled = True
        call = Call(method="DELETE", path=f"/api/jobs/{x.upstream_job}", route="/api/jobs/{job_id}")
        await self._upstream.send(x.plan.credential, call, sender)


def _view(job: JobRecord, x: Execution | None) -> JobView:
    if job.cancelled or x is None:
        return JobView(job.id, 4, CANCELLED_TEXT, None, job.execution_id, job.query_id)
    if x.phase is Phase.ENDED:
        return JobView(job.id, x.status, x.error, x.result_id, x.id, job.query_id)
    return JobView(job.id, x.status if x.status in (1, 2) else 2, "", None, x.id, job.query_id)
