"""One connection that many callers share: commands leave in order, replies come back in the same order.

A caller that is cancelled leaves its place in the line; its reply is read and dropped, so no other caller can get it.
A connection that breaks, or whose line cannot be trusted any more, is closed and fails everybody in the line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from gateway.store.redis.failures import UnavailableError, translated
from gateway.store.redis.scripts import Argument

MOST_QUEUED_BYTES: Final = 64 * 2**20
"""More than can be under way within the time limit; beyond it commands fail at once."""

Command = tuple[Argument, ...]


class Wire:
    """Owns a connected redis-py connection. `on_broken` is called once, when it is of no use any more."""

    def __init__(self, connection: AbstractConnection, on_broken: Callable[[str], None]) -> None:
        self._connection = connection
        self._on_broken = on_broken
        self._line: deque[asyncio.Future[Any]] = deque()
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._wake = asyncio.Event()
        self.replies = 0
        """How many replies have come so far."""
        self._broken = False
        self._tasks = [asyncio.create_task(step()) for step in (self._write, self._read)]

    @property
    def waiting(self) -> int:
        """Return how many commands have no reply yet."""
        return len(self._line)

    def send(self, commands: Sequence[Command]) -> list[asyncio.Future[Any]]:
        """Send commands together; each future gets its reply, or an exception of `failures`."""
        packed = [piece for command in commands for piece in self._connection.pack_command(*command)]
        size = sum(map(len, packed))
        if self._broken or self._outgoing_bytes + size > MOST_QUEUED_BYTES:
            raise UnavailableError
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        self._line.extend(futures)
        self._outgoing += packed
        self._outgoing_bytes += size
        self._wake.set()
        return futures

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                pieces, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
                await self._connection.send_packed_command(pieces, check_health=False)
        except (exceptions.RedisError, OSError) as error:
            self.break_off(str(error))

    async def _read(self) -> None:
        try:
            while True:
                reply = translated(await self._reply())
                self.replies += 1
                self._settle(self._line.popleft(), reply)
                if isinstance(reply, UnavailableError):
                    self.break_off(str(reply))
        except (exceptions.RedisError, OSError, IndexError) as error:
            self.break_off(str(error))

    async def _reply(self) -> object:
        try:
            return await self._connection.read_response(disable_decoding=True)
        except exceptions.ResponseError as error:
            return error

    def _settle(self, future: asyncio.Future[Any], reply: object) -> None:
        if future.done():  # its caller was cancelled
            return
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def break_off(self, reason: str) -> None:
        """Fail everybody in the line and use the connection no more; `aclose` must follow."""
        if self._broken:
            return
        self._broken = True
        for task in self._tasks:
            task.cancel()
        while self._line:
            self._settle(self._line.popleft(), UnavailableError(reason))
        self._on_broken(reason)

    async def aclose(self) -> None:
        """Close the connection. Does not wait for replies."""
        self.break_off("closed")
        await asyncio.wait(self._tasks)
        await self._connection.disconnect(nowait=True)
