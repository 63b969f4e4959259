"""Job ids: the gateway's own, one for each caller, for an execution in progress, an ended one, or a stored result."""

from __future__ import annotations

import math
from contextlib import ExitStack, nullcontext, suppress
from typing import Final

import msgspec

from gateway.concurrency.events import Event, wait_for
from gateway.errors import NotFound, ServiceUnavailable, UpstreamError
from gateway.executions.cancelling import Cancelling
from gateway.executions.ending import Ending
from gateway.executions.execution import Execution, Phase
from gateway.executions.flights import Executions
from gateway.executions.job_search import UNKNOWN_TEXT, JobFinder
from gateway.executions.job_views import JobView, view_of
from gateway.executions.needs import Needs
from gateway.executions.records import record_of
from gateway.executions.revival import Revival
from gateway.model import UNASKED, Clock, JobRecord, new_id
from gateway.outcome import Sender
from gateway.policy.access import Caller
from gateway.policy.plan import Plan
from gateway.redash.requests import CancelJob, ReadJob
from gateway.store import LeaseLostError, Leases, Ledger

NEAR_SECONDS: Final = 0.1
"""How long a caller that polls may wait for a poll of Redash that is due, and for the result that it has shown."""

_OTHER_SCOPE_TEXT: Final = "The client's credential for this job has changed; run the query again."


class Jobs:
    """The job ids of every client."""

    def __init__(
        self,
        executions: Executions,
        revival: Revival,
        cancelling: Cancelling,
        leases: Leases,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self._executions = executions
        self._cancelling = cancelling
        self._leases = leases
        self._ledger = ledger
        self._clock = clock
        self._needs = Needs(leases, clock)
        self._finder = JobFinder(executions, revival, self._needs, leases, ledger, clock)
        self._recent = self._finder.recent
        executions.on_end.append(self._ended)
        executions.move_jobs, executions.settle_jobs = self._move, self._settle
        leases.on_news.append(self._news)

    async def new(
        self, execution: Execution, client: str, token_sha256: str, not_before: float, fallback: int | None
    ) -> JobView:
        """Give a caller a job id of its own for an execution; it is in the ledger when this returns.

        The caller needs rows from `not_before` (monotonic) on. `fallback` is the id of a stored result with which the
        job ends if Redash turns out to be unavailable.
        """
        with ExitStack() as kept:
            kept.enter_context(self._cancelling.prevented(execution))
            return await self._given(kept, execution, client, token_sha256, not_before, fallback)

    async def _given(
        self,
        kept: ExitStack,
        execution: Execution,
        client: str,
        token_sha256: str,
        not_before: float,
        fallback: int | None,
    ) -> JobView:
        execution.is_known = True
        if not execution.recorded:
            await self._executions.record(execution)
        execution = await self._needs.told(execution, not_before)
        kept.enter_context(self._cancelling.prevented(execution))
        job = await self._new_record(execution, client, token_sha256, not_before, fallback)
        # It may have ended meanwhile, too early; or another gateway leads it by now, and knows nothing of this caller;
        # or Redis was lost, and the job may not be there when others look for it.
        cut_off = self._leases.for_many and not self._leases.shared and job.ask != UNASKED
        while cut_off or execution.serving(not_before) is not execution or not await _is_sure(execution):
            cut_off = False
            execution = await self._needs.told(execution, not_before)
            kept.enter_context(self._cancelling.prevented(execution))
            job = await self._moved(job, execution, not_before)
        if self._leases.shared and execution.standing.lease.is_safe:
            execution.standing.handed_over.add(job.id)
        view = view_of(job, execution)
        self._recent[job.id] = (job, view if execution.phase is Phase.ENDED else execution)
        execution.seen[job.id] = self._clock.monotonic()
        execution.not_before[job.id] = not_before
        return view

    async def _move(self, execution: Execution, follow_up: Execution) -> None:
        """Let the jobs whose callers need newer rows be jobs of the follow-up."""
        for job_id in [job_id for job_id, moment in execution.not_before.items() if not execution.serves(moment)]:
            recent = self._recent.get(job_id)
            job = recent[0] if recent is not None else await self._ledger.job(job_id)
            if job is None or job.is_over or await self._is_final(job, execution):
                continue
            not_before = execution.not_before.pop(job_id, None)
            if not_before is None:  # it was cancelled meanwhile
                continue
            serving = follow_up.serving(not_before)  # it may have ended by now, too early as well
            serving.not_before[job_id] = not_before
            serving.seen[job_id] = execution.seen.pop(job_id, self._clock.monotonic())
            if (event := execution.job_events.pop(job_id, None)) is not None:
                serving.job_events[job_id] = event
                if serving.phase is Phase.ENDED:
                    event.set()
            moved = msgspec.structs.replace(job, execution_id=serving.id)
            self._recent[job_id] = (moved, view_of(moved, serving) if serving.phase is Phase.ENDED else serving)
            asks = not execution.standing.is_provided_for(not_before)
            await self._moved(job, serving, not_before if asks else -math.inf)

    async def _is_final(self, job: JobRecord, execution: Execution) -> bool:
        """Whether another gateway has led the run to the end of this job, and all others say so by now."""
        standing = execution.standing
        if execution.serves_nobody or not standing.follows or job.id not in standing.handed_over:
            return False
        recorded = await self._ledger.job(job.id)
        return recorded is not None and recorded.execution_id == execution.id

    async def _moved(self, job: JobRecord, execution: Execution, not_before: float) -> JobRecord:
        """Record that a job is one of this execution now."""
        ask = await self._needs.number(execution, not_before)
        job = msgspec.structs.replace(job, execution_id=execution.id, ask=ask)
        await self._ledger.record_job(job)
        return job

    async def _settle(self, execution: Execution) -> None:
        """Let the end of a run that another gateway has led serve the jobs here that had no ask, where it does."""
        for job_id in list(execution.seen):
            job, known = self._recent.get(job_id, (None, None))
            if job is not None and known is execution and job.ask == UNASKED:
                job = msgspec.structs.replace(job, ask=0)
                self._recent[job_id] = (job, execution)
                await self._ledger.record_job(job)

    def _ended(self, execution: Execution) -> None:
        """Remember how it ended, and release its result, which may be large."""
        for job_id in execution.seen:
            job, known = self._recent.get(job_id, (None, None))
            if job is None or known is not execution:  # it was moved, and a poll that had begun before came after
                continue
            if execution.serves_nobody and self._leases.for_many:  # it runs again if its caller comes again, anywhere
                del self._recent[job_id]
            else:
                self._recent[job_id] = (job, view_of(job, execution))

    async def finished(self, plan: Plan, result_id: int, sender: Sender, token_sha256: str) -> JobView:
        """Give a caller a job that has already succeeded: it requested a run, but a floor let a stored result serve."""
        execution = Execution(plan, sender, self._clock.monotonic())
        record = record_of(execution, self._clock.wall(), self._clock.monotonic(), Ending("success"))
        await self._ledger.record_execution(msgspec.structs.replace(record, result_id=result_id))
        job = await self._new_record(execution, sender.client, token_sha256, -math.inf)
        return JobView(job.id, 3, "", result_id, 0, execution.id, plan.query_id)

    async def _new_record(
        self, execution: Execution, client: str, token_sha256: str, not_before: float, fallback: int | None = None
    ) -> JobRecord:
        job = JobRecord(
            id=new_id(),
            execution_id=execution.id,
            client=client,
            scope=execution.plan.credential.scope,
            query_id=execution.plan.query_id,
            noted_at=self._clock.wall(),
            token_sha256=token_sha256,
            not_before=not_before + self._clock.wall() - self._clock.monotonic(),
            ask=await self._needs.number(execution, not_before),
            fallback=fallback,
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
        job, execution = await self._finder.find(operation, caller, allowed)
        if job.scope not in scopes:
            return JobView(job.id, 4, _OTHER_SCOPE_TEXT, None, 0, job.execution_id, job.query_id)
        view = await self._finder.state(job, execution)
        if not isinstance(execution, Execution) or not view.pending:
            return view
        now = execution.seen[job.id] = self._clock.monotonic()
        if self._executions.draining:
            return view
        if until > now:  # for this job, not for the execution: a DELETE ends this job id alone
            await _wait(job, execution, until - now)
        elif _is_near(execution, now):
            await wait_for(execution.polled, NEAR_SECONDS)
        else:
            return view
        return await self._finder.state(*await self._finder.find(operation, caller, allowed))

    async def run_of(
        self, operation: ReadJob, caller: Caller, allowed: frozenset[int] | None, scope: str
    ) -> tuple[JobRecord, Execution | JobView]:
        """Return a job and its execution, or its end; this counts as a poll.

        Raises:
            NotFound: as `look_up`; or it ran with a credential of another scope.
            ServiceUnavailable: no process follows it now.
        """
        job, execution = await self._finder.find(operation, caller, allowed)
        if job.scope != scope:
            raise NotFound(UNKNOWN_TEXT)
        view = await self._finder.state(job, execution)
        if isinstance(execution, Execution) and view.pending:
            execution.seen[job.id] = self._clock.monotonic()
            return job, execution
        if view.pending:
            raise ServiceUnavailable("The gateway does not follow this run yet; try again soon.", retry_after=1)
        return job, view

    async def cancel(
        self, operation: CancelJob, caller: Caller, allowed: frozenset[int] | None, sender: Sender
    ) -> None:
        """Cancel one job; in Redash, too, if none of its other job ids was polled lately. An ended job does not change.

        Raises:
            NotFound: as `look_up`.
        """
        job, execution = await self._finder.find(operation, caller, allowed)
        if not (await self._finder.state(job, execution)).pending:
            return
        await self._ledger.record_job(msgspec.structs.replace(job, cancelled=True))
        if isinstance(execution, Execution):
            self._recent[job.id] = (job, execution)
            self._finder.drop(job.id, execution)
        leaves = isinstance(execution, Execution) and not self._cancelling.is_wanted(execution)
        await self._leases.announce("cancelled", job.execution_id, job.id, leaves=leaves)
        if isinstance(execution, Execution):
            await self._cancelling.stop_if_unused(execution, sender)

    def _news(self, what: str, execution_id: str, job_id: str) -> None:
        """Hear of jobs that were cancelled on other gateways, and of gateways that have no use for a run any more."""
        if what not in ("cancelled", "left"):
            return
        execution = self._executions.current.by_id(execution_id)
        known = execution is not None and job_id in execution.seen
        if what == "cancelled":
            self._finder.drop(job_id, execution)
        if execution is not None and (known or not execution.standing.follows):
            self._cancelling.stop_soon(execution)


async def _is_sure(execution: Execution) -> bool:
    """Whether this gateway still leads the run, if it did: whoever takes it over then knows of all jobs until now."""
    if execution.phase is not Phase.ENDED:
        try:
            await execution.standing.lease.confirm()
        except LeaseLostError:
            return False
    return True


async def _wait(job: JobRecord, execution: Execution, seconds: float) -> None:
    """Wait for the end of a job; with a stored result to fall back on, also until Redash does not answer."""
    event = execution.job_events.setdefault(job.id, Event())
    with suppress(UpstreamError):
        async with execution.until_unanswered() if job.fallback is not None else nullcontext():
            await wait_for(event, seconds)


def _is_near(execution: Execution, now: float) -> bool:
    """Whether Redash is polled soon or just now, or has shown the end, so that the result is being fetched."""
    return execution.polls is not None and execution.polls.due - now <= NEAR_SECONDS
