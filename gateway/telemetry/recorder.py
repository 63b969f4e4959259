"""Counts for the status page what `outcome.py` records. On the way of every request: plain numbers, no waiting."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from gateway.outcome import ExecutionEnd, OutcomeBatch, UpstreamCall
from gateway.telemetry.history import BOUNDS, CACHE, STEP_SECONDS, History
from gateway.telemetry.tables import ClientRow, QueryRow, Table, UpstreamRow

AD_HOC: Final = 0
"""Stands for a query id where SQL belongs to no saved query."""

_AD_HOC_ROUTE: Final = "/api/query_results"


class StatusRecorder:
    """What the status page is told: totals since the start, the last hour, and rows for queries and clients."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` is the monotonic clock."""
        self._now = now
        self.started = now()
        self.history = History()
        self._step = self.history.step(self.started)
        self._until = self.started  # when the step ends
        self.requests = dict.fromkeys(CACHE, 0)
        self.refused = 0
        self.saved_executions = 0
        self.saved_seconds = 0.0
        self.executions: dict[str, int] = {"success": 0, "failure": 0, "cancelled": 0, "lost": 0}
        self.clients: Table[str, ClientRow] = Table(ClientRow)
        self.queries: Table[int, QueryRow] = Table(QueryRow)
        self.upstream_routes: Table[str, UpstreamRow] = Table(UpstreamRow)
        self.accepted: dict[str, bool] = {}  # by credential, once Redash has said
        self.reached: float | None = None  # when Redash last answered
        self.unreached: float | None = None  # when it last did not

    def record_requests(self, batch: OutcomeBatch) -> None:
        """Count requests of one kind."""
        now = self._now()
        if now >= self._until:
            self._turn(now)
        step, kind, count, times = self._step, batch.first, batch.count, batch.times
        cache = kind.cache
        self.requests[cache] += count
        step.cache[cache] += count
        latency = step.latency
        for duration in batch.durations:
            latency[bisect_left(BOUNDS, duration)] += times
        client = self.clients[kind.client]
        client.seen = now
        client.cache[cache] += count
        if kind.reason:
            self.refused += count
            client.refused += count
        saved = batch.runtime if kind.saves_run else 0.0
        if kind.saves_run:
            self._save(count, saved)
        query_id = AD_HOC if kind.query_id is None and kind.route == _AD_HOC_ROUTE else kind.query_id
        if cache != "none" and query_id is not None:
            query = self.queries[query_id]
            query.seen = now
            query.cache[cache] += count
            if kind.saves_run:
                query.saved += saved
                query.served_runtime = kind.saved_runtime

    def _save(self, executions: int, seconds: float) -> None:
        self.saved_executions += executions
        self.saved_seconds += seconds
        self._step.saved += seconds

    def _turn(self, now: float) -> None:
        self._step = self.history.step(now)
        self._until = (now // STEP_SECONDS + 1) * STEP_SECONDS

    def record_upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash."""
        now = self._now()
        self._turn(now)
        row = self.upstream_routes[call.route]
        failed = call.unavailable or call.status >= 500
        row.requests += 1
        row.errors += failed
        row.seconds += call.seconds
        row.seen = now
        self._step.upstream += 1
        self._step.upstream_errors += failed
        if call.unavailable:
            self.unreached = now
        else:
            self.reached = now
            self.accepted[call.credential] = call.accepted

    def record_execution(self, end: ExecutionEnd) -> None:
        """Count one execution; what Redash answered at once from its own cache was none."""
        if not end.ran:
            return
        now = self._now()
        self._turn(now)
        row = self.queries[end.query_id]
        row.seen = now
        self.executions[end.result] += 1
        self._step.executions += 1
        if end.result == "success":
            row.runs += 1
            row.runtime += end.runtime
            saved = (end.callers - 1) * end.runtime
            row.saved += saved
            self._save(end.callers - 1, saved)
        else:
            row.failures += end.result == "failure"
