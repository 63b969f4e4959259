"""The race of kept connections: Redash, or a proxy before it, closes one just when a request is sent on it.

RFC 9112 section 9.3.1 allows such a request to be sent again only if it is known that the server did not act on it, or
that acting twice does no harm. And what comes without a request is no response to the next one (section 9.2).
"""

from __future__ import annotations

import select
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, cast
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from gateway.errors import UpstreamError

RACE_SECONDS: Final = 1.0
"""A server that closes a connection later than this after the request has probably read it."""


class Connection:
    """The connection of one request, which the pool describes: `current` refers to it while the request is sent."""

    def __init__(self) -> None:
        self.is_reused = False


current: Final[ContextVar[Connection]] = ContextVar("current")


class _Handler(ResponseHandler):
    """aiohttp's handler, closed by what arrives while no request is in progress.

    aiohttp parses that, and takes it for the response to the next request, whoever sends that one.
    """

    is_idle = False

    def data_received(self, data: bytes) -> None:
        """Parse what has come, unless no request asked for it."""
        if self.is_idle and data:  # aiohttp calls this without any, to go on parsing
            self.close()
        else:
            super().data_received(data)

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come that is not read yet, the end of the connection included."""
        found = None if self.transport is None else self.transport.get_extra_info("socket")
        if found is None or self.should_close:
            return False
        poll = select.poll()
        poll.register(found.fileno(), select.POLLIN)
        return not poll.poll(0)


class ConnectionPool(aiohttp.TCPConnector):
    """A pool that notes in `current` whether a connection was used before; aiohttp's traces take ten times as long."""

    def __init__(self) -> None:
        super().__init__(limit=0)  # the slots are the limit
        self._factory = cast("partial[ResponseHandler]", partial(_Handler, loop=self._loop))
        self._used: WeakSet[object] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Return a connection for a request."""
        while True:
            found = await super().connect(req, traces, timeout)
            handler = cast(_Handler, found.protocol)
            is_reused = handler in self._used
            if not is_reused or handler.is_silent:
                break
            found.close()
        handler.is_idle = False
        current.get().is_reused = is_reused
        self._used.add(handler)
        return found

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        cast(_Handler, protocol).is_idle = True


class KeptConnectionError(UpstreamError):
    """A kept connection was closed before a byte of the response, as one that had become too old."""


def lost_race(connection: Connection, error: BaseException | None, seconds: float) -> bool:
    """Whether the request, sent `seconds` ago, most likely met a connection that was being closed."""
    if not connection.is_reused or seconds > RACE_SECONDS:
        return False
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the part of a response that has come
    return isinstance(error, aiohttp.ClientOSError)
