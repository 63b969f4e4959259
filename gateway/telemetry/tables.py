"""Rows of the status page: clients, queries, routes of Redash. Pure and bounded: the least recently seen go first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from gateway.telemetry.history import CACHE

MOST_ROWS: Final = 1_000


class Row(Protocol):
    """A row that knows when it was last used."""

    seen: float  # monotonic


class ClientRow:
    """One client's requests since the start."""

    __slots__ = ("cache", "refused", "seen")

    def __init__(self) -> None:
        self.cache = dict.fromkeys(CACHE, 0)
        self.refused = 0
        self.seen = 0.0


class QueryRow:
    """One query's requests and runs since the start."""

    __slots__ = ("cache", "failures", "runs", "runtime", "saved", "seen", "served_runtime")

    def __init__(self) -> None:
        self.cache = dict.fromkeys(CACHE, 0)
        self.saved = 0.0  # seconds of warehouse time
        self.runs = 0  # that succeeded
        self.failures = 0
        self.runtime = 0.0  # of all runs, in seconds, as Redash measured it
        self.served_runtime = 0.0  # of the run whose result was served last
        self.seen = 0.0

    @property
    def mean_runtime(self) -> float | None:
        """Seconds that a run takes; before the first run, what the stored result cost."""
        return self.runtime / self.runs if self.runs else self.served_runtime or None


class UpstreamRow:
    """Requests to one route of Redash since the start. An error is no response, or a status of 500 and above."""

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
