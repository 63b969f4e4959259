"""Turns: which of the waiting tasks may enter, where different texts of one key must not meet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TurnsByText:
    """Lets tasks with the same text for a key in together; another text waits until all of them have left.

    Redash gives some different texts the same hash, and joins their runs (CONTRACT 7): those must not run together.
    """

    def __init__(self) -> None:
        self._inside: dict[bytes, tuple[bytes, int]] = {}
        self._waiting: dict[bytes, deque[tuple[bytes, asyncio.Future[None]]]] = {}

    def would_wait(self, key: bytes, text: bytes) -> bool:
        """Whether `hold` would wait now."""
        inside = self._inside.get(key)
        return inside is not None and (inside[0] != text or bool(self._waiting.get(key)))

    @asynccontextmanager
    async def hold(self, key: bytes, text: bytes) -> AsyncIterator[None]:
        """Be inside with `text`. The wait needs no timeout here, because the runs before it have one."""
        if self.would_wait(key, text):
            await self._wait(key, text)
        else:
            self._enter(key, text)
        try:
            yield
        finally:
            self._leave(key)

    async def _wait(self, key: bytes, text: bytes) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append((text, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it got its turn in the moment of the cancellation
                self._leave(key)
            raise

    def _enter(self, key: bytes, text: bytes) -> None:
        self._inside[key] = (text, self._inside.get(key, (text, 0))[1] + 1)

    def _leave(self, key: bytes) -> None:
        text, count = self._inside.pop(key)
        if count > 1:
            self._inside[key] = (text, count - 1)
            return
        line = self._waiting.get(key, deque())
        while line and (key not in self._inside or line[0][0] == self._inside[key][0]):
            text, turn = line.popleft()
            if not turn.done():  # otherwise its waiter was cancelled
                self._enter(key, text)
                turn.set_result(None)
        if not line:
            self._waiting.pop(key, None)
