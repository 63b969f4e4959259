"""Follows a job in Redash to its end: polls it, outlasts short outages, and asks about a job that may be lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from gateway.concurrency.events import wait_for
from gateway.errors import UpstreamError, UpstreamUnusable
from gateway.executions.ending import CANCELLED, CANCELLED_TEXT, Ending
from gateway.executions.execution import LIFE_SECONDS, Execution
from gateway.executions.polling import Polls
from gateway.model import Clock
from gateway.outcome import ExecutionResult
from gateway.redash import calls
from gateway.redash.requests import Execute
from gateway.redash.responses import Job, ResultHead
from gateway.results.loading import load_result_or_job
from gateway.upstream.protocol import Upstream, UpstreamResponse, refusal

LOST_TEXT: Final = "Redash no longer knows this job (it was restarted, or the job expired); run the query again."
TOO_LONG_TEXT: Final = "This run has not ended within 12 hours, and the gateway follows it no longer."
NO_TEXT: Final = "The query failed in Redash without an error text."

PATIENCE_SECONDS: Final = 60.0
"""How long requests about a run may fail before it is given up."""

AGAIN_SECONDS: Final = 1.0

_DOUBT_SECONDS: Final = 30.0
"""How long a job may look queued before Redash is asked whether it still has it."""

_UNKNOWN: Final = 0
"""Our own status for a job that Redash does not know."""

_NO_MORE: Final = (4, _UNKNOWN)


class Fetched(msgspec.Struct, frozen=True):
    """A result as Redash sent it, with its parsed head."""

    response: UpstreamResponse
    head: ResultHead

    @property
    def runtime(self) -> float | None:
        """Return for how many seconds the data source worked, None where that is not said (CONTRACT 8)."""
        return None if self.head.reduced else self.head.runtime


Ask = Callable[[], Awaitable[Fetched | Job]]
"""Sends the POST of the execution again. While Redash has the job, it responds with the same one (CONTRACT 9)."""


class Follower:
    """Follows jobs; none for longer than `LIFE_SECONDS` after its execution began, so that no slot is held for ever."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self.on_start: Callable[[Execution], Awaitable[None]] | None = None
        """Called when Redash is first seen to have started a job that was queued."""

    async def follow(self, execution: Execution, job: Job, polls: Polls, ask: Ask) -> Fetched | Job | Ending:
        """Poll until the job has ended; return it if it succeeded, or the result that `ask` has brought.

        Raises:
            GatewayError: Redash has been unavailable for too long, or refuses to run the query again.
        """
        doubt = _Doubt(self._clock.monotonic(), started=job.status == 2)
        failing_since: float | None = None
        polled_again = False
        execution.work.begin(doubt.since)
        execution.work.note(job.status, doubt.since)
        while job.status != 3:
            if job.status in _NO_MORE and (job.error or polled_again):
                return _failed(job)
            if self._clock.monotonic() - execution.started > LIFE_SECONDS:
                return Ending("lost", error=TOO_LONG_TEXT)
            polled_again = job.status in _NO_MORE
            if job.status in (1, 2):
                await self._note(execution, job.status)
            execution.updated_at = job.updated_at
            pause = AGAIN_SECONDS if polled_again else polls.pause(self._clock.monotonic())
            await wait_for(execution.stopping, pause)
            if execution.stopping.is_set:
                return CANCELLED
            try:
                found = await self._poll(execution, doubt, ask)
                failing_since = failing_since if doubt.unanswered else None
                execution.is_unanswered = False
            except (UpstreamError, UpstreamUnusable):
                now = self._clock.monotonic()
                failing_since = failing_since if failing_since is not None else now
                execution.is_unanswered = True
                if now - failing_since > PATIENCE_SECONDS:
                    raise
                polled_again = False  # that poll has shown nothing
                continue
            if isinstance(found, Fetched):
                return found
            job = found
            polls.record(job.status, self._clock.monotonic())
            execution.work.note(job.status, self._clock.monotonic())
            if job.status in (1, 2):
                execution.polled.wake()
        return job

    async def _note(self, execution: Execution, status: int) -> None:
        """Take note of where the job stands. The next pause is reckoned afterwards, so no poll is late for it."""
        starts, execution.upstream_status = execution.upstream_status < status, status
        if starts and self.on_start is not None:
            await self.on_start(execution)

    async def _poll(self, execution: Execution, doubt: _Doubt, ask: Ask) -> Fetched | Job:
        """Return how the job stands; once it may have been lost for long enough, by sending the POST again."""
        job = await self._state(execution)
        if not doubt.is_due(job, self._clock.monotonic()):
            return job
        if doubt.started and not _may_run_twice(execution):
            return Job(status=_UNKNOWN)
        # Counted from here even if no response comes: this POST may have started a run, and the next one another.
        doubt.since, doubt.unanswered = self._clock.monotonic(), True
        lost = execution.upstream_job
        found = await ask()
        doubt.unanswered = False
        if execution.upstream_job != lost:
            execution.work.begin(self._clock.monotonic())
        return found

    async def _state(self, execution: Execution) -> Job:
        credential = execution.plan.credential
        request = calls.job(execution.upstream_job, execution.plan.query_id if credential.is_query_key else None)
        response = await self._upstream.send(credential, request, execution.sender)
        if response.status == 500:  # Redash's response for a job that it does not know (CONTRACT 9)
            return Job(status=_UNKNOWN)
        if response.status != 200:
            raise refusal(response)
        job = await load_result_or_job(response.body)
        if not isinstance(job, Job):
            raise UpstreamUnusable("Redash's response is not the JSON of a job.")
        return job


class _Doubt:
    """Whether a job may be lost though it looks queued; `since` is when Redash last showed that it has the job."""

    def __init__(self, since: float, *, started: bool) -> None:
        self.since = since
        self.started = started
        self.unanswered = False  # Redash was asked, but did not respond

    def is_due(self, job: Job, now: float) -> bool:
        """Take note of what a poll has shown; return whether Redash must be asked whether it still has the job."""
        self.started = self.started or job.status == 2
        if not _may_be_lost(job):
            self.since, self.unanswered = now, False
        return now - self.since > _DOUBT_SECONDS


def _may_be_lost(job: Job) -> bool:
    """Whether Redash shows a job that it does not know in the same way: up to version 8, as queued. Later it is 500."""
    return job.status == 1 and job.result is msgspec.UNSET


def _may_run_twice(execution: Execution) -> bool:
    """Whether its SQL may be run again though it has begun: free SQL and `/refresh` run once for each request."""
    operation = execution.plan.operation
    return isinstance(operation, Execute) and not operation.refresh


def _failed(job: Job) -> Ending:
    text = LOST_TEXT if job.status == _UNKNOWN else job.error or NO_TEXT
    return Ending(kind_of(text), error=text)


def kind_of(error: str) -> ExecutionResult:
    """Return what the error text of a job that did not succeed stands for."""
    if error == CANCELLED_TEXT:
        return "cancelled"
    return "lost" if error == LOST_TEXT else "failure"
