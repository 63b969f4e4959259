"""From a plan to a stored result that it accepts, or to the execution that will bring one: look up, join, execute."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress

from gateway.concurrency.events import Event, wait_for
from gateway.errors import UpstreamError
from gateway.executions.execution import Execution
from gateway.executions.flights import Executions
from gateway.executions.found import Miss, Pending, is_enough, use_stale
from gateway.executions.guard import check_size
from gateway.executions.limits import Limits
from gateway.model import Clock, JobRecord
from gateway.outcome import Outcome, Sender
from gateway.policy.context import RequestContext
from gateway.policy.keys import result_key
from gateway.policy.plan import Plan, adapted
from gateway.redash.requests import Operation, ReadParameterised
from gateway.results.cache import ResultCache, StoredResult
from gateway.upstream.protocol import Upstream


class ResultLookup:
    """Finds a result in the store where the plan accepts it, else joins or starts the one execution of its key."""

    def __init__(
        self, results: ResultCache, executions: Executions, limits: Limits, upstream: Upstream, clock: Clock
    ) -> None:
        self._results = results
        self._executions = executions
        self._limits = limits
        self._upstream = upstream
        self._clock = clock
        self.on_asked: Callable[[Plan], None] = lambda plan: None
        """Called with what each caller asks for."""

    async def adapted(self, plan: Plan) -> Plan:
        """Return the plan with the bounds that depend on its query's last run and its schedule."""
        if plan.is_adaptive:
            last = await self._results.get(plan.key)
            plan = adapted(plan, last.entry if last is not None else None, self._clock.wall())
        return plan

    async def find(self, plan: Plan, outcome: Outcome, until: float = math.inf) -> StoredResult | Miss:
        """Look up what the store has, and what is in progress.

        If a POST is in progress that this plan must not join, but that may start a run, wait for its response first, at
        most until `until` (monotonic).

        Raises:
            BreakerOpen: Redash does not work, so no such response will come.
        """
        outcome.key = plan.key
        while True:
            began = self._clock.monotonic()
            stored = await self._results.get(plan.key)
            now = self._clock.monotonic()
            outcome.add_step("store", began, now)
            slack = plan.accepts(stored.entry, now) if stored is not None else None
            if stored is not None and slack is not None and slack >= 0:
                outcome.record_hit(slack, stored.entry.age(now), stored.entry.runtime)
                outcome.saves_run = True
                return stored
            why = self._results.why(plan, stored, now)
            if stored is None or slack is None:
                stored, slack = None, -math.inf
            elif -slack <= plan.bounds.stale_while_revalidate and plan.shown_lately(stored.entry, now) >= 0:
                self._revalidate(plan, outcome.sender)
                return use_stale(stored, slack, outcome, "stale-while-revalidate", self._clock.monotonic())
            check = stored is not None and self._results.needs_check(plan)
            joinable = self._executions.failures.get(plan) or self._executions.current.joinable(plan, check=check)
            other = self._executions.current.blocking(plan, check=check) if joinable is None else None
            if other is None:
                return Miss(stored, slack, joinable, why, check)
            if not await self._is_posted(other, _fallback(stored, slack, plan), until, outcome):
                return Miss(stored, slack, None, why, check)

    async def _is_posted(self, other: Execution, fallback: StoredResult | None, until: float, outcome: Outcome) -> bool:
        """Wait for the response to a POST; returns whether it is worth it: else the stored result is used instead.

        Raises:
            BreakerOpen: Redash does not work, and there is no stored result that may be used.
        """
        if fallback is not None and self._upstream.is_unavailable:
            return False
        try:
            async with self._upstream.until_unavailable():
                await self._wait(other, self._until(other.posted, math.inf if fallback is None else until), outcome)
        except UpstreamError:
            if fallback is None:
                raise
            return False
        return other.posted.is_set

    async def foresee(self, plan: Plan, outcome: Outcome) -> StoredResult | Pending | None:
        """Return what a look-up would give at once, None where it would call Redash; runs and joins nothing.

        Raises:
            TooManyRequests: the client has reached its limit of running executions, or has spent its budget.
        """
        stored = await self._results.get(plan.key)
        slack = plan.accepts(stored.entry, self._clock.monotonic()) if stored is not None else None
        if stored is not None and slack is not None and slack >= 0:
            outcome.record_hit(slack, stored.entry.age(self._clock.monotonic()), stored.entry.runtime)
            return stored
        if (failed := self._executions.failures.get(plan)) is not None:
            return Pending(failed)
        check = slack is not None and self._results.needs_check(plan)
        if self._executions.current.would_join(plan, check=check) is None:
            self._limits.check(plan, outcome.client)
            if (refusal := self._limits.refusal(plan, outcome.client)) is not None:
                return self._limits.in_place_of_run(
                    stored, -math.inf if slack is None else slack, refusal, plan, outcome
                )
        return None

    async def join_or_execute(
        self, miss: StoredResult | Miss, plan: Plan, outcome: Outcome, until: float = math.inf
    ) -> StoredResult | Pending:
        """Join an execution in progress, or start one; return when a response can be made.

        Where a stored result may be used if Redash is unavailable, that is at once when Redash is known to be, and at
        the latest at `until` (monotonic).

        Raises:
            TooManyRequests: the client has reached its limit of running executions, or has spent its budget.
            ServiceUnavailable: the parameters of executions in progress take too much memory.
            BadRequest: the SQL would be too long.
        """
        if isinstance(miss, StoredResult):
            return miss
        fallback = _fallback(miss.stored, miss.slack, plan)
        if fallback is None:
            pending = self._join_or_begin(miss, None, plan, outcome)
            await self._wait(pending.execution, pending.execution.can_respond.wait(), outcome)
            _note_joined(pending, outcome)
            return self._limits.within_budget(pending.current, miss, plan, outcome)
        with suppress(UpstreamError):
            async with self._upstream.until_unavailable():
                if self._upstream.is_unavailable:  # it is time for a probe
                    self._revalidate(plan, outcome.sender)
                    return self._use(fallback, plan, outcome)
                pending = self._join_or_begin(miss, fallback, plan, outcome)
                if await self._can_respond(pending, until, outcome):
                    _note_joined(pending, outcome)
                    found = self._or_fallback(pending, plan, outcome)
                    return self._limits.within_budget(found, miss, plan, outcome)
        return self._use(fallback, plan, outcome)

    def _join_or_begin(self, miss: Miss, fallback: StoredResult | None, plan: Plan, outcome: Outcome) -> Pending:
        execution, not_before = miss.joinable, plan.not_before(self._clock.monotonic())
        if execution is None:
            self._limits.check(plan, outcome.client)
            check_size(plan)
        outcome.record_miss(miss.why, joined=execution is not None)
        if execution is None:
            execution = self._executions.begin(plan, outcome.sender, check=miss.check)
        else:
            execution.callers += 1
        outcome.execution_id = execution.id
        execution.join(outcome.client, not_before)
        return Pending(execution, fallback, not_before)

    async def _can_respond(self, pending: Pending, until: float, outcome: Outcome) -> bool:
        """Whether the execution has come far enough for a response before the time is up.

        A large result is not shown while it arrives: if it fails, the stored one is better.

        Raises:
            UpstreamError: Redash does not answer.
        """
        execution = pending.execution
        async with execution.until_unanswered():
            await self._wait(execution, self._until(execution.can_respond, until), outcome)
            if execution.arriving is not None:
                await self._wait(execution, self._until(execution.ended, until), outcome)
        return execution.can_respond.is_set and execution.arriving is None

    def _revalidate(self, plan: Plan, sender: Sender) -> None:
        """Request the result from Redash in the background, unless that is in progress already."""
        check, current = self._results.needs_check(plan), self._executions.current
        other = current.joinable(plan, check=check) or current.blocking(plan, check=check)
        if other is None and self._limits.refusal(plan, sender.client) is None:
            self._executions.begin(plan, sender, check=check)

    async def pending(self, execution: Execution, job: JobRecord) -> Pending:
        """Return an execution as it is for the caller with this job."""
        fallback = None
        if job.fallback is not None:
            fallback = await self._results.get(result_key(job.scope, job.fallback, "json"))
        return Pending(execution, fallback, execution.not_before.get(job.id, -math.inf))

    async def wait(
        self, found: StoredResult | Pending, context: RequestContext, operation: Operation, plan: Plan
    ) -> StoredResult | Pending:
        """Wait for an execution to end and to store its result, as long as the request allows.

        If Redash became unavailable, the stored result may be used instead. For a large result, the beginning is enough
        where a response can begin with it and there is no stored result to use if it fails.
        """
        reading = operation if isinstance(operation, ReadParameterised) else None
        seconds = context.wait if reading is None else context.configured.settings.server.max_wait
        if isinstance(found, StoredResult) or seconds is None:
            return found
        until = -math.inf if self._executions.draining else context.until_run(seconds)
        if found.fallback is None:
            return await self._result_of(found, reading, until, context.outcome)
        if self._upstream.is_unavailable:
            return self._use(found.fallback, plan, context.outcome)
        with suppress(UpstreamError):
            async with self._upstream.until_unavailable():
                pending = await self._result_of(found, reading, until, context.outcome)
            return self._or_fallback(pending, plan, context.outcome)
        return self._use(found.fallback, plan, context.outcome)

    async def _result_of(
        self, pending: Pending, reading: ReadParameterised | None, until: float, outcome: Outcome
    ) -> Pending:
        """Wait for the result of an execution, or of the one that follows it; return what has come so far.

        Raises:
            UpstreamError: Redash does not answer, and there is a stored result that may be used.
        """
        while True:
            execution = pending.execution
            async with execution.until_unanswered() if pending.fallback is not None else nullcontext():
                await self._wait(execution, self._until(execution.showable, until), outcome)
                arriving = pending.arriving
                shown = arriving is not None and pending.fallback is None and is_enough(arriving, reading)
                if execution.showable.is_set and not shown:  # not set: the time is up, or the gateway is stopping
                    await self._wait(execution, self._until(execution.ended, until), outcome)
            if (current := pending.current).execution is execution:
                return pending
            pending = current

    def _or_fallback(self, pending: Pending, plan: Plan, outcome: Outcome) -> StoredResult | Pending:
        """Return the stored result if it may be used because Redash is unavailable, else `pending` itself."""
        pending = pending.current
        if pending.fallback is None or not isinstance(pending.execution.failure, UpstreamError):
            return pending
        return self._use(pending.fallback, plan, outcome)

    def _use(self, fallback: StoredResult, plan: Plan, outcome: Outcome) -> StoredResult:
        slack = plan.accepts(fallback.entry, self._clock.monotonic())
        return use_stale(
            fallback, -math.inf if slack is None else slack, outcome, "stale-if-error", self._clock.monotonic()
        )

    async def _until(self, event: Event, until: float) -> None:
        """Wait for the event, at most until then (monotonic)."""
        await wait_for(event, until - self._clock.monotonic())

    async def _wait(self, execution: Execution, waiting: Awaitable[None], outcome: Outcome) -> None:
        began, calls = self._clock.monotonic(), outcome.upstream_seconds
        try:
            await waiting
        finally:
            ended = self._clock.monotonic()
            queued = max(0.0, execution.queued_until(ended) - began)
            outcome.add_wait(ended - began, queued, outcome.upstream_seconds - calls)
            outcome.add_step("wait", began, ended, execution.sender.trace)


def _fallback(stored: StoredResult | None, slack: float, plan: Plan) -> StoredResult | None:
    """Return the stored result, if it may be used while Redash is unavailable."""
    return stored if -slack <= plan.bounds.stale_if_error else None


def _note_joined(pending: Pending, outcome: Outcome) -> None:
    """Note that the run turned out to be one that another gateway leads."""
    if pending.execution.standing.follows:
        outcome.execution_id = pending.execution.id
        outcome.record_joined()
