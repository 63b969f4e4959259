"""Early exits: waits that end before their event, for those who have something else to respond with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class EarlyExits:
    """The waits that may end early. `open` ends those of this moment, each with an error of its own."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error
        self._waits: set[asyncio.Timeout] = set()

    def open(self) -> None:
        """End the waits."""
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(now)

    @asynccontextmanager
    async def offered(self) -> AsyncIterator[None]:
        """Let what is awaited within end early.

        Raises:
            The error of these exits: they were opened.
        """
        wait = asyncio.timeout(None)
        try:
            async with wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if wait.expired():
                raise self._error() from None
            raise
