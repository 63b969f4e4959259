"""Whether a client may start one more run: its limit of running executions, and its budget."""

from __future__ import annotations

import math

from gateway.errors import BudgetSpent, ServiceUnavailable, TooManyRequests
from gateway.executions.budgets import Budgets
from gateway.executions.flights import Executions
from gateway.executions.found import Miss, Pending, use_stale
from gateway.model import Clock
from gateway.outcome import Outcome
from gateway.policy.plan import Plan
from gateway.results.cache import StoredResult


class Limits:
    """The limits on what clients start; joining a run costs nothing."""

    def __init__(self, executions: Executions, budgets: Budgets, clock: Clock) -> None:
        self._executions = executions
        self._budgets = budgets
        self._clock = clock
        self.refresh = budgets.refresh
        self.refusal = budgets.refusal

    def check(self, plan: Plan, client: str) -> None:
        """Refuse what would be one run too many at a time.

        Raises:
            TooManyRequests: the client has reached its limit of running executions.
            ServiceUnavailable: the runs in progress take too much memory.
        """
        running = 0
        if plan.bounds.max_executions < math.inf:
            led = (execution for execution in self._executions.running if not execution.standing.follows)
            running = sum(execution.sender.client == client for execution in led)
        if running >= plan.bounds.max_executions:
            raise TooManyRequests(
                f"Client '{client}' has {running} executions running, its limit; wait for one to end.",
                retry_after=1,
            )
        if self._executions.current.is_full:
            raise ServiceUnavailable(
                "The runs in progress use all the memory that they may take (cache.memory); try again soon.",
                retry_after=5,
            )

    def within_budget(
        self, found: StoredResult | Pending, miss: Miss, plan: Plan, outcome: Outcome
    ) -> StoredResult | Pending:
        """Return what was found, or what may be used in place of a run that no budget allows.

        Raises:
            BudgetSpent: nothing may.
        """
        outcome.budgets = self._budgets.quotas(outcome.client)
        failure = found.execution.failure if isinstance(found, Pending) else None
        if not isinstance(failure, BudgetSpent):
            return found
        refusal = self._budgets.refusal(plan, outcome.client) or failure.copy()
        return self.in_place_of_run(miss.stored, miss.slack, refusal, plan, outcome)

    def in_place_of_run(
        self, stored: StoredResult | None, slack: float, refusal: BudgetSpent, plan: Plan, outcome: Outcome
    ) -> StoredResult:
        """Return the stored result, if it may be used because the budget is spent.

        Raises:
            BudgetSpent: it may not.
        """
        outcome.budgets = self._budgets.quotas(outcome.client)
        outcome.cache, outcome.forward, outcome.miss, outcome.execution_id = "none", "", "", ""  # nothing has run
        now = self._clock.monotonic()
        if stored is None or -slack > plan.bounds.stale_over_budget or plan.shown_lately(stored.entry, now) < 0:
            raise refusal
        return use_stale(stored, slack, outcome, "budget", now)
