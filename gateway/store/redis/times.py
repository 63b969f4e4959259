"""Redis' time is the one that all gateways share: how it relates to the monotonic clock of this one.

No times of two machines are compared: what a gateway writes is in Redis' time, what it reads is converted to its own.
"""

from __future__ import annotations

import math
import time
from typing import Final

from gateway.model import Clock

STEP_SECONDS: Final = 0.02
"""Smaller deviations are noise of the network; the conversion must give the same twice."""

_GRAIN: Final = 1024.0  # whole parts of a second, exact in a float


class SharedTime:
    """Converts times. Measured with each heartbeat."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = 0.0  # Redis' time minus `clock.monotonic()`
        self._base: float | None = None  # Redis' time minus the machine's monotonic time, when the offset was set
        self.uncertainty = 0.0
        """By so many seconds at most the conversion is wrong: Redis' clock was read within twice of that."""
        self.steady_since = math.inf
        """Redis' time since which its clock has run as that of this machine has, as far as this gateway has seen."""

    def measure(self, redis_seconds: float, sent: float, received: float) -> None:
        """Note that Redis' clock had this value between `sent` and `received` (`time.monotonic()`), just now."""
        base, uncertainty = redis_seconds - (sent + received) / 2, (received - sent) / 2
        first = self._base is None
        change = base - (self._base or 0.0)
        is_step = abs(change) > STEP_SECONDS + uncertainty + self.uncertainty
        if not first and not is_step and not uncertainty < self.uncertainty - STEP_SECONDS:
            return
        if first or is_step:
            self.steady_since = redis_seconds
        self._base, self.uncertainty = base, uncertainty
        offset = redis_seconds + uncertainty - self._clock.monotonic() if first else self._offset + change
        self._offset = _rounded(offset)

    def elapsed(self, shared: float, now: float, took: float) -> float:
        """Return how many seconds at least have passed between two readings of Redis' clock; 0 if it was set meanwhile.

        `now` was just measured, by a command that took so long (seconds).
        """
        doubt = 2 * STEP_SECONDS + self.uncertainty + took
        return max(0.0, now - shared - doubt) if shared >= self.steady_since else 0.0

    def now(self) -> float:
        """Return Redis' time in unix seconds, as far as it is known."""
        return self._clock.monotonic() + self._offset

    def shared(self, monotonic: float) -> float:
        """Convert a monotonic time of this gateway to Redis' time."""
        return monotonic + self._offset

    def local(self, shared: float) -> float:
        """Convert a time of Redis to the monotonic clock of this gateway."""
        return shared - self._offset

    def shared_from_wall(self, wall: float) -> float:
        """Convert a wall-clock time of this gateway to Redis' time."""
        return wall + self._wall_offset()

    def wall(self, shared: float) -> float:
        """Convert a time of Redis to the wall clock of this gateway."""
        return shared - self._wall_offset()

    def _wall_offset(self) -> float:
        return _rounded(self.now() - self._clock.wall())


def _rounded(seconds: float) -> float:
    return math.floor(seconds * _GRAIN) / _GRAIN


monotonic = time.monotonic
