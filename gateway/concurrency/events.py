"""An event for very many waiters."""

from __future__ import annotations

import asyncio
import contextlib
import math


class Event:
    """Something that happens once, and the tasks that wait for it.

    A waiter leaves in constant time, so ten thousand callers that hang up at once cost no quadratic time. In
    `asyncio.Event` (a deque) and `asyncio.shield` (a list of callbacks) each of them costs a search.
    """

    __slots__ = ("_waiters", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def waiting(self) -> int:
        """The number of tasks that wait now."""
        return len(self._waiters)

    def set(self) -> None:
        """Mark it as happened and wake all waiters; the second time does nothing."""
        self.is_set = True
        self.wake()

    def wake(self) -> None:
        """Let `wait` return for those who wait now, without setting the event."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self) -> None:
        """Return when the event is set, or at the next `wake`."""
        if self.is_set:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


async def wait_for(event: Event, seconds: float) -> None:
    """Wait for the event, at most so many seconds; they may be infinite."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds if seconds < math.inf else None):
            await event.wait()
