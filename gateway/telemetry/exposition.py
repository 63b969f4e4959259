"""Histograms and query labels as plain numbers, and their form in the Prometheus exposition."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

PREFIX: Final = "redash_gateway_"


class Histogram:
    """Observations by upper bound; bounds are seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def copy(self) -> Histogram:
        """Return another histogram with the same observations."""
        made = Histogram(self.bounds)
        made.counts, made.total = self.counts.copy(), self.total
        return made

    def observe(self, values: Sequence[float], times: int = 1) -> None:
        """Count observations, each `times` times."""
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += times
        self.total += sum(values) * times

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def add(self, other: Histogram) -> None:
        """Add the observations of another histogram with the same bounds."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as the exposition needs them."""
        names = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]


REFRESH_AHEAD: Final = ("success", "failure", "over_budget")
"""How renewals of popular results end."""


def counter(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    """Make a counter; `values` by label values."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    """Make a gauge; `values` by label values."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def histogram(name: str, text: str, labels: Sequence[str], values: Mapping[Any, Histogram]) -> Metric:
    """Make a histogram; `values` by label values."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for key, observed in values.items():
        family.add_metric(key, observed.buckets(), observed.total)
    return family


def refresh_ahead(did: Mapping[str, float]) -> Iterator[Metric]:
    """Yield what refresh ahead did and saved, since the configuration was loaded."""
    results = dict(zip(REFRESH_AHEAD, ("renewed", "failed", "over_budget"), strict=True))
    counts = {(result,): did.get(name, 0) for result, name in results.items()}
    yield counter("refresh_ahead", "Renewals of popular results that were due, by result.", ("result",), counts)
    for name, text in (
        ("seconds", "Work in Redash for renewals of popular results."),
        ("saved_waits", "Requests that would have waited for a run without a renewal."),
        ("saved_seconds", "Time that these requests would have waited."),
    ):
        yield counter(f"refresh_ahead_{name}", text, (), {(): did.get(name, 0)})
