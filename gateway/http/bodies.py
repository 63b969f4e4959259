"""The memory that the bodies of all requests in progress take together, and its limit. `request` reads the bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import ServiceUnavailable

RETRY_SECONDS: Final = 1.0

Owner = asyncio.Task[Any]


class Bodies:
    """Counts the bytes of bodies by the task that handles their request, from before the reading to its end."""

    def __init__(self, limit_bytes: Callable[[], int]) -> None:
        self._limit = limit_bytes
        self._by_owner: dict[Owner, int] = {}
        self.taken = 0
        """Bytes of all current bodies, including those counted in advance."""

    def take(self, owner: Owner, count: int) -> None:
        """Count `count` more bytes for a request; if it is the only one, it may take any number.

        Raises:
            ServiceUnavailable: all together would take more than the limit.
        """
        own = self._by_owner.get(owner, 0)
        if self.taken > own and self.taken + count > self._limit():
            raise ServiceUnavailable(
                "The requests in progress use all the memory that they may take (cache.memory); try again soon.",
                retry_after=RETRY_SECONDS,
            )
        self._by_owner[owner] = own + count
        self.taken += count

    def release(self, owner: Owner) -> None:
        """Stop counting a request's body: its response was sent."""
        self.taken -= self._by_owner.pop(owner, 0)
