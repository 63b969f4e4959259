"""Counts what `outcome.py` records, in plain numbers, and shows them to Prometheus when it asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.model import TierStats
from gateway.outcome import ExecutionEnd, Outcome, UpstreamCall

PREFIX: Final = "redash_gateway_"
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

CACHE: Final = ("hit", "stale", "miss", "collapsed", "bypass", "none")
EXECUTIONS: Final = ("success", "failure", "cancelled", "lost")


class Histogram:
    """Observations by upper bound; bounds are seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count an observation, `count` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as the exposition wants them."""
        shown, count = [], 0
        for bound, number in zip((*self.bounds, float("inf")), self.counts, strict=True):
            count += number
            shown.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(count)))
        return shown


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """What is read at scrape time from the parts that know it."""

    executions_in_flight: int
    execution_waiters: int
    upstream_queue: int
    breaker_open: bool
    tiers: list[TierStats]
    reload_successful: bool
    reloaded_at: float


class Metrics(Collector):
    """All counters of the gateway; a `Teller` feeds it, a registry reads it."""

    def __init__(self, levels: Callable[[], Levels], credentials: Iterable[str], per_query: int) -> None:
        self._levels = levels
        self._per_query = per_query
        self._queries: set[str] = set()
        self.requests: dict[tuple[str, ...], int] = defaultdict(int)
        self.query_requests: dict[tuple[str, ...], int] = defaultdict(int)
        self.durations: dict[tuple[str, ...], Histogram] = defaultdict(lambda: Histogram(REQUEST_SECONDS))
        self.upstream_requests: dict[tuple[str, ...], int] = defaultdict(int)
        self.upstream_durations: dict[tuple[str, ...], Histogram] = defaultdict(lambda: Histogram(UPSTREAM_SECONDS))
        self.executions: dict[tuple[str, ...], int] = {(name,): 0 for name in EXECUTIONS}
        self.execution_durations: dict[tuple[str, ...], Histogram] = {(): Histogram(EXECUTION_SECONDS)}
        self.saved: dict[tuple[str, ...], int] = {("hit",): 0, ("collapsed",): 0}
        self.saved_seconds: dict[tuple[str, ...], float] = {("hit",): 0.0, ("collapsed",): 0.0}
        self.ages: dict[tuple[str, ...], Histogram] = {(): Histogram(AGE_SECONDS)}
        self.rejected: dict[tuple[str, ...], int] = defaultdict(int)
        self.credential_up: dict[tuple[str, ...], int] = {(name,): 1 for name in credentials}

    def request(self, outcome: Outcome, count: int = 1) -> None:
        """Count one request, or several that were answered alike."""
        status = f"{outcome.status // 100}xx"
        self.requests[outcome.route, outcome.client, outcome.cache, status] += count
        self.durations[outcome.route, outcome.cache].observe(outcome.duration, count)
        if outcome.query_id is not None and outcome.cache != "none":
            self.query_requests[self._query(outcome.query_id), outcome.cache] += count
        if outcome.age is not None:
            self.ages[()].observe(outcome.age, count)
        if outcome.cache in ("hit", "stale") and outcome.saved_runtime:
            self.saved["hit",] += count
            self.saved_seconds["hit",] += outcome.saved_runtime * count
        if outcome.reason:
            self.rejected[outcome.reason,] += count

    def _query(self, query_id: int) -> str:
        """Return the label of a query: its id for the first `per_query`, "other" for all that come after."""
        label = str(query_id)
        if label not in self._queries:
            if len(self._queries) >= self._per_query:
                return "other"
            self._queries.add(label)
        return label

    def upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash."""
        status = f"{call.status // 100}xx" if call.status else "none"
        self.upstream_requests[call.route, status] += 1
        self.upstream_durations[call.route, status].observe(call.seconds)
        if call.status:
            self.credential_up[call.credential,] = int(call.accepted)

    def execution(self, end: ExecutionEnd) -> None:
        """Count one execution."""
        self.executions[end.result,] += 1
        self.execution_durations[()].observe(end.seconds)
        if end.result == "success" and end.callers > 1:
            self.saved["collapsed",] += end.callers - 1
            self.saved_seconds["collapsed",] += (end.callers - 1) * end.runtime

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of DESIGN's table that has a value now."""
        yield from self._collect_requests()
        yield from self._collect_upstream()
        yield from self._collect_levels(self._levels())

    def _collect_requests(self) -> Iterator[Metric]:
        yield _counter("requests", "Requests answered.", ("route", "client", "cache", "status"), self.requests)
        yield _histogram("request_duration_seconds", "Time to answer.", ("route", "cache"), self.durations)
        yield _counter("query_requests", "Requests by query.", ("query", "cache"), self.query_requests)
        yield _counter("saved_executions", "Executions that callers did not cost.", ("cache",), self.saved)
        yield _counter(
            "saved_execution_seconds", "Warehouse time that callers did not cost.", ("cache",), self.saved_seconds
        )
        yield _histogram("served_age_seconds", "Age of the results that were served.", (), self.ages)
        yield _counter("rejected", "Requests that were refused or failed.", ("reason",), self.rejected)

    def _collect_upstream(self) -> Iterator[Metric]:
        labels = ("route", "status")
        yield _counter("upstream_requests", "Requests to Redash.", labels, self.upstream_requests)
        yield _histogram(
            "upstream_request_duration_seconds", "Redash's time to answer.", labels, self.upstream_durations
        )
        yield _counter("executions", "Executions that ended.", ("outcome",), self.executions)
        yield _histogram("execution_duration_seconds", "Time an execution took.", (), self.execution_durations)
        yield _gauge("credential_up", "Whether Redash accepts the key.", ("credential",), self.credential_up)

    def _collect_levels(self, levels: Levels) -> Iterator[Metric]:
        yield _gauge("executions_in_flight", "Executions under way.", (), {(): levels.executions_in_flight})
        yield _gauge("execution_waiters", "Callers that wait for executions.", (), {(): levels.execution_waiters})
        yield _gauge("upstream_queue", "Executions and requests that wait for a slot.", (), {(): levels.upstream_queue})
        yield _gauge("breaker_open", "Whether Redash is left alone after failures.", (), {(): levels.breaker_open})
        tiers = levels.tiers
        yield _gauge("cache_bytes", "Bytes stored.", ("tier",), {(t.tier,): t.bytes for t in tiers})
        yield _gauge("cache_entries", "Entries stored.", ("tier",), {(t.tier,): t.entries for t in tiers})
        yield _counter("cache_evictions", "Entries evicted.", ("tier",), {(t.tier,): t.evictions for t in tiers})
        yield _gauge("store_up", "Whether the store works.", (), {(): all(t.up for t in tiers)})
        yield _gauge(
            "config_last_reload_successful", "Whether the last reload worked.", (), {(): levels.reload_successful}
        )
        yield _gauge(
            "config_last_reload_timestamp_seconds", "When the configuration was loaded.", (), {(): levels.reloaded_at}
        )
        yield _gauge("build_info", "The version that runs.", ("version",), {(__version__,): 1})


def _counter(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def _histogram(name: str, text: str, labels: Sequence[str], values: Mapping[Any, Histogram]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for key, histogram in values.items():
        family.add_metric(key, histogram.buckets(), histogram.total)
    return family


def registry(metrics: Metrics) -> CollectorRegistry:
    """Make the registry that `/metrics` shows: ours, and the process's."""
    made = CollectorRegistry()
    made.register(metrics)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made
