"""Responses that go wrong: reset connections, bodies that stall or break off, HTML and garbage instead of JSON."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from aiohttp import web

from .faults import Fault

_REPLACING = frozenset({"html", "garbage", "status", "unhealthy"})
_BREAKING = frozenset({"reset_before_headers", "reset_after_headers", "reset_in_body", "truncate"})
_STALLING = frozenset({"stall", "stall_then_reset"})
_HTML = b"<html><head><title>Sign in</title></head><body>This is not the API.</body></html>"
_UNHEALTHY = b'{"message": "Internal Server Error"}'
_GARBAGE = b'{"query_result": {"id": 1, "data": [[['


@dataclass(frozen=True)
class BrokenResponse:
    """A response that a fault replaces or breaks."""

    fault: Fault

    def status(self, intended: int) -> int:
        """The status for the log: 0 if no status line is sent."""
        kind = self.fault.kind
        if kind == "reset_before_headers":
            return 0
        replaced = {"status": self.fault.status, "unhealthy": 500, "html": 200, "garbage": 200}
        return replaced.get(kind, intended)

    async def send(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        """Writes the part that is still sent, or returns the replacement."""
        if self.fault.kind in _STALLING:
            return await self._stalled(request, response)
        return self._replaced() if self.fault.kind in _REPLACING else self._broken(request, response)

    async def _stalled(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        """Sends half of the body; the rest, or a reset, when the fault is released."""
        body = response.body if isinstance(response.body, bytes) else b""
        made = web.StreamResponse(status=response.status, headers=response.headers)
        if self.fault.chunked:
            made.enable_chunked_encoding()
        else:
            made.content_length = len(body)
        await made.prepare(request)
        half = len(body) // 2
        await made.write(body[:half])
        await self.fault.released.wait()
        if self.fault.kind == "stall_then_reset":
            _reset(request)
        else:
            await made.write(body[half:])
        return made

    def _replaced(self) -> web.Response:
        bodies = {
            "html": (200, "text/html", _HTML),
            "garbage": (200, "application/json", _GARBAGE),
            "unhealthy": (500, "application/json", _UNHEALTHY),
        }
        status, kind, body = bodies.get(self.fault.kind, (self.fault.status, "text/html", _HTML))
        made = web.Response(status=status, body=body, content_type=kind)
        if self.fault.kind == "status" and self.fault.seconds:
            made.headers["Retry-After"] = f"{self.fault.seconds:.0f}"
        made.force_close()
        return made

    def _broken(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        transport = request.transport
        if transport is not None:
            for part in _parts(self.fault.kind, response):
                transport.write(part)
            if self.fault.kind == "truncate":
                transport.close()
            else:
                _reset(request)
        return response


def _reset(request: web.BaseRequest) -> None:
    if request.transport is not None:
        linger = request.transport.get_extra_info("socket")
        if linger is not None:
            # A linger time of zero turns the close into a reset.
            linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()


def _parts(kind: str, response: web.Response) -> list[bytes]:
    """The pieces that are still sent. A truncated response has the whole body, but announces one byte more."""
    body = response.body if isinstance(response.body, bytes) else b""
    promised = len(body) + (1 if kind == "truncate" else 0)
    lines = [f"HTTP/1.1 {response.status} {response.reason}", f"Content-Length: {promised}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in response.headers.items() if name.lower() != "content-length"]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    return {
        "reset_before_headers": [],
        "reset_after_headers": [head],
        "reset_in_body": [head, body[: len(body) // 2]],
        "truncate": [head, body],
    }[kind]


def broken_response(faults: list[Fault]) -> BrokenResponse | None:
    """The response that the first such fault makes, None without one."""
    return next((BrokenResponse(fault) for fault in faults if fault.kind in _REPLACING | _BREAKING | _STALLING), None)
