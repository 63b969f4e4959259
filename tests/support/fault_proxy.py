"""A proxy between gateway and sandbox that breaks responses on the way, byte by byte, as a plan or a seed says."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

KINDS: Final = (
    "delay",  # the response comes `seconds` late
    "slow_head",  # its head comes in small pieces, in `seconds` altogether
    "throttle",  # its body comes in small pieces, in `seconds` altogether
    "reset",  # reset after `at` bytes
    "half_close",  # the proxy sends no more after `at` bytes, but keeps its side open for reading
    "truncate",  # closed after `at` bytes
    "hang",  # accepted and read, never answered
    "stall",  # nothing more after `at` bytes, the connection stays open
    "malformed_chunk",  # a good chunk, then one whose size is none
    "garbage",  # bytes that are no HTTP
    "wrong_length",  # Content-Length is `at` bytes more than come (less, if negative)
    "endless",  # a body without an end, chunk after chunk
    "html",  # a page of HTML with status 200
    "no_csv",  # JSON under the name of the type that was requested
)

BROKEN: Final = ("reset", "half_close", "truncate", "malformed_chunk", "garbage", "wrong_length", "html", "no_csv")
"""Those after which the connection ends at once."""

_PIECES: Final = 10
_HTML: Final = b"<html><head><title>Sign in</title></head><body>This is not the API.</body></html>"


@dataclass
class Fault:
    """`path` is searched in the request's target, `method` compared; empty ones fit every request. `count` is how many
    more requests it affects, None means no end; `hits` is how many it has affected."""

    kind: str
    path: str = ""
    method: str = ""
    count: int | None = None
    at: int = 0
    seconds: float = 0.0
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    def affects(self, method: str, target: str) -> bool:
        return self.count != 0 and self.method in ("", method) and re.search(self.path, target) is not None

    def use(self) -> Fault:
        self.hits += 1
        if self.count is not None:
            self.count -= 1
        return self


@dataclass(frozen=True)
class _Response:
    """A response of the sandbox, taken apart."""

    status: bytes
    fields: tuple[bytes, ...]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> _Response:
        head, _, body = data.partition(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n")
        return cls(status, tuple(fields), body)

    def head(self, *framing: bytes) -> bytes:
        """The head with this framing in place of its own."""
        fields = [f for f in self.fields if not f.lower().startswith((b"content-length:", b"transfer-encoding:"))]
        return b"\r\n".join((self.status, *fields, *framing)) + b"\r\n\r\n"

    @property
    def whole(self) -> bytes:
        return b"\r\n".join((self.status, *self.fields)) + b"\r\n\r\n" + self.body


Weather = Callable[[random.Random, str, str], Fault | None]
"""Which fault, if any, befalls a request (method, target); all chance comes from the given source."""


class FaultProxy:
    """Forwards each request on a connection of its own and sends the response back as its fault says."""

    def __init__(self, url: str, seed: int = 1) -> None:
        self._upstream = urlsplit(url)
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._ended: list[Fault] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.weather: Weather | None = None
        self.forwarded: list[tuple[str, str]] = []
        """Method and target of each request that reached the sandbox."""
        self.at_once = self.most_at_once = 0
        """Requests that are with the sandbox and whose response the gateway still waits for; its own for the session
        are not counted."""

    async def __aenter__(self) -> FaultProxy:
        await self._listen(0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", port, backlog=1024)

    async def disconnect(self) -> None:
        """Close the port, like a Redash that is down: connections are refused, those that are open break off."""
        self._server.close()
        await self._end_all()

    async def reconnect(self) -> None:
        """Listen again on the same port."""
        await self._listen(urlsplit(self.url).port or 0)

    async def __aexit__(self, *_: object) -> None:
        self.clear()
        self._server.close()
        await self._end_all()

    async def _end_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, kind: str, path: str = "", **more: object) -> Fault:
        """Break responses from now on; the first fault that fits is the one."""
        fault = Fault(kind, path, **more)  # type: ignore[arg-type]
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """End all faults; what hangs is closed."""
        self.stop()
        for fault in self._ended:
            fault.released.set()

    def stop(self) -> None:
        """Break nothing from now on; what hangs goes on to do so, what is endless breaks off."""
        for fault in self._faults:
            if fault.kind == "endless":
                fault.released.set()
        self._faults, self._ended = [], [*self._ended, *self._faults]
        self.weather = None

    def _fault(self, method: str, target: str) -> Fault | None:
        found = next((fault for fault in self._faults if fault.affects(method, target)), None)
        if found is None and self.weather is not None:
            found = self.weather(self._random, method, target)
            if found is not None:
                self._faults.append(found)  # so that `clear` ends it
                found.count = 1
        return found.use() if found is not None else None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1])) if length else b""
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        fault = self._fault(method, target)
        if fault is not None and fault.kind == "hang":
            await _gone(reader, fault)
            return
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        gave_up = reader.at_eof() or reader.exception() is not None  # while it was late; it arrives all the same
        counted = target != "/api/session" and not gave_up
        self.at_once += counted
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.forwarded.append((method, target))
            response = await self._forward(head + body)
        finally:
            self.at_once -= counted
        await _send(reader, writer, response, fault)

    async def _forward(self, request: bytes) -> _Response:
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            writer.write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            return _Response.parse(await reader.read(-1))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _gone(reader: asyncio.StreamReader, fault: Fault) -> None:
    """Wait until the gateway gives up, or the fault ends."""
    waits = [asyncio.create_task(reader.read(-1)), asyncio.create_task(fault.released.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: _Response, fault: Fault | None
) -> None:
    async for piece in _pieces(response, fault):
        writer.write(piece)
        await writer.drain()
    if fault is None:
        return
    if fault.kind == "reset":
        linger = writer.get_extra_info("socket")
        linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing becomes a reset
        writer.transport.abort()
    elif fault.kind == "half_close":
        with contextlib.suppress(OSError):  # the gateway may be gone already
            writer.write_eof()
        await _gone(reader, fault)
    elif fault.kind in ("stall", "malformed_chunk"):
        await _gone(reader, fault)


async def _pieces(response: _Response, fault: Fault | None) -> AsyncIterator[bytes]:
    """What is sent of the response, in order."""
    kind = fault.kind if fault is not None else ""
    if fault is None or kind == "delay":
        yield response.whole
    elif kind in ("reset", "truncate", "half_close", "stall"):
        yield response.whole[: fault.at]
    elif kind in ("slow_head", "throttle"):
        async for piece in _slowly(response, fault):
            yield piece
    elif kind == "malformed_chunk":
        yield response.head(b"Transfer-Encoding: chunked")
        await asyncio.sleep(0.01)  # the head arrives in a segment of its own
        half = response.body[: max(1, len(response.body) // 2)]
        yield f"{len(half):x}\r\n".encode() + half + b"\r\n"
        await asyncio.sleep(0.01)
        yield b"no size\r\n" + response.body
    elif kind == "garbage":
        yield random.Random(fault.at).randbytes(200)
    elif kind == "wrong_length":
        yield response.head(f"Content-Length: {max(0, len(response.body) + fault.at)}".encode()) + response.body
    elif kind == "endless":
        yield response.head(b"Transfer-Encoding: chunked")
        while not fault.released.is_set():
            yield b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            await asyncio.sleep(fault.seconds)
    elif kind == "html":
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(_HTML), _HTML)
    else:  # no_csv
        body = b'{"job": {"id": "1", "status": 1}}'
        yield response.head(f"Content-Length: {len(body)}".encode()) + body


async def _slowly(response: _Response, fault: Fault) -> AsyncIterator[bytes]:
    whole, body_at = response.whole, len(response.whole) - len(response.body)
    first, slow, rest = b"", whole[:body_at], response.body
    if fault.kind == "throttle":
        first, slow, rest = slow, rest, b""
    yield first
    step = max(1, len(slow) // _PIECES)
    for start in range(0, len(slow), step):
        yield slow[start : start + step]
        await asyncio.sleep(fault.seconds / _PIECES)
    yield rest
