"""The race of kept connections: Redash, or a proxy before it, closes one just when a request is sent on it.

RFC 9112 section 9.3.1 allows such a request to be sent again only if it is known that the server did not act on it, or
that acting twice does no harm.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Final

import aiohttp

from gateway.errors import UpstreamError

RACE_SECONDS: Final = 1.0
"""A server that closes a connection later than this after the request has probably read it."""


class Connection:
    """The connection of one request: aiohttp says in a trace whether it is a kept one."""

    def __init__(self) -> None:
        self.is_reused = False


class KeptConnectionError(UpstreamError):
    """A kept connection was closed before a byte of the response, as one that had become too old."""


def trace_reuse() -> aiohttp.TraceConfig:
    """Return what a session needs to tell each `Connection`, given as `trace_request_ctx`, whether it is reused."""

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.is_reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return trace


def lost_race(connection: Connection, error: BaseException | None, seconds: float) -> bool:
    """Whether the request, sent `seconds` ago, most likely met a connection that was being closed."""
    if not connection.is_reused or seconds > RACE_SECONDS:
        return False
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the part of a response that has come
    return isinstance(error, aiohttp.ClientOSError)
