"""Counts the records of `outcome.py` in plain numbers and renders them for a scrape.

Series with labels known in advance start at 0, so that `rate()` sees the first increment: every reason, outcome and
tier, requests to Redash, and `request_duration_seconds` of routes that read results. Series with a client label
(`requests_total`) appear with their first request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Final, get_args

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.errors import reasons
from gateway.model import SharingStats, TierStats
from gateway.outcome import CacheResult, ExecutionEnd, ExecutionResult, MissReason, OutcomeBatch, UpstreamCall
from gateway.redash import routes
from gateway.telemetry.exposition import PREFIX, Histogram, counter, gauge, histogram
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
WARM: Final = ("success", "failure", "skipped")

RESULT_ROUTES: Final = tuple(dict.fromkeys(route.template for route in routes.ROUTES if route.has_results))
UPSTREAM_ROUTES: Final = tuple(
    route.template for route in (routes.QUERY, routes.EXECUTE, routes.EXECUTE_TEXT, routes.RESULT, routes.JOB)
)
WAITS: Final = ("slot", "collision", "earlier_run", "request")
UPSTREAM_STATUSES: Final = ("2xx", "4xx", "5xx", "none")


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts of the gateway report at the moment of a scrape. No defaults: a new field must get its value."""

    executions_in_flight: int
    execution_waiters: int
    upstream_queue: int
    waiting: Mapping[str, int]
    """What waits, by what for."""
    breaker_open: bool
    tiers: list[TierStats]
    name: str
    """Of this gateway."""
    sharing: SharingStats | None
    """None if no others can share the store."""
    leases: int
    lease_losses: int
    reload_successful: bool
    reloaded_at: float
    warm: Mapping[str, int]
    """Rounds of the `[[warm]]` entries by result."""
    log_lines_dropped: int
    loop_lag: float
    """Seconds: the longest pause of the event loop within the last minute."""


class Metrics(Collector):
    """All metrics of the gateway; `Telemetry` feeds it, a registry reads it."""

    def __init__(self, levels: Callable[[], Levels], credentials: Iterable[str], per_query: int) -> None:
        self._levels = levels
        self._queries = QueryCounts(per_query)
        self._by_labels: dict[tuple[str, str, str, int], Histogram] = {}
        self.upstream_requests = {(route, s): 0 for route in UPSTREAM_ROUTES for s in UPSTREAM_STATUSES}
        self.upstream_durations: dict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(UPSTREAM_SECONDS))
        self.executions: dict[tuple[str], int] = {(name,): 0 for name in EXECUTIONS}
        self.execution_durations: dict[tuple[()], Histogram] = {(): Histogram(EXECUTION_SECONDS)}
        self.saved: dict[tuple[str], int] = {(name,): 0 for name in SAVED}
        self.saved_seconds: dict[tuple[str], float] = {(name,): 0.0 for name in SAVED}
        self._ages = Histogram(AGE_SECONDS)
        self.rejected: dict[tuple[str], int] = {(reason,): 0 for reason in sorted(reasons())}
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

    def record_upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash."""
        key = (call.route, f"{call.status // 100}xx" if call.status else "none")
        self.upstream_requests[key] = self.upstream_requests.get(key, 0) + 1
        self.upstream_durations[key].observe([call.seconds])
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
        yield from self._collect_levels(levels)
        yield from self._collect_stores(levels.tiers)
        yield from self._collect_sharing(levels)

    def _collect_requests(self) -> Iterator[Metric]:
        yield counter("requests", "Requests.", ("route", "client", "cache", "status"), self.requests)
        yield histogram("request_duration_seconds", "Time to respond.", ("route", "cache"), self.durations)
        yield counter("query_requests", "Requests by query.", ("query", "cache"), self.query_requests)
        yield counter("saved_executions", "Query runs avoided.", ("cache",), self.saved)
        yield counter("saved_execution_seconds", "Warehouse time of the runs avoided.", ("cache",), self.saved_seconds)
        yield counter("misses", "Misses, by why the request went to Redash.", ("reason",), self.misses)
        yield histogram("served_age_seconds", "Age of served results.", (), self.ages)
        yield counter("rejected", "Requests that were rejected or failed.", ("reason",), self.rejected)

    def _collect_upstream(self) -> Iterator[Metric]:
        labels = ("route", "status")
        yield counter("upstream_requests", "Requests to Redash.", labels, self.upstream_requests)
        yield histogram(
            "upstream_request_duration_seconds", "Redash's time to respond.", labels, self.upstream_durations
        )
        yield counter("executions", "Executions that ended.", ("outcome",), self.executions)
        yield histogram("execution_duration_seconds", "Time an execution took.", (), self.execution_durations)
        yield gauge("credential_up", "Whether Redash accepts the key.", ("credential",), self.credential_up)

    def _collect_levels(self, levels: Levels) -> Iterator[Metric]:
        yield gauge("executions_in_flight", "Executions under way.", (), {(): levels.executions_in_flight})
        yield gauge("execution_waiters", "Callers waiting for executions.", (), {(): levels.execution_waiters})
        yield gauge("upstream_queue", "Executions and requests waiting for a slot.", (), {(): levels.upstream_queue})
        yield gauge(
            "waiting",
            "Executions (slot, collision, earlier_run) and requests to Redash (request) that wait, by what for.",
            ("kind",),
            {(kind,): levels.waiting.get(kind, 0) for kind in WAITS},
        )
        yield gauge(
            "breaker_open",
            "Whether the breaker is open and calls to Redash are refused.",
            (),
            {(): levels.breaker_open},
        )
        yield gauge(
            "config_last_reload_successful", "Whether the last reload worked.", (), {(): levels.reload_successful}
        )
        yield gauge(
            "config_last_reload_timestamp_seconds", "When the configuration was loaded.", (), {(): levels.reloaded_at}
        )
        yield counter(
            "warm_runs",
            "Rounds of the [[warm]] entries, since the configuration was loaded.",
            ("result",),
            {(result,): levels.warm.get(result, 0) for result in WARM},
        )
        yield counter(
            "log_lines_dropped",
            "Log lines dropped because the reader was too slow.",
            (),
            {(): levels.log_lines_dropped},
        )
        yield gauge("loop_lag_seconds", "Longest pause of the event loop, last minute.", (), {(): levels.loop_lag})
        yield InfoMetricFamily(
            PREFIX + "build", "The version that runs.", value={"version": __version__, "name": levels.name}
        )

    def _collect_stores(self, tiers: Sequence[TierStats]) -> Iterator[Metric]:
        yield gauge("cache_bytes", "Bytes stored.", ("tier",), {(t.tier,): t.bytes for t in tiers})
        yield gauge("cache_limit_bytes", "Bytes that may be stored.", ("tier",), {(t.tier,): t.limit for t in tiers})
        yield gauge("cache_entries", "Entries stored.", ("tier",), {(t.tier,): t.entries for t in tiers})
        yield counter("cache_evictions", "Entries evicted.", ("tier",), {(t.tier,): t.evictions for t in tiers})
        yield gauge("store_up", "Whether this part of the store works.", ("tier",), {(t.tier,): t.up for t in tiers})

    def _collect_sharing(self, levels: Levels) -> Iterator[Metric]:
        """Yield what there is to say of a store that gateways share; zeros without one, and one gateway."""
        sharing = levels.sharing
        yield gauge("leases", "Runs that this gateway leads.", (), {(): levels.leases})
        yield counter("lease_losses", "Leases lost to other gateways.", (), {(): levels.lease_losses})
        peers = len(sharing.gateways) if sharing is not None else 0
        yield gauge("peers", "Gateways that share the store now, this one included.", (), {(): max(1, peers)})
        found = dict.fromkeys(("losses", "round_trip", "used_bytes", "limit_bytes"), 0.0)
        found |= {name: getattr(sharing, name) for name in found if sharing is not None}
        yield counter("redis_losses", "Times that Redis was lost.", (), {(): found["losses"]})
        yield gauge("redis_round_trip_seconds", "Time that Redis takes to answer.", (), {(): found["round_trip"]})
        yield gauge("redis_memory_bytes", "Memory that Redis uses.", (), {(): found["used_bytes"]})
        yield gauge("redis_memory_limit_bytes", "Redis' maxmemory.", (), {(): found["limit_bytes"]})


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
