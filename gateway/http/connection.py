"""One connection to a listener: aiohttp's handler, hardened; on the API listener with the fast path in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from traceback import clear_frames
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from gateway.http.connection_limit import TOO_MANY
from gateway.http.fast_path import FastPath, is_unique
from gateway.http.framing import bytes_due
from gateway.http.head import SERVER
from gateway.http.problems import describe, problem
from gateway.http.sending import CLOSED

log = logging.getLogger("gateway.http")

HEAD_SECONDS: Final = 15.0
"""The head of a request must be complete within this time after its first byte."""

IDLE_SECONDS: Final = 75.0
HALF_CLOSED_SECONDS: Final = 3.0
"""A caller that has closed its side is served for so long: one that has left altogether looks the same."""

MAX_HEAD_BYTES: Final = 32 * 1024


class Manager(web.Server):
    """What a connection needs of its server."""

    refused: Callable[[int], None]
    """Called with the status when the parser refuses a request."""

    def admit(self, handler: Handler) -> None:
        """Let a new connection in, or make room for it, or refuse it."""
        raise NotImplementedError


class Handler(RequestHandler):
    """aiohttp's connection handler, changed so that it neither leaks a token nor waits for ever.

    aiohttp's own response to a bad head echoes the offending line, token included, into body and log, and its only
    deadline for a head is that of keep-alive.
    """

    __slots__ = ("_body_due", "_fast_path", "_half_closed", "_head_deadline", "_held", "_last_body", "segments")

    def __init__(self, manager: web.Server, fast_path: FastPath | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._head_deadline: asyncio.TimerHandle | None = None
        self._half_closed: asyncio.TimerHandle | None = None  # ends the request in progress after its time
        self._last_body: StreamReader = EMPTY_PAYLOAD  # of the last request whose head has come
        self._fast_path = fast_path
        self._held = b""  # a head that the fast path knows; its body comes in the next segment
        self._body_due = 0  # bytes of the current request's body that were not passed to aiohttp yet
        self.segments: tuple[bytes, ...] = ()
        """The bytes of the current request as they arrived: from these the fast path learns to recognise it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room for one more connection."""
        super().connection_made(transport)
        if isinstance(self._manager, Manager):
            self._manager.admit(self)

    @property
    def is_open(self) -> bool:
        """Whether it is not closing."""
        return self.transport is not None

    def idle_seconds(self) -> float:
        """Return for how long it has had no request; negative while it has one, or once it is closing."""
        if self.transport is None or not self._waits() or self._head_deadline is not None:
            return -1.0
        return self._loop.time() + self._keepalive_timeout - self._next_keepalive_close_time

    def refuse(self) -> None:
        """Respond that there are too many connections, and close it."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.write(TOO_MANY)
        self.force_close()
        if isinstance(self._manager, Manager):
            self._manager.refused(503)

    async def start(self) -> None:
        """Handle one request after the other until the connection ends.

        A task that is cancelled holds its error, whose frames hold the body and this connection, which holds the task.
        """
        try:
            await super().start()
        except asyncio.CancelledError as error:
            clear_frames(error.__traceback__)

    def data_received(self, data: bytes) -> None:
        """Let the fast path respond; pass everything else to the parser, with a deadline for the head."""
        # aiohttp calls itself with b"".
        if self._fast_path is not None and data and self._passes(self._fast_path, data):
            return
        super().data_received(data)
        if self._messages:
            message, self._last_body = self._messages[-1]
            if isinstance(message, _ErrInfo):
                message.exc.__traceback__ = None  # its frames hold this connection
        self._break_body_off()
        if not self._waits():
            self._clear_head_deadline()
        elif self._head_deadline is None:
            self._head_deadline = self._loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _waits(self) -> bool:
        """Whether aiohttp waits for a request, or will once its task has started (uvloop may read before that)."""
        if self._waiter is None:
            return self._request_count == 0
        return not self._waiter.done()

    def _break_body_off(self) -> None:
        """Fail the body after a parser error: aiohttp only queues the error, and the reader would wait for ever."""
        request = self._current_request
        if request is not None and self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._messages.pop()
            self.close()
            if not request.content.is_eof():
                request.content.set_exception(web.RequestPayloadError())

    # The fast path may write only when aiohttp is idle: between two requests, with nothing of the next one in its
    # parser. aiohttp's own fields do not show this (it clears the current request before the response is finished). So
    # message boundaries are tracked in every byte that is passed to aiohttp; where they are uncertain, the fast path
    # is off for the rest of the connection.

    def _passes(self, fast_path: FastPath, data: bytes) -> bool:
        """Let the fast path respond, or track what aiohttp will get. Returns whether the data is dealt with."""
        if self._body_due == 0:
            if self._buffer_paused or self._close:
                self._fast_path, self.segments = None, ()  # what the parser still holds cannot be seen
                self._give_held()
                return False
            if not self._waits():
                self._follow(data)  # another request while the first is in progress
                return False
            transport = self.transport
            if transport is not None and not self._paused and fast_path.respond(self._held + data, transport):
                self._held = b""
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                if self._head_deadline is not None:
                    self._clear_head_deadline()
                return True
            if not self._held and fast_path.expects_body(data):
                self._held = data
                self._head_deadline = self._loop.call_later(HEAD_SECONDS, self._head_is_late)
                return True
        self._give_held()
        self._follow(data)
        return False

    def _give_held(self) -> None:
        """Pass on to aiohttp the head that was held for the fast path."""
        held, self._held = self._held, b""
        if held:
            self._clear_head_deadline()
            self._follow(held)
            super().data_received(held)

    def _follow(self, data: bytes) -> None:
        """Track message boundaries in what is passed to aiohttp."""
        if self._body_due:
            self._body_due -= len(data)
            self.segments = (*self.segments, data) if len(self.segments) == 1 else ()
        else:
            # A request that arrives while another is in progress must not be mistaken for that one.
            self.segments = (data,) if self._waits() else ()
            self._body_due = bytes_due(data)
        if self._body_due < 0:
            self._fast_path = None
            self.segments = ()

    def begin_to_close(self) -> bool:
        """Close if idle, else pass on to aiohttp a head that is held here; returns whether a request is in progress.

        aiohttp's own `close` would leave an idle connection open without reading from it.
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
        """Whether no request can follow the one in progress."""
        return self._half_closed is not None and not self._messages

    def _process_keepalive(self) -> None:
        """Close a connection that has been idle for too long; one with a held head is not idle."""
        if self._held:
            self._keepalive_handle = self._loop.call_later(HEAD_SECONDS, self._process_keepalive)
        else:
            super()._process_keepalive()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Clear the deadline; a request whose head is held here ends with the connection and is recorded."""
        self._clear_head_deadline()
        if self._held and isinstance(self._manager, Manager):
            self._manager.refused(499)
        self._held = b""
        if self._half_closed is not None:
            self._half_closed.cancel()
        super().connection_lost(exc)
        self._messages.clear()
        self._last_body = EMPTY_PAYLOAD  # a body that never came whole holds this connection

    def _clear_head_deadline(self) -> None:
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
        """Respond to what the parser refused, or to an internal error, with a text that repeats no request data."""
        # Redash's connection errors do not come as far as this: this is the caller's connection.
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            return CLOSED  # the caller has left, or the response has begun: only closing the connection is left
        status, title, detail = describe(status, exc)
        if status == 500:
            log.error("internal error", exc_info=exc)
        elif isinstance(self._manager, Manager):
            self._manager.refused(status)
        response = web.Response(status=status, body=problem(status, title, detail, "-"), headers={hdrs.SERVER: SERVER})
        response.content_type = "application/problem+json"
        response.force_close()
        return response


def stays_open(request: web.BaseRequest) -> bool:
    """Whether the connection may stay for another request."""
    handler = request.protocol
    return request.keep_alive and not (isinstance(handler, Handler) and handler.is_done)


def segments_of(request: web.BaseRequest) -> tuple[bytes, ...]:
    """Return the segments in which a request arrived, () where they are unknown or of no use to the fast path."""
    handler = request.protocol
    if not isinstance(handler, Handler) or not handler.segments or is_unique(request.headers):
        return ()
    start = f"{request.method} {request.raw_path} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    return handler.segments if handler.segments[0].startswith(start) else ()


def came_short(request: web.BaseRequest) -> bool:
    """Whether the whole request is shorter than its head may be; adding up its fields would cost more."""
    handler = request.protocol
    return isinstance(handler, Handler) and len(handler.segments) == 1 and len(handler.segments[0]) <= MAX_HEAD_BYTES
