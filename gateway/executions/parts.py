"""The parts of this room, put together."""

from __future__ import annotations

from gateway.concurrency.shared_spending import SpendingSource
from gateway.executions.acceptance import Acceptance
from gateway.executions.board import BoardResults
from gateway.executions.budgets import Budgets
from gateway.executions.cancelling import Cancelling
from gateway.executions.expectations import Expectations
from gateway.executions.explaining import Explainer
from gateway.executions.flights import Executions
from gateway.executions.guard import Guard
from gateway.executions.jobs import Jobs
from gateway.executions.leading import Leading
from gateway.executions.limits import Limits
from gateway.executions.live import LiveResults
from gateway.executions.lookup import ResultLookup
from gateway.executions.purging import Purging
from gateway.executions.responses import ExecutionResponses
from gateway.executions.revival import Revival
from gateway.executions.runner import Runner
from gateway.executions.waits import Waits
from gateway.model import Clock
from gateway.outcome import Observer
from gateway.policy.configured import Live
from gateway.results.parts import ResultParts
from gateway.store import Leases, Ledger
from gateway.upstream.protocol import Upstream


class ExecutionParts:
    """Everything that runs queries."""

    def __init__(
        self,
        live: Live,
        upstream: Upstream,
        results: ResultParts,
        ledger: Ledger,
        leases: Leases,
        spending: SpendingSource | None,
        observer: Observer,
        clock: Clock,
    ) -> None:
        guard = Guard(results.organisation)
        waits = Waits(live, guard, leases, upstream)
        last = Expectations(results.cache)
        self.budgets = Budgets(live, ledger, spending, last, clock)
        acceptance = Acceptance(results.definitions, results.cache, last, guard)
        runner = Runner(upstream, acceptance, results.cache, results.fetcher, last, waits, clock)
        leading = Leading(leases, ledger, results.cache, runner, waits, clock)
        self.flights = Executions(
            leading, waits, self.budgets, ledger, clock, observer, live, changed=results.query_changed
        )
        self.revival = Revival(self.flights, ledger, leases, live, observer, clock)
        self.cancelling = Cancelling(self.flights, leases, upstream, clock)
        self.jobs = Jobs(self.flights, self.revival, self.cancelling, leases, ledger, clock)
        limits = Limits(self.flights, self.budgets, clock)
        self.lookup = ResultLookup(results.cache, self.flights, limits, upstream, clock)
        self.live = LiveResults(live, results, clock)
        self.purging = Purging(self.flights, results.definitions, results.cache)
        self.responses = ExecutionResponses(
            self.jobs, self.purging, self.lookup, results.definitions, results.pauses, results.reader, clock
        )
        self.explainer = Explainer(live, results, self.flights, self.lookup, limits, upstream, clock)
        self.boards = BoardResults(live, results, observer, clock)
