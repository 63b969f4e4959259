"""One connection to the API listener: aiohttp's handler without what would give a token away or wait for ever."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger("gateway.web")

HEAD_SECONDS: Final = 15.0
"""A request's head must be complete so long after its first byte."""


class Handler(RequestHandler):
    """aiohttp's connection handler without what would give a token away or wait for ever.

    Its own answer to a bad head echoes the offending line, token included, into body and log, and it knows no
    deadline for a head but keep-alive's.
    """

    __slots__ = ("_head_deadline",)

    def __init__(self, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._head_deadline: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and start or stop the clock for the head."""
        super().data_received(data)
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting and self._head_deadline is None:
            self._head_deadline = self._loop.call_later(HEAD_SECONDS, self._head_is_late)
        elif not waiting:
            self._stop_clock()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock with the connection."""
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_is_late(self) -> None:
        self._head_deadline = None
        if self._waiter is not None and not self._waiter.done():
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refused, or a fault of ours, in words that repeat nothing of the request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; only the connection can say that it failed")
        if isinstance(exc, LineTooLong):
            status = 414 if "url" in str(exc).lower() or "line" in str(exc).lower() else 431
        detail = {
            400: "The request is not HTTP/1.1 as RFC 9112 has it.",
            414: "The request target is too long.",
            431: "The request's header fields are too large.",
        }.get(status, "Internal error of the gateway.")
        if status == 500:
            log.error("internal error", exc_info=exc)
        response = web.Response(status=status, body=problem(status, "Bad request", detail, "-"))
        response.content_type = "application/problem+json"
        response.force_close()
        return response


class Server(web.Server):
    """Makes our `Handler` for each connection."""

    def __call__(self) -> RequestHandler:
        """Return the handler of one connection."""
        return Handler(self, loop=self._loop, **self._kwargs)


def problem(status: int, title: str, detail: str, request_id: str) -> bytes:
    """Write an error of the gateway's own: RFC 9457, and `message`, which Redash's clients read."""
    members = {"type": "about:blank", "title": title, "status": status, "detail": detail, "message": detail}
    return json.dumps({**members, "request_id": request_id}).encode()
