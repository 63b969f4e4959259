"""One connection to the API listener: aiohttp's handler, made safe, with the fast path in front of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import HttpVersion10, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import InvalidURLError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from gateway.errors import BadRequest, RequestHeaderFieldsTooLarge, UriTooLong
from gateway.http.fast_path import FastPath
from gateway.http.framing import bytes_due

log = logging.getLogger("gateway.http")

HEAD_SECONDS: Final = 15.0
"""A request's head must be complete so long after its first byte."""

IDLE_SECONDS: Final = 75.0
HALF_CLOSED_SECONDS: Final = 3.0
"""A caller that will send no more is served for as long: one that has left altogether looks the same."""

MAX_TARGET_BYTES: Final = 8190
MAX_FIELD_BYTES: Final = 8191
"""Not the same number as for targets: the parser's error tells the two apart by it only."""

MAX_HEAD_BYTES: Final = 32 * 1024
_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Handler(RequestHandler):
    """aiohttp's connection handler without what would give a token away or wait for ever.

    Its own response to a bad head echoes the offending line, token included, into body and log, and its only deadline
    for a head is that of keep-alive.
    """

    __slots__ = ("_body_due", "_fast_path", "_half_closed", "_head_deadline", "_held", "_last_body", "segments")

    def __init__(self, manager: web.Server, fast_path: FastPath | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._head_deadline: asyncio.TimerHandle | None = None
        self._half_closed: asyncio.TimerHandle | None = None  # ends what is under way when its time is up
        self._last_body: StreamReader = EMPTY_PAYLOAD  # of the last request whose head has come
        self._fast_path = fast_path
        self._held = b""  # a head that the fast path knows; its body comes in the next segment
        self._body_due = 0  # bytes of the body of a request that aiohttp has not been given yet
        self.segments: tuple[bytes, ...] = ()
        """The request under way, as it came: for the fast path to know it again."""

    def data_received(self, data: bytes) -> None:
        """Let the fast path respond; feed the parser with all else, and mind the clock for the head."""
        # aiohttp calls itself with b"".
        if self._fast_path is not None and data and self._passes(self._fast_path, data):
            return
        super().data_received(data)
        if self._messages:
            self._last_body = self._messages[-1][1]
        self._break_body_off()
        if not self._waits():
            self._stop_clock()
        elif self._head_deadline is None:
            self._head_deadline = self._loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _waits(self) -> bool:
        """Whether aiohttp waits for a request; also when its task has not yet begun to (uvloop reads earlier)."""
        if self._waiter is None:
            return self._request_count == 0
        return not self._waiter.done()

    def _break_body_off(self) -> None:
        """Break the body off: aiohttp only queues the parser's error, and its reader would wait for ever."""
        request = self._current_request
        if request is not None and self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._messages.pop()
            self.close()
            if not request.content.is_eof():
                request.content.set_exception(web.RequestPayloadError())

    # The fast path may write only when aiohttp is idle: between two requests, with nothing of the next one in its
    # parser. aiohttp's own fields do not say so (it clears the current request before the response is finished). So
    # every byte that it is given is followed to the boundaries of messages; where these are uncertain, the fast path
    # is off for the rest of the connection.

    def _passes(self, fast_path: FastPath, data: bytes) -> bool:
        """Let the fast path respond, or note what aiohttp will be given. Returns whether the data is dealt with."""
        if self._body_due == 0:
            if self._buffer_paused or self._close:
                self._fast_path, self.segments = None, ()  # nobody can see what the parser still holds
                self._give_held()
                return False
            if not self._waits():
                self._follow(data)  # another request while the first is under way
                return False
            transport = self.transport
            if transport is not None and not self._paused and fast_path.respond(self._held + data, transport):
                self._held = b""
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                if self._head_deadline is not None:
                    self._stop_clock()
                return True
            if not self._held and fast_path.expects_body(data):
                self._held = data
                self._head_deadline = self._loop.call_later(HEAD_SECONDS, self._head_is_late)
                return True
        self._give_held()
        self._follow(data)
        return False

    def _give_held(self) -> None:
        """Give aiohttp the head that was held for the fast path."""
        held, self._held = self._held, b""
        if held:
            self._stop_clock()
            self._follow(held)
            super().data_received(held)

    def _follow(self, data: bytes) -> None:
        """Follow the boundaries of messages in what aiohttp is given."""
        if self._body_due:
            self._body_due -= len(data)
            self.segments = (*self.segments, data) if len(self.segments) == 1 else ()
        else:
            # One that comes while another is under way must not be taken for that one.
            self.segments = (data,) if self._waits() else ()
            self._body_due = bytes_due(data)
        if self._body_due < 0:
            self._fast_path = None
            self.segments = ()

    def begin_to_close(self) -> bool:
        """Close, or give aiohttp the head that is held here; returns whether a request is under way.

        aiohttp's own `close` would leave an idle connection open, and deaf.
        """
        self._give_held()
        if not self._waits() or self._head_deadline is not None:
            return True
        self.force_close()
        return False

    def eof_received(self) -> bool | None:  # type: ignore[override] # aiohttp never keeps the connection
        """Let a caller that will send no more have the responses to what it has sent whole; then close.

        Over TLS there is no such thing (RFC 8446 section 6.1 has it, asyncio has not).
        """
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return None
        if self._waits() or not self._last_body.is_eof():
            return None
        self._half_closed = self._loop.call_later(HALF_CLOSED_SECONDS, self.force_close)
        return True

    @property
    def is_done(self) -> bool:
        """Whether no request can follow the one under way."""
        return self._half_closed is not None and not self._messages

    def _process_keepalive(self) -> None:
        """Close what has been idle for too long; a head that is held here is no idleness."""
        if self._held:
            self._keepalive_handle = self._loop.call_later(HEAD_SECONDS, self._process_keepalive)
        else:
            super()._process_keepalive()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock with the connection; a request whose head was held here has ended with it."""
        self._stop_clock()
        if self._held and isinstance(self._manager, Server):
            self._manager.refused(499)
        self._held = b""
        if self._half_closed is not None:
            self._half_closed.cancel()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_is_late(self) -> None:
        self._head_deadline = None
        if self._waits():
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to what the parser refused, or to a fault of ours, in words that repeat nothing of the request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; only the connection can say that it failed")
        status, title, detail = _refusal(status, exc)
        if status == 500:
            log.error("internal error", exc_info=exc)
        elif isinstance(self._manager, Server):
            self._manager.refused(status)
        response = web.Response(status=status, body=problem(status, title, detail, "-"))
        response.content_type = "application/problem+json"
        response.force_close()
        return response


def stays_open(request: web.BaseRequest) -> bool:
    """Whether the connection may stay for another request."""
    handler = request.protocol
    return request.keep_alive and not (isinstance(handler, Handler) and handler.is_done)


def segments_of(request: web.BaseRequest) -> tuple[bytes, ...]:
    """Return the segments in which a request came, () where they are not known."""
    handler = request.protocol
    if not isinstance(handler, Handler) or not handler.segments:
        return ()
    start = f"{request.method} {request.raw_path} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    return handler.segments if handler.segments[0].startswith(start) else ()


def _refusal(status: int, exc: BaseException | None) -> tuple[int, str, str]:
    """Describe what the parser refused by the kind of its error only: its text holds the offending line."""
    if isinstance(exc, LineTooLong) and exc.args[1] == MAX_TARGET_BYTES:
        return UriTooLong.status, UriTooLong.title, f"The request target is longer than {MAX_TARGET_BYTES} bytes."
    if isinstance(exc, LineTooLong) or "Too many headers" in str(exc):
        kind = RequestHeaderFieldsTooLarge
        return kind.status, kind.title, "The request has too many header fields, or too long ones."
    if isinstance(exc, InvalidURLError):
        detail = "The request target has characters that no URL has. Percent-encode them, as UTF-8: %C3%A9 for é."
        return BadRequest.status, BadRequest.title, detail
    if status == 400:
        return BadRequest.status, BadRequest.title, "The request is not HTTP/1.1 as RFC 9112 has it."
    return status, "Internal error", "Internal error of the gateway."


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


def came_short(request: web.BaseRequest) -> bool:
    """Whether all of the request is shorter than its head may be; counting its fields would cost more."""
    handler = request.protocol
    return isinstance(handler, Handler) and len(handler.segments) == 1 and len(handler.segments[0]) <= MAX_HEAD_BYTES


def fast_path_is_possible() -> bool:
    """Whether aiohttp's handler still is what the fast path was made for; if not, it stays off."""
    fields = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    return fields.issuperset(_NEEDED) and hasattr(RequestHandler, "data_received")


class Server(web.Server):
    """Makes our `Handler` for each connection; `refused` is called with the status of what the parser refused."""

    def __init__(self, handler: _Handle, refused: Callable[[int], None], fast_path: FastPath | None) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            access_log=None,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
        )
        self.refused = refused
        self._fast_path = fast_path

    def begin_to_close(self) -> bool:
        """Close every connection on which no request is under way; returns whether there are others."""
        busy = [handler.begin_to_close() for handler in self.connections if isinstance(handler, Handler)]
        return any(busy)

    def _make_request(self, message: RawRequestMessage, *parts: Any) -> web.BaseRequest:
        """Make the request; HTTP/0.9, which the parser lets through, gets a target that is refused."""
        if message.version < HttpVersion10:
            message = message._replace(version=HttpVersion10, should_close=True, path="*")
        return super()._make_request(message, *parts)

    def __call__(self) -> RequestHandler:
        """Return the handler of one connection."""
        return Handler(self, self._fast_path, loop=self._loop, **self._kwargs)


def problem(status: int, title: str, detail: str, request_id: str) -> bytes:
    """Return an error of the gateway's own as JSON: RFC 9457, and `message`, which Redash's clients read."""
    members = {"type": "about:blank", "title": title, "status": status, "detail": detail, "message": detail}
    return json.dumps({**members, "request_id": request_id}).encode()
