"""Redash's clock, as far as the `Date` of its responses shows it. No clock of its own: times are arguments."""

from __future__ import annotations

import math
from typing import Final

WINDOW_SECONDS: Final = 300.0
"""Bounds from older responses count no more: clocks drift, and are set."""

_DRIFT_SECONDS: Final = 0.05
"""By so much two clocks may drift apart in that time."""


class _Bounds:
    """Between what and what Redash's clock is ahead of the own monotonic one, by the responses since `began`."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.low, self.high = -math.inf, math.inf

    def narrow(self, low: float, high: float) -> None:
        self.low, self.high = max(self.low, low), min(self.high, high)

    def allow(self, ahead: float) -> bool:
        return self.low - _DRIFT_SECONDS <= ahead <= self.high + _DRIFT_SECONDS


class RedashClock:
    """Bounds of the difference between Redash's clock (unix seconds) and the own monotonic one.

    `Date` has whole seconds. But the more responses come, the closer to the beginning of a second some of them are.
    """

    def __init__(self) -> None:
        self._before = self._now = _Bounds(-math.inf)

    def record(self, date: float, sent: float, received: float) -> None:
        """Note that Redash's clock showed `date`, cut to the second, between these moments (monotonic)."""
        age = received - self._now.began
        if age > WINDOW_SECONDS:
            self._before = self._now if age <= 2 * WINDOW_SECONDS else _Bounds(-math.inf)
            self._now = _Bounds(received)
        low, high = date - received, date + 1 - sent
        self._now.narrow(low, high)
        both = self._both()
        if both.low > both.high + _DRIFT_SECONDS:  # one of the clocks was set
            self._before, self._now = _Bounds(-math.inf), _Bounds(received)
            self._now.narrow(low, high)

    def most_ahead(self, wall: float, now: float) -> float:
        """Return how far Redash's clock may be ahead of the own monotonic one at most.

        `wall` and `now` are the same moment by the own clocks. As long as no response contradicts it, the own wall
        clock is taken for Redash's: else the second that `Date` leaves open would cost runs that nobody needs.
        """
        both = self._both()
        return wall - now if both.allow(wall - now) else both.high + _DRIFT_SECONDS

    def _both(self) -> _Bounds:
        both = _Bounds(self._now.began)
        for bounds in (self._before, self._now):
            both.narrow(bounds.low, bounds.high)
        return both
