"""Why a result is not stored: what this process remembers of results that it stored. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.model import Key
from gateway.outcome import MissReason

MOST_KEYS: Final = 10_000
"""About 3 MB. A key that was forgotten counts as never stored."""


class Absences:
    """The keys under which results were stored last, each with the definition marker and the time (monotonic)."""

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._stored: dict[Key, tuple[str, float]] = {}

    def note(self, keys: Sequence[Key], marker: str, now: float) -> None:
        """Note that a result was stored under these keys."""
        for key in keys:
            self._stored.pop(key, None)
            self._stored[key] = marker, now
            if len(self._stored) > self._most:
                del self._stored[next(iter(self._stored))]

    def reason(self, key: Key, marker: str | None, purged: float) -> MissReason:
        """Say why nothing is stored under `key`; `purged` is when its query was purged last."""
        known = self._stored.get(key)
        if known is None:
            return "not_stored"
        if known[1] <= purged:
            return "purged"
        return "evicted" if marker in (None, known[0]) else "marker_changed"
