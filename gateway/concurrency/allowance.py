"""Memory that is taken for a while, in turn, and held as long as the bytes live that are in it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque

from gateway.concurrency.space import Space
from gateway.errors import ServiceUnavailable


class Share:
    """A part of an allowance; given back with the last reference to this."""

    def __init__(self, allowance: Allowance, count: int) -> None:
        self._taken = [count]
        self._allowance = allowance
        weakref.finalize(self, _give_back, allowance, self._taken, asyncio.get_running_loop())

    def shrink(self, count: int) -> None:
        """Keep only so many bytes."""
        self._allowance.release(self._taken[0] - count)
        self._taken[0] = count


class Allowance:
    """A number of bytes. A request for more than all of it gets all of it."""

    def __init__(self, limit_bytes: int) -> None:
        self._space = Space(limit_bytes)
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        """Return the bytes that are taken now."""
        return self._space.taken

    @property
    def limit(self) -> int:
        """Return the bytes that there are."""
        return self._space.limit

    async def take(self, count: int, seconds: float) -> Share:
        """Take so many bytes; wait for them at most so long.

        Raises:
            ServiceUnavailable: others take them, all that time.
        """
        count = min(count, self._space.limit)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        self._serve()
        try:
            async with asyncio.timeout(seconds):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if not turn.cancelled():  # it was served in the same moment
                self.release(count)
            self._serve()
            if isinstance(error, TimeoutError):
                raise ServiceUnavailable(_BUSY, retry_after=1) from None
            raise
        return Share(self, count)

    def release(self, count: int) -> None:
        """Give so many bytes back."""
        self._space.add(-count)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._space.take(self._waiting[0][0])):
            _, turn = self._waiting.popleft()
            if not turn.done():  # otherwise nobody waits any more
                turn.set_result(None)


_BUSY = "Other large objects and lists use all the memory that they may take (cache.memory); try again soon."


def _give_back(allowance: Allowance, taken: list[int], loop: asyncio.AbstractEventLoop) -> None:
    """Give the bytes back soon: the garbage collector may call this anywhere."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(allowance.release, taken[0])
