"""The server of a listener: makes the handler of each connection, and knows them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from gateway.http import connection
from gateway.http.connection import Handler, Manager
from gateway.http.connection_limit import ConnectionLimit
from gateway.http.fast_path import FastPath
from gateway.http.problems import MAX_FIELD_BYTES, MAX_TARGET_BYTES

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_MakeRequest = Callable[..., web.BaseRequest]

_NEEDED: Final = (
    "_waiter",
    "_request_count",
    "_buffer_paused",
    "_paused",
    "_close",
    "_keepalive_timeout",
    "_next_keepalive_close_time",
    "_keepalive_handle",
)


def fast_path_is_possible() -> bool:
    """Whether aiohttp's handler still has the fields that the fast path relies on; if not, it stays off."""
    fields = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    return fields.issuperset(_NEEDED) and hasattr(RequestHandler, "data_received")


class Server(Manager):
    """Makes our `Handler` for each connection.

    `refused` is called with the status when the parser refuses a request. `cancels`: a handler ends when its caller
    leaves.
    """

    def __init__(
        self,
        handler: _Handle,
        refused: Callable[[int], None] = lambda status: None,
        fast_path: FastPath | None = None,
        *,
        make_request: _MakeRequest | None = None,
        cancels: bool = True,
        limit: ConnectionLimit | None = None,
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=cancels,
            auto_decompress=False,
            keepalive_timeout=connection.IDLE_SECONDS,
            access_log=None,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
        )
        self.refused = refused
        self._fast_path = fast_path
        self._limit = limit
        self._make = make_request or super()._make_request

    def admit(self, handler: Handler) -> None:
        """Let a new connection in, or make room for it, or refuse it."""
        if self._limit is not None:
            self._limit.admit(handler, self._connections)

    def begin_to_close(self) -> bool:
        """Close every connection without a request in progress; returns whether there are others."""
        busy = [handler.begin_to_close() for handler in self.connections if isinstance(handler, Handler)]
        return any(busy)

    def _make_request(self, message: RawRequestMessage, *parts: Any) -> web.BaseRequest:
        """Make the request. Versions that the parser accepts, but nobody speaks here, get a target that is refused.

        Otherwise the response would claim to be of that version.
        """
        if message.version not in (HttpVersion10, HttpVersion11):
            version = min(max(message.version, HttpVersion10), HttpVersion11)
            message = message._replace(version=version, should_close=True, path="*")
        return self._make(message, *parts)

    def __call__(self) -> RequestHandler:
        """Return the handler of one connection."""
        return Handler(self, self._fast_path, loop=self._loop, **self._kwargs)
