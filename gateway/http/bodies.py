"""What the bodies of all requests under way take together, and its bound. Reading one is in `request`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import ServiceUnavailable

RETRY_SECONDS: Final = 1.0

Owner = asyncio.Task[Any]


class Bodies:
    """Counts the bytes of bodies by the task that works on their request, from before they are read to its end."""

    def __init__(self, limit_bytes: Callable[[], int]) -> None:
        self._limit = limit_bytes
        self._by_owner: dict[Owner, int] = {}
        self.taken = 0
        """Bytes of all bodies under way, those counted in advance included."""

    def take(self, owner: Owner, count: int) -> None:
        """Count so many bytes more of a request; a request that is alone may take any number.

        Raises:
            ServiceUnavailable: all together would take more than the limit.
        """
        own = self._by_owner.get(owner, 0)
        if self.taken > own and self.taken + count > self._limit():
            raise ServiceUnavailable(
                "The requests under way fill the memory that they may take (cache.memory); try again soon.",
                retry_after=RETRY_SECONDS,
            )
        self._by_owner[owner] = own + count
        self.taken += count

    def release(self, owner: Owner) -> None:
        """Count a request's body no more: its response has left."""
        self.taken -= self._by_owner.pop(owner, 0)
