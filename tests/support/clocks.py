"""Clocks that tests turn."""

from __future__ import annotations

import time


class TurnableClock:
    """The clocks of the system, moved by `turn`: both at once, as when time passes."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def turn(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        self.ahead += seconds


class StandingClock(TurnableClock):
    """Whole seconds that pass only when a test says so: bounds can be met exactly, and nothing expires by itself.

    It begins on 2027-01-15 at 08:00 UTC, a Friday.
    """

    def wall(self) -> float:
        return 1_800_000_000.0 + self.ahead

    def monotonic(self) -> float:
        return 5_000.0 + self.ahead
