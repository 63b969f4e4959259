"""A token bucket for request rates."""

from __future__ import annotations


class TokenBucket:
    """`burst` tokens at once, `rate` tokens per second in the long run. Time is an argument."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float, tokens: float | None = None) -> None:
        """It begins with so many tokens; full, if they are not given."""
        self.rate = rate
        self.burst = burst
        self._tokens = burst if tokens is None else tokens
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; returns whether there was one."""
        self._tokens = self.level(now)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def seconds_until_token(self, now: float) -> float:
        """Return the seconds until there is a whole token."""
        return max(0.0, (1.0 - self.level(now)) / self.rate)

    def remaining(self, now: float) -> int:
        """Return the number of whole tokens now."""
        return int(self.level(now))

    def level(self, now: float) -> float:
        """Return the tokens now, with parts of one."""
        return min(self.burst, self._tokens + (now - self._at) * self.rate)
