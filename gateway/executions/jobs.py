"""Job ids: the gateway's own, one for each caller, for an execution in progress, an ended one, or a stored result."""

from __future__ import annotations

import json
import math
from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.concurrency.events import Event, wait_for
from gateway.errors import GatewayError, NotFound, ServiceUnavailable
from gateway.executions.cancelling import cancel_run
from gateway.executions.execution import CANCELLED_TEXT, LIFE_SECONDS, Ending, Execution, Phase, new_id
from gateway.executions.flights import Executions
from gateway.model import Clock, JobRecord
from gateway.outcome import Sender
from gateway.policy.access import Caller
from gateway.policy.plan import Plan
from gateway.redash.requests import CancelJob, ReadJob
from gateway.store import Ledger
from gateway.upstream.protocol import Upstream

ALIVE_SECONDS: Final = 60.0
"""While one job id was polled within this time, a DELETE of another does not cancel the shared job in Redash."""

NEAR_SECONDS: Final = 0.1
"""How long a caller that polls may wait for a poll of Redash that is due, and for the result that it has shown."""

_RECENT_BYTES: Final = 16 * 1024 * 1024
_OVERHEAD_BYTES: Final = 1_500
_UNKNOWN_TEXT: Final = "This client has no such job; job ids live for 12 hours."
_OTHER_SCOPE_TEXT: Final = "The client's credential for this job has changed; run the query again."


class JobView(msgspec.Struct, frozen=True):
    """What a caller sees of its job."""

    id: str
    status: int
    error: str
    result_id: int | None
    updated_at: object
    execution_id: str
    query_id: int

    @property
    def pending(self) -> bool:
        """Whether it has not ended."""
        return self.status in (1, 2)

    def body(self) -> bytes:
        """Return the job as Redash writes it; it begins with the bytes `{"job":`, which clients test for."""
        job = {
            "id": self.id,
            "updated_at": self.updated_at,
            "status": self.status,
            "error": self.error,
            "result": self.result_id,
            "query_result_id": self.result_id,
        }
        return json.dumps({"job": job}, separators=(", ", ": ")).encode()


class Jobs:
    """The job ids of every client."""

    def __init__(self, executions: Executions, upstream: Upstream, ledger: Ledger, clock: Clock) -> None:
        self._executions = executions
        self._upstream = upstream
        self._ledger = ledger
        self._clock = clock
        self._recent: LRUCache[str, tuple[JobRecord, Execution | JobView]] = LRUCache(_RECENT_BYTES, getsizeof=_size)
        executions.on_end.append(self._ended)
        executions.move_jobs = self._move

    async def new(self, execution: Execution, client: str, token_sha256: str, not_before: float) -> JobView:
        """Give a caller a job id of its own for an execution; it is in the ledger when this returns.

        The caller needs rows from `not_before` (monotonic) on.
        """
        if not execution.recorded:
            await self._executions.record(execution)
        execution = execution.serving(not_before)
        job = await self._new_record(execution, client, token_sha256, not_before)
        while (serving := execution.serving(not_before)) is not execution:  # it ended meanwhile, too early
            job, execution = await self._moved(job, serving), serving
        view = _view(job, execution)
        self._recent[job.id] = (job, view if execution.phase is Phase.ENDED else execution)
        execution.seen[job.id] = self._clock.monotonic()
        execution.not_before[job.id] = not_before
        return view

    async def _move(self, execution: Execution, follow_up: Execution) -> None:
        """Let the jobs whose callers need newer rows be jobs of the follow-up."""
        for job_id in [job_id for job_id, moment in execution.not_before.items() if not execution.serves(moment)]:
            recent = self._recent.get(job_id)
            job = recent[0] if recent is not None else await self._ledger.job(job_id)
            if job is None or job.cancelled:
                continue
            follow_up.not_before[job_id] = execution.not_before.pop(job_id)
            follow_up.seen[job_id] = execution.seen.pop(job_id, self._clock.monotonic())
            if (event := execution.job_events.pop(job_id, None)) is not None:
                follow_up.job_events[job_id] = event
            self._recent[job_id] = (msgspec.structs.replace(job, execution_id=follow_up.id), follow_up)
            await self._moved(job, follow_up)

    async def _moved(self, job: JobRecord, execution: Execution) -> JobRecord:
        """Record that a job is one of this execution now."""
        job = msgspec.structs.replace(job, execution_id=execution.id)
        await self._ledger.record_job(job)
        return job

    def _ended(self, execution: Execution) -> None:
        """Remember how it ended, and release its result, which may be large."""
        for job_id in execution.seen:
            if (recent := self._recent.get(job_id)) is not None:
                self._recent[job_id] = (recent[0], _view(recent[0], execution))

    async def finished(self, plan: Plan, result_id: int, sender: Sender, token_sha256: str) -> JobView:
        """Give a caller a job that has already succeeded: it requested a run, but a floor let a stored result serve."""
        execution = Execution(plan, sender, self._clock.monotonic())
        record = execution.record(self._clock.wall(), self._clock.monotonic(), Ending("success"))
        await self._ledger.record_execution(msgspec.structs.replace(record, result_id=result_id))
        job = await self._new_record(execution, sender.client, token_sha256, -math.inf)
        return JobView(job.id, 3, "", result_id, 0, execution.id, plan.query_id)

    async def _new_record(self, execution: Execution, client: str, token_sha256: str, not_before: float) -> JobRecord:
        job = JobRecord(
            id=new_id(),
            execution_id=execution.id,
            client=client,
            scope=execution.plan.credential.scope,
            query_id=execution.plan.query_id,
            noted_at=self._clock.wall(),
            token_sha256=token_sha256,
            not_before=not_before + self._clock.wall() - self._clock.monotonic(),
        )
        await self._ledger.record_job(job)
        return job

    async def look_up(
        self,
        operation: ReadJob,
        caller: Caller,
        scopes: frozenset[str],
        allowed: frozenset[int] | None,
        until: float = -math.inf,
    ) -> JobView:
        """Return what is known of a job; if it has not ended, wait for its end, at most until then (monotonic).

        A caller that does not wait, but comes shortly before a poll, waits for what this poll shows: it would learn the
        end of the run only by its next request, which may come a second later.

        `scopes` are those of the client's credentials: the result id of a job of another one may name anything there.
        `allowed` are the queries that a bound client may use, None for all.

        Raises:
            NotFound: unknown, expired, another client's, or requested below the path of another query.
        """
        job, execution = await self._find(operation, caller, allowed)
        if job.scope not in scopes:
            return JobView(job.id, 4, _OTHER_SCOPE_TEXT, None, 0, job.execution_id, job.query_id)
        view = await self._state(job, execution)
        if not isinstance(execution, Execution) or not view.pending:
            return view
        now = execution.seen[job.id] = self._clock.monotonic()
        if self._executions.draining:
            return view
        if until > now:  # for this job, not for the execution: a DELETE ends this job id alone
            await wait_for(execution.job_events.setdefault(job.id, Event()), until - now)
        elif _is_near(execution, now):
            await wait_for(execution.polled, NEAR_SECONDS)
        else:
            return view
        return await self._state(*await self._find(operation, caller, allowed))

    async def run_of(
        self, operation: ReadJob, caller: Caller, allowed: frozenset[int] | None, scope: str
    ) -> Execution | JobView:
        """Return the execution of a job id, or its end; this counts as a poll.

        Raises:
            NotFound: as `look_up`; or it ran with a credential of another scope.
            ServiceUnavailable: no process follows it now.
        """
        job, execution = await self._find(operation, caller, allowed)
        if job.scope != scope:
            raise NotFound(_UNKNOWN_TEXT)
        if isinstance(execution, Execution) and not job.cancelled:
            execution.seen[job.id] = self._clock.monotonic()
            return execution
        view = await self._state(job, execution)
        if view.pending:
            raise ServiceUnavailable("The gateway does not follow this run yet; try again soon.", retry_after=1)
        return view

    async def _find(
        self, operation: ReadJob | CancelJob, caller: Caller, allowed: frozenset[int] | None
    ) -> tuple[JobRecord, Execution | JobView | None]:
        job, execution = self._recent.get(operation.job_id) or (await self._ledger.job(operation.job_id), None)
        if job is None:
            raise self._unknown()
        if job.client != caller.name or not caller.owns(job.token_sha256):
            raise NotFound(_UNKNOWN_TEXT)
        if self._clock.wall() - job.noted_at > LIFE_SECONDS:
            raise NotFound(_UNKNOWN_TEXT)
        if operation.query_id is not None and operation.query_id != job.query_id:
            raise NotFound(_UNKNOWN_TEXT)
        if allowed is not None and job.query_id not in allowed:
            raise NotFound(_UNKNOWN_TEXT)
        return job, execution or self._executions.by_id(job.execution_id)

    async def _state(self, job: JobRecord, execution: Execution | JobView | None) -> JobView:
        if isinstance(execution, JobView):
            return execution
        if execution is not None or job.cancelled:
            return _view(job, execution)
        record = await self._ledger.execution(job.execution_id)
        if record is None:
            raise self._unknown()
        return JobView(job.id, record.status, record.error, record.result_id, 0, record.id, job.query_id)

    def _unknown(self) -> GatewayError:
        if not self._ledger.ready:
            return ServiceUnavailable("The gateway cannot read its records of jobs now; try again soon.", retry_after=1)
        return NotFound(_UNKNOWN_TEXT)

    async def cancel(
        self, operation: CancelJob, caller: Caller, allowed: frozenset[int] | None, sender: Sender
    ) -> None:
        """Cancel one job; in Redash, too, if none of its other job ids was polled lately. An ended job does not change.

        Raises:
            NotFound: as `look_up`.
        """
        job, execution = await self._find(operation, caller, allowed)
        if not (await self._state(job, execution)).pending:
            return
        cancelled = msgspec.structs.replace(job, cancelled=True)
        await self._ledger.record_job(cancelled)
        if not isinstance(execution, Execution):
            return
        self._recent[job.id] = (cancelled, _view(cancelled, execution))
        execution.seen.pop(job.id, None)
        execution.not_before.pop(job.id, None)
        if (event := execution.job_events.pop(job.id, None)) is not None:
            event.set()
        if not self._wanted(execution):
            await cancel_run(execution, self._executions.running, self._upstream, sender)

    def _wanted(self, execution: Execution) -> bool:
        horizon = self._clock.monotonic() - ALIVE_SECONDS
        return execution.is_awaited or any(seen >= horizon for seen in execution.seen.values())


def _is_near(execution: Execution, now: float) -> bool:
    """Whether Redash is polled soon or just now, or has shown the end, so that the result is being fetched."""
    return execution.polls is not None and execution.polls.due - now <= NEAR_SECONDS


def _view(job: JobRecord, execution: Execution | None) -> JobView:
    if job.cancelled or execution is None:
        return JobView(job.id, 4, CANCELLED_TEXT, None, 0, job.execution_id, job.query_id)
    if (ending := execution.ending) is not None:
        return JobView(job.id, ending.status, ending.error, ending.result_id, 0, execution.id, job.query_id)
    status = execution.upstream_status
    return JobView(job.id, status, "", None, execution.updated_at if status == 2 else 0, execution.id, job.query_id)


def _size(recent: tuple[JobRecord, Execution | JobView]) -> int:
    """Return what it counts: an execution is counted by `Executions` while it runs."""
    _, known = recent
    return _OVERHEAD_BYTES + (len(known.error) if isinstance(known, JobView) else 0)
