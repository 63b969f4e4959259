"""The race of kept connections: Redash, or a proxy before it, closes one just when a request is sent on it.

RFC 9112 section 9.3.1 allows such a request to be sent again only if it is known that the server did not act on it, or
that acting twice does no harm.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final
from weakref import WeakSet

import aiohttp
from aiohttp.tracing import Trace

from gateway.errors import UpstreamError

RACE_SECONDS: Final = 1.0
"""A server that closes a connection later than this after the request has probably read it."""


class Connection:
    """The connection of one request, which the pool describes: `current` refers to it while the request is sent."""

    def __init__(self) -> None:
        self.is_reused = False


current: Final[ContextVar[Connection]] = ContextVar("current")


class ConnectionPool(aiohttp.TCPConnector):
    """A pool that notes in `current` whether a connection was used before; aiohttp's traces take ten times as long."""

    def __init__(self) -> None:
        super().__init__(limit=0)  # the slots are the limit
        self._used: WeakSet[object] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Return a connection for a request."""
        found = await super().connect(req, traces, timeout)
        current.get().is_reused = found.protocol in self._used
        self._used.add(found.protocol)
        return found


class KeptConnectionError(UpstreamError):
    """A kept connection was closed before a byte of the response, as one that had become too old."""


def lost_race(connection: Connection, error: BaseException | None, seconds: float) -> bool:
    """Whether the request, sent `seconds` ago, most likely met a connection that was being closed."""
    if not connection.is_reused or seconds > RACE_SECONDS:
        return False
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the part of a response that has come
    return isinstance(error, aiohttp.ClientOSError)
