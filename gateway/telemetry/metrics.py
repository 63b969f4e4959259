"""Counts the records of `outcome.py` in plain numbers and renders them for a scrape.

Series with labels known in advance start at 0, so that `rate()` sees the first increment: every reason, outcome and
tier, requests to Redash, and `request_duration_seconds` of routes that read results. Series with a client label
(`requests_total`) appear with their first request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Final, get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.errors import BreakerOpen, UpstreamError, own_failures, reasons
from gateway.outcome import CacheResult, ExecutionEnd, ExecutionResult, MissReason, OutcomeBatch, UpstreamCall
from gateway.redash import routes
from gateway.telemetry.exposition import Histogram, counter, gauge, histogram
from gateway.telemetry.levels import Levels, collect_levels
from gateway.telemetry.query_counts import QueryCounts

REQUEST_SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    10,
    60,
)
UPSTREAM_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
EXECUTION_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
AGE_SECONDS: Final = (1, 5, 15, 30, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400)

CACHE: Final[tuple[CacheResult, ...]] = get_args(CacheResult)
MISSES: Final[tuple[MissReason, ...]] = get_args(MissReason)
EXECUTIONS: Final[tuple[ExecutionResult, ...]] = get_args(ExecutionResult)
SAVED: Final = ("hit", "collapsed")

RESULT_ROUTES: Final = tuple(dict.fromkeys(route.template for route in routes.ROUTES if route.has_results))
UPSTREAM_ROUTES: Final = tuple(
    route.template for route in (routes.QUERY, routes.EXECUTE, routes.EXECUTE_TEXT, routes.RESULT, routes.JOB)
)
UPSTREAM_STATUSES: Final = ("2xx", "4xx", "5xx", "none")
OWN_FAILURES: Final = tuple(sorted(own_failures()))
UPSTREAM_FAILURES: Final = tuple(sorted(reasons(UpstreamError) - {BreakerOpen.reason}))


class Metrics(Collector):
    """All metrics of the gateway; `Telemetry` feeds it, a registry reads it."""

    def __init__(self, levels: Callable[[], Levels], credentials: Iterable[str], per_query: int) -> None:
        self._levels = levels
        self._queries = QueryCounts(per_query)
        self._by_labels: dict[tuple[str, str, str, int], Histogram] = {}
        self.upstream_requests = {(route, s): 0 for route in UPSTREAM_ROUTES for s in UPSTREAM_STATUSES}
        self.upstream_failures: dict[tuple[str], int] = {(reason,): 0 for reason in UPSTREAM_FAILURES}
        self.upstream_durations: dict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(UPSTREAM_SECONDS))
        self.executions: dict[tuple[str], int] = {(name,): 0 for name in EXECUTIONS}
        self.execution_durations: dict[tuple[()], Histogram] = {(): Histogram(EXECUTION_SECONDS)}
        self.saved: dict[tuple[str], int] = {(name,): 0 for name in SAVED}
        self.saved_seconds: dict[tuple[str], float] = {(name,): 0.0 for name in SAVED}
        self._ages = Histogram(AGE_SECONDS)
        self.rejected: dict[tuple[str], int] = {(reason,): 0 for reason in sorted(reasons())}
        self.errors: dict[tuple[str], int] = {(reason,): 0 for reason in OWN_FAILURES}
        self.misses: dict[tuple[str], int] = {(reason,): 0 for reason in MISSES}
        self.credential_up: dict[tuple[str], int] = {}
        self.configure(credentials, per_query)

    def configure(self, credentials: Iterable[str], per_query: int) -> None:
        """Apply a configuration; a credential that stays keeps its value."""
        self.credential_up = {(name,): self.credential_up.get((name,), 1) for name in credentials}
        self._queries.most = per_query

    def record_requests(self, batch: OutcomeBatch) -> None:
        """Count requests with the same labels."""
        first, count, times = batch.first, batch.count, batch.times
        key = (first.route, first.client, first.counted, first.status)
        series = self._by_labels.get(key)
        if series is None:
            series = self._by_labels[key] = Histogram(REQUEST_SECONDS)
        series.observe(batch.durations, times)
        if first.counted != "none":
            if first.query_id is not None:
                self._queries.add(first.query_id, first.counted, count)
            self._ages.observe(batch.ages, batch.age_times)
        if first.saves_run:
            self.saved["hit",] += count
            self.saved_seconds["hit",] += batch.runtime
        if first.counted == "miss":
            self.misses[first.miss,] = self.misses.get((first.miss,), 0) + count
        if first.reason:
            self.rejected[first.reason,] = self.rejected.get((first.reason,), 0) + count
        if first.status >= 500 and first.reason in OWN_FAILURES:
            self.errors[first.reason,] += count

    def record_upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash."""
        key = (call.route, f"{call.status // 100}xx" if call.status else "none")
        self.upstream_requests[key] = self.upstream_requests.get(key, 0) + 1
        self.upstream_durations[key].observe([call.seconds])
        if call.unavailable:
            self.upstream_failures[call.failure,] = self.upstream_failures.get((call.failure,), 0) + 1
        if call.status and not call.unavailable and (call.credential,) in self.credential_up:
            self.credential_up[call.credential,] = int(call.accepted)

    def record_execution(self, end: ExecutionEnd) -> None:
        """Count one execution; a result from Redash's own cache is not one."""
        if not end.ran:
            return
        self.executions[end.result,] += 1
        if not end.resumed:
            self.execution_durations[()].observe([end.seconds])
        if end.result == "success" and end.callers > 1:
            self.saved["collapsed",] += end.callers - 1
            self.saved_seconds["collapsed",] += (end.callers - 1) * end.runtime

    @property
    def query_requests(self) -> dict[tuple[str, str], int]:
        """Requests by label of the query and cache status."""
        return self._queries.values

    @property
    def requests(self) -> dict[tuple[str, str, str, str], int]:
        """Requests by route, client, cache and class of status."""
        summed: dict[tuple[str, str, str, str], int] = defaultdict(int)
        for (route, client, cache, status), series in self._by_labels.items():
            summed[route, client, cache, f"{status // 100}xx"] += series.count
        return summed

    @property
    def durations(self) -> dict[tuple[str, str], Histogram]:
        """Seconds that requests took, by route and cache."""
        known = [(route, cache) for route in RESULT_ROUTES for cache in CACHE if cache != "bypass"]
        summed = {key: Histogram(REQUEST_SECONDS) for key in known}
        for (route, _, cache, _), series in self._by_labels.items():
            summed.setdefault((route, cache), Histogram(REQUEST_SECONDS)).add(series)  # type: ignore[arg-type]
        return summed  # type: ignore[return-value]

    @property
    def ages(self) -> dict[tuple[()], Histogram]:
        """Ages of served results."""
        return {(): self._ages}

    def frozen(self) -> Metrics:
        """Return a copy that does not change any more, to be read in a thread: thousands of series take long."""
        levels = self._levels()  # first: this flushes what waits to be recorded
        made = copy(self)
        for name, value in vars(self).items():
            setattr(made, name, _copied(value))
        made._levels = lambda: levels
        return made

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        levels = self._levels()
        yield from self._collect_requests()
        yield from self._collect_upstream()
        yield from collect_levels(levels)

    def _collect_requests(self) -> Iterator[Metric]:
        yield counter("requests", "Requests.", ("route", "client", "cache", "status"), self.requests)
        yield histogram("request_duration_seconds", "Time to respond.", ("route", "cache"), self.durations)
        yield counter("query_requests", "Requests by query.", ("query", "cache"), self.query_requests)
        yield counter("saved_executions", "Query runs avoided.", ("cache",), self.saved)
        yield counter("saved_execution_seconds", "Warehouse time of the runs avoided.", ("cache",), self.saved_seconds)
        yield counter("misses", "Misses, by why the request went to Redash.", ("reason",), self.misses)
        yield histogram("served_age_seconds", "Age of served results.", (), self.ages)
        yield counter("rejected", "Requests that were rejected or failed.", ("reason",), self.rejected)
        yield counter("errors", "Responses of 500 and above that the gateway itself made.", ("reason",), self.errors)

    def _collect_upstream(self) -> Iterator[Metric]:
        labels = ("route", "status")
        yield counter("upstream_requests", "Requests to Redash.", labels, self.upstream_requests)
        yield histogram(
            "upstream_request_duration_seconds", "Redash's time to respond.", labels, self.upstream_durations
        )
        text = "Requests to Redash that say that it is unavailable."
        yield counter("upstream_failures", text, ("reason",), self.upstream_failures)
        yield counter("executions", "Executions that ended.", ("outcome",), self.executions)
        yield histogram("execution_duration_seconds", "Time an execution took.", (), self.execution_durations)
        yield gauge("credential_up", "Whether Redash accepts the key.", ("credential",), self.credential_up)


def _copied(value: object) -> object:
    if isinstance(value, Histogram):
        return value.copy()
    if isinstance(value, QueryCounts):
        made = copy(value)
        made.values = dict(value.values)
        return made
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def registry(metrics: Metrics) -> CollectorRegistry:
    """Make the registry behind `/metrics`: our metrics and those of the process."""
    made = CollectorRegistry()
    made.register(metrics)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made
