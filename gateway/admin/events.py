"""`/events`: the report once a second to whoever listens, as server-sent events. One ticker for all listeners."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from gateway.admin.values import Report

log = logging.getLogger("gateway.status")

PERIOD_SECONDS: Final = 1.0
MOST_LISTENERS: Final = 50
WRITE_SECONDS: Final = 5.0
"""A listener that has not taken an event within this is let go; EventSource comes back by itself."""

HEARTBEAT_SECONDS: Final = 15.0


class Events:
    """Everybody who listens to the report."""

    def __init__(self, report: Callable[[], Report]) -> None:
        self._report = report
        self._listeners = 0
        self._writing: set[asyncio.Transport] = set()  # to listeners whose event is on its way
        self._ticker: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes] | None = None  # the event that everybody waits for
        self._closed = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one listener until he leaves or the gateway stops."""
        if self._closed or self._listeners >= MOST_LISTENERS:
            return web.Response(status=503, text="Too many listen already.\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._listeners += 1
        try:
            await response.prepare(request)
            await self._feed(request, response)
        except ConnectionError:
            pass  # he has left
        finally:
            self._listeners -= 1
        return response

    async def _feed(self, request: web.Request, response: web.StreamResponse) -> None:
        event = b"retry: 2000\n\n" + self._event()
        transport = request.transport
        while transport is not None and not self._closed:
            self._writing.add(transport)
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(event)
            except TimeoutError:
                transport.abort()  # who does not read would not read a farewell either
                return
            finally:
                self._writing.discard(transport)
            event = await self._await_event()

    async def _await_event(self) -> bytes:
        """Return the next event, or a comment where none comes for long (proxies cut silent connections)."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick())
        done, _ = await asyncio.wait([self._next], timeout=HEARTBEAT_SECONDS)
        return done.pop().result() if done else b": still here\n\n"

    async def _tick(self) -> None:
        """Make one event a second for all, as long as anybody listens."""
        while self._listeners and not self._closed:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                self._tell(self._event())
            except Exception:
                log.exception("the report cannot be made")
                return

    def _event(self) -> bytes:
        return b"data: " + msgspec.json.encode(self._report()) + b"\n\n"

    def _tell(self, event: bytes) -> None:
        waited, self._next = self._next, None
        if waited is not None and not waited.done():
            waited.set_result(event)

    async def close(self) -> None:
        """End every stream at once, so that stopping is not held up."""
        self._closed = True
        self._tell(b"")
        for slow in self._writing:
            slow.abort()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
