"""The server of a listener: makes the handler of each connection, and knows them all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Container
from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from gateway.http import connection
from gateway.http.connection import Connection
from gateway.http.connection_limit import ConnectionLimit
from gateway.http.fast_path import FastPath
from gateway.http.handler import NEEDED, Handler
from gateway.http.problems import MAX_FIELD_BYTES, MAX_TARGET_BYTES

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_MakeRequest = Callable[..., web.BaseRequest]
_NEVER_SECONDS: Final = 10.0**9
"""Idle connections are closed here: aiohttp does not see what the fast path serves."""

IDLE_SECONDS: Final = 75.0
"""A listener without a setting for it closes connections that are idle for so long."""

_CHECKS: Final = 15
"""Within the shortest deadline connections are checked so often."""

_SHORTEST_SECONDS: Final = 0.002
"""Between two checks, whatever the deadlines are."""


def fast_path_is_possible() -> bool:
    """Whether aiohttp's handler still has the fields that the fast path relies on; if not, it stays off."""
    fields = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    return fields.issuperset(NEEDED) and hasattr(RequestHandler, "data_received")


class Server(web.Server):
    """Makes a `Connection` for each socket, and closes those that are idle for too long.

    `refused` is called with the status and the peer's address when the parser refuses a request. `cancels`: a handler
    ends when its caller leaves. `idle_seconds` returns how long is too long.
    """

    def __init__(
        self,
        handler: _Handle,
        refused: Callable[[int, str], None] = lambda status, peer: None,
        fast_path: FastPath | None = None,
        *,
        make_request: _MakeRequest | None = None,
        cancels: bool = True,
        limit: ConnectionLimit | None = None,
        idle_seconds: Callable[[], float] = lambda: IDLE_SECONDS,
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=cancels,
            auto_decompress=False,
            keepalive_timeout=_NEVER_SECONDS,
            access_log=None,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
        )
        self.refused = refused
        self._fast_path = fast_path
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._open: set[Connection] = set()
        self._beginning = 0  # connections that were accepted, but may still negotiate TLS, or have failed to
        self._accepted_at = -math.inf  # the last of all connections
        self._timer: asyncio.TimerHandle | None = None
        self._make = make_request or super()._make_request

    @property
    def connections(self) -> list[Any]:
        """All connections that are not closed yet."""
        return list(self._open)

    def admit(self, connection: Connection) -> None:
        """Count a new connection; make room for it, or refuse it."""
        self._open.add(connection)
        self._beginning -= 1
        if self._limit is not None:
            self._limit.admit(connection, self._open)
        if self._timer is None:
            self._check_soon()

    def remove(self, connection: Connection) -> None:
        """Count a connection no more."""
        self._open.discard(connection)

    def _check_soon(self) -> None:
        seconds = max(min(connection.HEAD_SECONDS, self._idle_seconds()) / _CHECKS, _SHORTEST_SECONDS)
        self._timer = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        """Close what is idle or incomplete for too long: one timer for all costs less than one for each."""
        self._timer, now, idle_seconds = None, self._loop.time(), self._idle_seconds()
        for one in list(self._open):
            one.check(now, idle_seconds)
        if self._open:
            self._check_soon()

    def begin_to_close(self, sending: Container[object]) -> bool:
        """Close every connection without a request in progress; returns whether there are others, or begin.

        Connections whose handlers are `sending` the last of a response do not count.
        """
        busy = [one.begin_to_close(sending) for one in list(self._open)]
        lately = self._loop.time() - self._accepted_at < connection.FIRST_SECONDS
        return any(busy) or (lately and self._beginning > 0)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close all connections; requests in progress have the time."""
        for one in list(self._open):
            if one.idle_seconds() >= 0:
                one.close()
        await super().shutdown(timeout)
        for one in list(self._open):
            one.close()
        if self._timer is not None:
            self._timer.cancel()

    def _make_request(self, message: RawRequestMessage, *parts: Any) -> web.BaseRequest:
        """Make the request. Versions that the parser accepts, but nobody speaks here, get a target that is refused.

        Otherwise the response would claim to be of that version.
        """
        if message.version not in (HttpVersion10, HttpVersion11):
            version = min(max(message.version, HttpVersion10), HttpVersion11)
            message = message._replace(version=version, should_close=True, path="*")
        return self._make(message, *parts)

    def handler(self) -> Handler:
        """Return a new handler of aiohttp."""
        return Handler(self, self.refused, loop=self._loop, **self._kwargs)

    def __call__(self) -> Connection:  # type: ignore[override] # aiohttp makes its handler here
        """Return the protocol of a new connection."""
        self._beginning += 1
        self._accepted_at = self._loop.time()
        return Connection(self, self._fast_path, self._loop.time)
