"""Server-sent events, one a second while anybody listens. One ticker serves all listeners of a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import web

log = logging.getLogger("gateway.status")

PERIOD_SECONDS: Final = 1.0
MOST_LISTENERS: Final = 50
WRITE_SECONDS: Final = 5.0
"""A listener that has not read an event within this time is disconnected; EventSource reconnects by itself."""

HEARTBEAT_SECONDS: Final = 15.0
CLOSE_SECONDS: Final = 0.2
"""How long an event that is being written may take when the streams end."""


class EventStream:
    """One stream and its listeners."""

    def __init__(self, data: Callable[[], bytes], may_read: Callable[[web.Request], bool]) -> None:
        """`data` returns what the next event says: one line. `may_read` is asked again before each event."""
        self._data = data
        self._may_read = may_read
        self._listeners = 0
        self._writing: set[asyncio.Transport] = set()  # with an event that is being written
        self._ticker: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes] | None = None  # the event that all listeners wait for
        self._closed = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one listener until it leaves or the gateway stops."""
        if self._closed or self._listeners >= MOST_LISTENERS:
            return web.Response(status=503, text="Too many listeners.\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._listeners += 1
        try:
            await response.prepare(request)
            await self._feed(request, response)
        except ConnectionError:
            pass  # the listener has left
        finally:
            self._listeners -= 1
        return response

    async def _feed(self, request: web.Request, response: web.StreamResponse) -> None:
        event = b"retry: 2000\n\n" + self._event()
        transport = request.transport
        while transport is not None and not self._closed and self._may_read(request):
            self._writing.add(transport)
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(event)
            except TimeoutError:
                transport.abort()  # it reads nothing, so it would not see a regular end either
                return
            finally:
                self._writing.discard(transport)
            event = await self._await_event()

    async def _await_event(self) -> bytes:
        """Return the next event, or a comment if none comes for long (proxies cut silent connections)."""
        if self._closed:  # while the last one was being written
            return b""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick())
        done, _ = await asyncio.wait([self._next], timeout=HEARTBEAT_SECONDS)
        return done.pop().result() if done else b": still here\n\n"

    async def _tick(self) -> None:
        """Publish one event a second while there are listeners."""
        while self._listeners and not self._closed:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                self._publish(self._event())
            except Exception:
                log.exception("the status report failed")
                return

    def _event(self) -> bytes:
        return b"data: " + self._data() + b"\n\n"

    def _publish(self, event: bytes) -> None:
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(event)

    async def close(self) -> None:
        """End every stream at once, so that shutdown need not wait for them."""
        self._closed = True
        self._publish(b"")
        if self._writing:
            await asyncio.sleep(CLOSE_SECONDS)
        for slow in self._writing:
            slow.abort()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
