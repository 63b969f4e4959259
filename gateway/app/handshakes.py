"""Accepting TLS connections: a bound on those whose handshake is not over, which no other limit counts."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

HANDSHAKE_SECONDS: Final = 10.0
"""A caller's handshake must be over within this time."""

ENOUGH_SECONDS: Final = 1.0
"""Older handshakes are ended early where new connections need their room."""

SHUTDOWN_SECONDS: Final = 3.0
"""So long the gateway waits for the caller's end of a connection that it closes."""

_AT_ONCE: Final = 64
"""So many connections are accepted before other work goes on."""


class Handshakes:
    """Accepts on one socket. The event loop's own server accepts any number of connections that only negotiate."""

    def __init__(
        self, make: Callable[[], asyncio.Protocol], listening: socket.socket, tls: ssl.SSLContext, most: int
    ) -> None:
        """`make` returns the protocol of a new connection; at most so many handshakes are in progress."""
        self._make = make
        self._listening = listening
        self._tls = tls
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._begun: dict[asyncio.Task[None], float] = {}  # the oldest first
        self._accepting = False
        self._closed = False
        self._later: asyncio.TimerHandle | None = None

    def accept(self) -> None:
        """Accept connections from now on."""
        if not self._accepting and not self._closed:
            self._accepting = True
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if len(self._begun) >= self._most and not self._end_oldest():
                self._pause()
                return
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left
                self._pause()
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._negotiate(connection))
            self._begun[task] = self._loop.time()
            task.add_done_callback(self._ended)

    def _end_oldest(self) -> bool:
        """End the oldest handshake, unless it has only just begun; returns whether there is room for another one."""
        oldest, begun = next(iter(self._begun.items()))
        if self._loop.time() - begun < ENOUGH_SECONDS:
            return False
        del self._begun[oldest]
        oldest.cancel()
        return True

    async def _negotiate(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError:  # also errors of TLS, and of time
            connection.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._begun.pop(task, None)
        if not self._accepting and len(self._begun) < self._most:
            self.accept()

    def _pause(self) -> None:
        """Let connections queue until a handshake ends, or is old enough to be ended."""
        self._accepting = False
        self._loop.remove_reader(self._listening.fileno())
        if self._later is None or self._later.cancelled() or self._later.when() <= self._loop.time():
            self._later = self._loop.call_later(ENOUGH_SECONDS, self.accept)

    def close(self) -> None:
        """Accept no more; handshakes in progress go on."""
        if self._accepting:
            self._loop.remove_reader(self._listening.fileno())
        self._accepting, self._closed = False, True
        if self._later is not None:
            self._later.cancel()

    async def wait_closed(self) -> None:
        """Wait until no handshake is in progress."""
        await asyncio.gather(*self._begun, return_exceptions=True)
