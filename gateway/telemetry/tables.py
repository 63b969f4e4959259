"""Rows of the console: clients, queries, routes of Redash. Pure and bounded: the least recently seen go first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from gateway.outcome import OutcomeBatch
from gateway.telemetry.exposition import Histogram
from gateway.telemetry.history import CACHE
from gateway.telemetry.metrics import AGE_SECONDS, EXECUTION_SECONDS

MOST_ROWS: Final = 1_000
MOST_FAVOURITES: Final = 30
"""1,000 queries with so many results take about 6 MB."""


class Row(Protocol):
    """A row that knows when it was last used."""

    seen: float  # monotonic


class ClientRow:
    """One client's requests since the start. An error has a status of 500 and above."""

    __slots__ = ("cache", "errors", "refused", "seen")

    def __init__(self) -> None:
        self.cache = dict.fromkeys(CACHE, 0)
        self.refused = 0
        self.errors = 0
        self.seen = 0.0


class Favourites:
    """How often the most requested results were requested: all of them while there are few, later estimates.

    The least requested gives its place and its count to a newcomer, so a favourite is never lost ("space saving").
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}

    def add(self, key: bytes, count: int) -> None:
        """Count requests for one result."""
        counts = self.counts
        if key not in counts and len(counts) >= MOST_FAVOURITES:
            count += counts.pop(min(counts, key=counts.__getitem__))
        counts[key] = counts.get(key, 0) + count


class QueryRow:
    """One query's requests and runs since the start."""

    __slots__ = (
        "ages",
        "cache",
        "failures",
        "favourites",
        "misses",
        "runtime",
        "runtimes",
        "saved",
        "seen",
        "served_runtime",
    )

    def __init__(self) -> None:
        self.cache = dict.fromkeys(CACHE, 0)
        self.misses: dict[str, int] = {}
        self.ages = Histogram(AGE_SECONDS)  # of served results
        self.favourites = Favourites()
        self.saved = 0.0  # seconds of warehouse time
        self.runtimes = Histogram(EXECUTION_SECONDS)  # of runs that succeeded, as Redash measured them
        self.failures = 0
        self.served_runtime = 0.0  # of the run whose result was served last
        self.seen = 0.0

    def record(self, batch: OutcomeBatch) -> None:
        """Count requests that brought a result."""
        first, count = batch.first, batch.count
        self.cache[first.counted] += count
        if first.counted == "miss":
            self.misses[first.miss] = self.misses.get(first.miss, 0) + count
        self.ages.observe(batch.ages, batch.age_times)
        for key, times in batch.keys.items():
            self.favourites.add(key, times)

    def record_run(self, seconds: float) -> None:
        """Count a run that succeeded."""
        self.runtimes.observe([seconds])

    @property
    def runs(self) -> int:
        """How many runs succeeded."""
        return self.runtimes.count

    @property
    def mean_runtime(self) -> float | None:
        """Seconds that a run takes; before the first run, what the stored result cost."""
        return self.runtimes.total / self.runs if self.runs else self.served_runtime or None


class UpstreamRow:
    """Requests to one route of Redash since the start. An error says that Redash is unavailable."""

    __slots__ = ("errors", "requests", "seconds", "seen")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.seconds = 0.0
        self.seen = 0.0


K = TypeVar("K", int, str)
R = TypeVar("R", bound=Row)


class Table(dict[K, R]):
    """Rows by name, made on first use; a full table drops the tenth of its rows that was least recently seen."""

    def __init__(self, make: Callable[[], R], most: int = MOST_ROWS) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, name: K) -> R:
        if len(self) >= self._most:
            for oldest in sorted(self, key=lambda name: self[name].seen)[: max(1, self._most // 10)]:
                del self[oldest]
        row = self[name] = self._make()
        return row
