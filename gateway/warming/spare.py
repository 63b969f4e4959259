"""Whether Redash has something to spare for what no caller waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.concurrency.breaker import Breaker
from gateway.concurrency.slots import FairSlots

BUSY_SECONDS: Final = 5.0
"""How long to wait when Redash is unavailable or its execution slots are in use."""


class Spare:
    """Counts what is refreshed now, by all entries together."""

    def __init__(self, slots: FairSlots, breaker: Breaker) -> None:
        self._slots = slots
        self._breaker = breaker
        self._active = 0

    @property
    def is_there(self) -> bool:
        """Whether a run now would not hinder callers: Redash is available, and slots are not scarce.

        At most half of the slots are used for warming, and where there are several, one always stays free for callers.
        """
        slots = self._slots
        spare = slots.size - slots.taken - (1 if slots.size > 1 else 0)
        return not self._breaker.is_open and slots.free() and spare > 0 and self._active < max(1, slots.size // 2)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Count one run: others check it before this one has begun in Redash."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
