"""The memory that the bodies of all requests in progress take together, and its limit. `request` reads the bodies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import ServiceUnavailable

RETRY_SECONDS: Final = 1.0

Owner = asyncio.Task[Any]


class Bodies:
    """Counts the bytes of bodies by the task that handles their request, from before the reading to its end."""

    def __init__(self, limit_bytes: Callable[[], int]) -> None:
        self._limit = limit_bytes
        self._by_owner: Counter[Owner] = Counter()

    @property
    def taken(self) -> int:
        """Return the bytes of all bodies in progress, those counted in advance included."""
        return self._by_owner.total()

    def take(self, owner: Owner, count: int) -> None:
        """Count so many bytes more of a request, or raise ServiceUnavailable if all take too much together."""
        if self.taken + count > self._limit():
            self._check_alone(owner)
        self._by_owner[owner] += count

    def _check_alone(self, owner: Owner) -> None:
        """Let a request that is alone take any number: each has a limit of its own."""
        if self.taken > self._by_owner[owner]:
            raise ServiceUnavailable(
                "The requests in progress fill the memory that they may take (cache.memory); try again soon.",
                retry_after=RETRY_SECONDS,
            )

    def release(self, owner: Owner) -> None:
        """Count a request's body no more: its response has left."""
        self._by_owner.pop(owner, 0)
