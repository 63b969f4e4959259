"""How long the event loop was held up: by a long computation, by garbage collection, or by a busy machine."""

from __future__ import annotations

import asyncio
import time
from typing import Final

TICK_SECONDS: Final = 0.01
"""A shorter pause may pass between two ticks unseen. A tick takes some microseconds."""

_SPAN_SECONDS: Final = 10.0
_SPANS: Final = 6


class LoopLag:
    """Measures how late a timer of this event loop is, at every tick."""

    def __init__(self) -> None:
        self._longest = [0.0] * _SPANS  # of each of the last spans, the current one last
        self._span_ends = self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure in the running loop."""
        self._span_ends = time.monotonic() + _SPAN_SECONDS
        self._wait()

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()

    def longest(self) -> float:
        """Return the longest pause of about the last minute, in seconds."""
        return max(self._longest)

    def _wait(self) -> None:
        self._due = time.monotonic() + TICK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        while now >= self._span_ends:
            self._longest = [*self._longest[1:], 0.0]
            self._span_ends += _SPAN_SECONDS
        self._longest[-1] = max(self._longest[-1], now - self._due)
        self._wait()
