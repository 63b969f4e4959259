"""Who asked and what was asked for, row by row. Pure and bounded: those not seen for longest go first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from gateway.telemetry.history import CACHE

MOST_ROWS: Final = 1_000


class Row(Protocol):
    """What a table keeps."""

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
        self.runs = 0  # that brought rows
        self.failures = 0
        self.runtime = 0.0  # of all runs, in seconds, as Redash measured it
        self.served_runtime = 0.0  # of a run whose rows were served lately
        self.seen = 0.0

    @property
    def mean_runtime(self) -> float | None:
        """Seconds that a run takes; what stored rows cost where none has been run since the start."""
        return self.runtime / self.runs if self.runs else self.served_runtime or None


class UpstreamRow:
    """Requests to one route of Redash since the start. An error is no answer, or one of 500 and above."""

    __slots__ = ("errors", "requests", "seconds", "seen")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.seconds = 0.0
        self.seen = 0.0


K = TypeVar("K", int, str)
R = TypeVar("R", bound=Row)


class Table(dict[K, R]):
    """Rows by name, made on first sight; when it is full, the tenth that was not seen for longest makes room."""

    def __init__(self, make: Callable[[], R], most: int = MOST_ROWS) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, name: K) -> R:
        if len(self) >= self._most:
            for oldest in sorted(self, key=lambda known: self[known].seen)[: max(1, self._most // 10)]:
                del self[oldest]
        row = self[name] = self._make()
        return row
