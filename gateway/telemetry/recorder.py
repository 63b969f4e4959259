"""Counts the records of `outcome.py` for the console. Every request passes here: plain numbers, no waiting."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.outcome import ExecutionEnd, Outcome, OutcomeBatch, UpstreamCall
from gateway.redash import routes
from gateway.telemetry.history import BOUNDS, CACHE, STEP_SECONDS, History
from gateway.telemetry.incidents import Incident, Incidents, of_request, of_run
from gateway.telemetry.metrics import MISSES
from gateway.telemetry.tables import ClientRow, QueryRow, Table, UpstreamRow

MOST_LAST_MISSES: Final = 5_000
"""About 4 MB."""

AD_HOC: Final = 0
"""The query id of SQL that belongs to no saved query."""


class StatusRecorder:
    """The numbers of the console: totals since the start, the last hour, rows for queries, clients and routes."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` is the monotonic clock."""
        self._now = now
        self.started = now()
        self.history = History()
        self._step = self.history.step(self.started)
        self._until = self.started  # when the step ends
        self.requests = dict.fromkeys(CACHE, 0)
        self.refused = 0
        self.reasons: dict[str, int] = {}
        self.misses: dict[str, int] = dict.fromkeys(MISSES, 0)
        self.incidents = Incidents()
        self._last_misses: LRUCache[bytes, Incident] = LRUCache(MOST_LAST_MISSES)
        self.saved_executions = 0
        self.saved_seconds = 0.0
        self.executions: dict[str, int] = {"success": 0, "failure": 0, "cancelled": 0, "lost": 0}
        self.clients: Table[str, ClientRow] = Table(ClientRow)
        self.queries: Table[int, QueryRow] = Table(QueryRow)
        self.upstream_routes: Table[str, UpstreamRow] = Table(UpstreamRow)
        self.accepted: dict[str, bool] = {}  # by credential, as of its last use
        self.reached: float | None = None  # when Redash last responded
        self.unreached: float | None = None  # when it last did not

    def record_requests(self, batch: OutcomeBatch) -> None:
        """Count requests with the same labels."""
        now = self._now()
        if now >= self._until:
            self._advance(now)
        step, first, count, times = self._step, batch.first, batch.count, batch.times
        cache = first.counted
        self.requests[cache] += count
        step.cache[cache] += count
        latency = step.latency
        for duration in batch.durations:
            latency[bisect_left(BOUNDS, duration)] += times
        client = self.clients[first.client]
        client.seen = now
        client.cache[cache] += count
        if first.reason:
            self._count_reason(first, count, client)
        if cache == "miss":
            self.misses[first.miss] = self.misses.get(first.miss, 0) + count
        if first.miss:
            for key in batch.keys:
                self._last_misses[key] = msgspec.structs.replace(of_request(first), cause=first.miss)
        saved = batch.runtime if first.saves_run else 0.0
        if first.saves_run:
            self._save(count, saved)
        query_id = AD_HOC if first.query_id is None and first.route == routes.EXECUTE_TEXT.template else first.query_id
        if cache != "none" and query_id is not None:
            query = self.queries[query_id]
            query.seen = now
            query.record(batch)
            if first.saves_run:
                query.saved += saved
                query.served_runtime = first.saved_runtime

    def last_miss(self, key: bytes) -> Incident | None:
        """Return the last request for the result with this key that was a miss; None if none is remembered."""
        return self._last_misses.get(key)

    def _count_reason(self, first: Outcome, count: int, client: ClientRow) -> None:
        self.refused += count
        self.reasons[first.reason] = self.reasons.get(first.reason, 0) + count
        self._step.reasons[first.reason] = self._step.reasons.get(first.reason, 0) + count
        if first.status >= 500:
            self._step.errors += count
            client.errors += count
        else:
            client.refused += count

    def _save(self, executions: int, seconds: float) -> None:
        self.saved_executions += executions
        self.saved_seconds += seconds
        self._step.saved += seconds

    def _advance(self, now: float) -> None:
        self._step = self.history.step(now)
        self._until = (now // STEP_SECONDS + 1) * STEP_SECONDS
        self.incidents.slowest.expire(now)

    def record_upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash."""
        now = self._now()
        if now >= self._until:
            self._advance(now)
        row = self.upstream_routes[call.route]
        row.requests += 1
        row.errors += call.unavailable
        row.seconds += call.seconds
        row.seen = now
        self._step.upstream += 1
        self._step.upstream_errors += call.unavailable
        if call.unavailable:
            self.unreached = now
        elif call.status:  # else its caller has left
            self.reached = now
            self.accepted[call.credential] = call.accepted

    def record_execution(self, end: ExecutionEnd) -> None:
        """Count one execution; neither a result from Redash's own cache nor a refusal is one."""
        failed = end.result in ("failure", "lost")
        if (not end.ran and not failed) or end.refused:
            return
        now = self._now()
        self._advance(now)
        row = self.queries[end.query_id]
        row.seen = now
        self._step.executions += 1
        if failed:
            row.failures += 1
            self._step.failures += 1
            self.incidents.failures.append(of_run(end, now))
        if not end.ran:  # Redash failed before it made a job
            return
        self.executions[end.result] += 1
        if end.result == "success":
            row.record_run(end.runtime)
            saved = (end.callers - 1) * end.runtime
            row.saved += saved
            self._save(end.callers - 1, saved)
