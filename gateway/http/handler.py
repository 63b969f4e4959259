"""aiohttp's handler of one connection, hardened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from traceback import clear_frames
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from gateway.http.addresses import peer_of
from gateway.http.head import SERVER
from gateway.http.pieces import Pieces
from gateway.http.problems import describe, problem
from gateway.http.request_key import LONGEST_REQUEST
from gateway.http.sending import CLOSED

log = logging.getLogger("gateway.http")

HALF_CLOSED_SECONDS: Final = 3.0
"""A caller that has closed its side is served for so long: one that has left altogether looks the same."""

NEEDED: Final = ("_waiter", "_request_count", "_messages", "_current_request")
"""The fields of aiohttp's handler that tell when it is idle."""


class Handler(RequestHandler):
    """aiohttp's connection handler, changed so that it neither leaks a token nor waits for ever.

    aiohttp's own response to a bad head echoes the offending line, token included, into body and log.
    """

    __slots__ = ("_half_closed", "_last_body", "_pieces", "_refused")

    def __init__(self, manager: web.Server, refused: Callable[[int, str], None], **settings: Any) -> None:
        """`refused` is called with the status and the peer's address when the parser refuses a request."""
        super().__init__(manager, **settings)
        self._refused = refused
        self._half_closed: asyncio.TimerHandle | None = None  # ends the request in progress after its time
        self._last_body: StreamReader = EMPTY_PAYLOAD  # of the last request whose head has come
        self._pieces: Pieces | None = None  # from the first `Upgrade` on

    def waits(self) -> bool:
        """Whether it waits for a request, or will once its task has started (uvloop may read before that)."""
        if self._waiter is None:
            return self._request_count == 0
        return not self._waiter.done()

    async def start(self) -> None:
        """Handle one request after the other until the connection ends.

        A task that is cancelled holds its error, whose frames hold the body and this connection, which holds the task.
        """
        try:
            await super().start()
        except asyncio.CancelledError as error:
            clear_frames(error.__traceback__)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and begin with the request."""
        if self._reading_paused or self._buffer_paused or self._upgraded:
            self._pieces = None  # the parser joins what it has kept with what comes
        elif self._pieces is None and b"upgrade" in data.lower():
            self._pieces = Pieces()
        if self._pieces is None or not data:  # aiohttp goes on with what it has kept when there is nothing new
            self._parse(data)
        else:
            self._parse_pieces(self._pieces, data)

    def _parse_pieces(self, pieces: Pieces, data: bytes) -> None:
        cut = 0
        while cut < len(data):
            at, cut = cut, pieces.next_cut(data, cut)
            if self._reading_paused or self._buffer_paused:
                self._pieces, cut = None, len(data)
            self._parse(data[at:cut])

    def _parse(self, piece: bytes) -> None:
        count = self._request_count
        super().data_received(piece)
        if self._messages:
            message, body = self._messages[-1]
            if isinstance(message, _ErrInfo):
                message.exc.__traceback__ = None  # its frames hold this connection
                if not self._last_body.is_eof():
                    self._last_body.set_exception(web.RequestPayloadError())  # of a request that has not begun yet
                body = EMPTY_PAYLOAD
            elif self._request_count > count:
                self._note_head(message, body)
            self._last_body = body
        self._break_body_off()

    def _note_head(self, message: RawRequestMessage, body: StreamReader) -> None:
        """Keep in step with the parser. Where what follows an upgrade may be lost, the connection ends with it."""
        length = 0 if self._pieces is None else self._pieces.begin_body(message)
        is_certain = self._pieces is not None and not self._upgraded and not message.chunked
        if message.upgrade and not (is_certain and length <= LONGEST_REQUEST):
            self._messages[-1] = message._replace(should_close=True), body

    def _break_body_off(self) -> None:
        """Fail the body after a parser error: aiohttp only queues the error, and the reader would wait for ever."""
        request = self._current_request
        if request is not None and self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._messages.pop()
            self.close()
            self._lingering_time = 0.0  # nothing more is read of it
            if not request.content.is_eof():
                request.content.set_exception(web.RequestPayloadError())

    def respond_after_eof(self) -> bool | None:
        """Let a caller that will send no more have the responses to what it has sent whole; then close.

        Over TLS there is no such thing (RFC 8446 section 6.1 has it, asyncio has not). Returns what a protocol returns
        from `eof_received`.
        """
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return None
        if self.waits() or not self._last_body.is_eof():
            return None
        self._half_closed = self._loop.call_later(HALF_CLOSED_SECONDS, self.force_close)
        return True

    @property
    def is_done(self) -> bool:
        """Whether no request can follow the one in progress."""
        return self._half_closed is not None and not self._messages

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the request in progress."""
        if self._half_closed is not None:
            self._half_closed.cancel()
        super().connection_lost(exc)
        self._messages.clear()
        self._last_body = EMPTY_PAYLOAD  # a body that never came whole holds this connection

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
        else:
            self._refused(status, peer_of(request.transport))
        response = web.Response(status=status, body=problem(status, title, detail, "-"), headers={hdrs.SERVER: SERVER})
        response.content_type = "application/problem+json"
        response.force_close()
        return response


def stays_open(request: web.BaseRequest) -> bool:
    """Whether the connection may stay for another request."""
    handler = request.protocol
    return request.keep_alive and not (isinstance(handler, Handler) and handler.is_done)
