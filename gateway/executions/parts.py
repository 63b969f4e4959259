"""The parts of this room, put together."""

from __future__ import annotations

from gateway.executions.flights import Executions
from gateway.executions.guard import Guard
from gateway.executions.jobs import Jobs
from gateway.executions.lookup import ResultLookup
from gateway.executions.responses import ExecutionResponses
from gateway.executions.runner import Runner
from gateway.executions.waits import Waits
from gateway.model import Clock
from gateway.outcome import Observer
from gateway.policy.configured import Live
from gateway.results.parts import ResultParts
from gateway.store import Ledger
from gateway.upstream.protocol import Upstream


class ExecutionParts:
    """Everything that runs queries."""

    def __init__(
        self, live: Live, upstream: Upstream, results: ResultParts, ledger: Ledger, observer: Observer, clock: Clock
    ) -> None:
        guard = Guard(results.organisation)
        waits = Waits(live, guard, upstream)
        runner = Runner(upstream, results.definitions, results.cache, results.fetcher, waits, guard, clock)
        self.flights = Executions(
            runner, waits, results.definitions, ledger, clock, observer, live, changed=results.query_changed
        )
        self.jobs = Jobs(self.flights, upstream, ledger, clock)
        self.lookup = ResultLookup(results.cache, self.flights, upstream, clock)
        self.responses = ExecutionResponses(
            self.jobs, self.lookup, results.definitions, results.pauses, results.reader, clock
        )
