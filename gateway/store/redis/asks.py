"""The asks of followers, as their leader counts them: from which moment on rows must be for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.model import Clock
from gateway.store.redis.times import SharedTime

_FIRST_OWN: Final = 2
"""Of the numbers of asks in this gateway itself, which are negative; -1 stands for a missing ask elsewhere."""


class Asks:
    """Of one run. An ask is heard of when it is made, or read from Redis later."""

    def __init__(self, clock: Clock, time: SharedTime, on_need: Callable[[float, float], None]) -> None:
        self.needs: dict[int, float] = {}
        self.place = (b"0", 0)
        """From which number Redis counts, and how many were read."""
        self._clock = clock
        self._time = time
        self._on_need = on_need

    def note(self, base: bytes, asks: list[bytes], time: int, read: int, took: float) -> None:
        """Note what was read in so many seconds: those after the first `read`.

        An ask counts from when it was noted in Redis, if Redis' clock (`time` is its reading) was not set since then.
        """
        known, before = self.place
        self.place = base, max(before if base == known else 0, read + len(asks))
        for number, ask in enumerate(asks, int(base) + read + 1):
            age, noted = map(float, ask.split(b" "))
            self.hear(number, age, self._time.elapsed(noted / 1e6, time / 1e6, took))

    def hear(self, number: int, age: float, seconds: float = 0.0) -> None:
        """Note an ask that was made at least so many seconds ago."""
        if number not in self.needs:
            self.needs[number] = need = self._clock.monotonic() - age - seconds
            self._on_need(need, age)

    def hear_own(self, age: float) -> int:
        """Note the ask of a follower in this very gateway; return its number, which is negative."""
        number = -_FIRST_OWN - len(self.needs)
        self.hear(number, age)
        return number
