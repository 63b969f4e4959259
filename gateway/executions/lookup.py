"""Look, join, execute: from a plan to a stored result, or to the execution that will bring one."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec

from gateway.concurrency.events import wait_for
from gateway.errors import TooManyRequests, UpstreamError
from gateway.executions.execution import Execution
from gateway.executions.flights import Executions
from gateway.model import Clock, Entry
from gateway.outcome import Outcome, Sender
from gateway.policy.plan import Plan
from gateway.results.cache import Found, Results

Enough = Callable[[Entry], bool]


class Obtained(msgspec.Struct, frozen=True):
    """What the way has found: a stored result, or an execution that can be answered from."""

    found: Found | None = None
    execution: Execution | None = None
    fallback: Found | None = None
    """A stored result that may stand in if Redash turns out to be away (`stale_if_error`)."""


class ResultLookup:
    """Answers from the store where the plan accepts that, and else from at most one execution per key."""

    def __init__(self, results: Results, executions: Executions, clock: Clock) -> None:
        self._results = results
        self._executions = executions
        self._clock = clock

    async def obtain(self, plan: Plan, sender: Sender, outcome: Outcome) -> Obtained:
        """Look; else join, else execute; wait until there is something to answer from."""
        while True:
            began = self._clock.monotonic()
            found = await self._results.find(plan.key)
            now = self._clock.monotonic()
            outcome.step("store", began, now)
            slack = plan.accepts(found[0], now) if found is not None else None
            if found is not None and slack is not None and slack >= 0:
                outcome.hit(slack, found[0].age(now), found[0].runtime)
                outcome.saves_run = True
                return Obtained(found=found)
            stored = found if slack is not None else None
            if stored is not None and slack is not None and -slack <= plan.bounds.stale_while_revalidate:
                self._revalidate(plan, sender)
                return self._stale(stored, slack, outcome, "stale-while-revalidate")
            execution = self._executions.failed(plan) or self._executions.find(plan, stored=stored is not None)
            if execution is None and (other := self._executions.blocking(plan, stored=stored is not None)) is not None:
                await self._wait(other, other.posted.wait(), outcome)
                continue
            return await self._execute(plan, execution, sender, outcome, stored, slack)

    async def _execute(
        self,
        plan: Plan,
        execution: Execution | None,
        sender: Sender,
        outcome: Outcome,
        stored: Found | None,
        slack: float | None,
    ) -> Obtained:
        if execution is None:
            self._check_limit(plan, sender)
        outcome.went(_forward(plan, stored), joined=execution is not None)
        if execution is None:
            execution = self._executions.begin(plan, sender, aside=plan.max_age is None and stored is not None)
        else:
            execution.callers += 1
        outcome.execution_id = execution.id
        await self._wait(execution, execution.answerable.wait(), outcome)
        fallback = stored if slack is not None and -slack <= plan.bounds.stale_if_error else None
        if fallback is not None and execution.arriving is not None:
            await self._wait(
                execution, execution.ended.wait(), outcome
            )  # it may break off, and then there is something better
        obtained = Obtained(execution=execution, fallback=fallback)
        return self.fallen_back(obtained, plan, outcome) or obtained

    def _check_limit(self, plan: Plan, sender: Sender) -> None:
        running = sum(execution.sender.client == sender.client for execution in self._executions.running)
        if running >= plan.bounds.max_executions:
            raise TooManyRequests(
                f"Client '{sender.client}' has {running} executions running, as many as it may; wait for one to end.",
                retry_after=1,
            )

    def _revalidate(self, plan: Plan, sender: Sender) -> None:
        """Ask Redash behind the answer, unless somebody does already."""
        aside = plan.max_age is None
        if self._executions.find(plan, stored=True) is None and self._executions.blocking(plan, stored=aside) is None:
            self._executions.begin(plan, sender, aside=aside)

    def fallen_back(self, obtained: Obtained, plan: Plan, outcome: Outcome) -> Obtained | None:
        """Return the stored result that may be shown because Redash is away, None if there is none or it is not."""
        execution, fallback = obtained.execution, obtained.fallback
        if fallback is None or execution is None or not isinstance(execution.failure, UpstreamError):
            return None
        slack = plan.accepts(fallback[0], self._clock.monotonic())
        return self._stale(fallback, -math.inf if slack is None else slack, outcome, "stale-if-error")

    def _stale(self, found: Found, slack: float, outcome: Outcome, detail: str) -> Obtained:
        outcome.stale(slack, found[0].age(self._clock.monotonic()), found[0].runtime, detail)
        outcome.saves_run = True
        return Obtained(found=found)

    async def _wait(self, execution: Execution, waiting: Awaitable[None], outcome: Outcome) -> None:
        began = self._clock.monotonic()
        try:
            await waiting
        finally:
            outcome.step("wait", began, self._clock.monotonic(), execution.sender.trace)

    async def wait(
        self, obtained: Obtained, seconds: float, plan: Plan, outcome: Outcome, *, enough: Enough = lambda entry: True
    ) -> Obtained:
        """Wait so long for an execution to end; if Redash went away meanwhile, fall back on what is stored.

        A large result need only have begun to arrive, where what is known of it by then is `enough` and nothing stored
        could stand in if it broke off.
        """
        execution = obtained.execution
        if execution is None:
            return obtained
        until = self._clock.monotonic() + seconds
        await self._wait(execution, wait_for(execution.showable, seconds), outcome)
        shown = execution.arriving is not None and obtained.fallback is None and enough(execution.arriving[0])
        if execution.showable.is_set and not shown:  # else the time is up, or the gateway stops
            await self._wait(execution, wait_for(execution.ended, until - self._clock.monotonic()), outcome)
        return self.fallen_back(obtained, plan, outcome) or obtained


def _forward(plan: Plan, stored: Found | None) -> str:
    if plan.max_age == 0:
        return "request"
    return "stale" if stored is not None else "uri-miss"
