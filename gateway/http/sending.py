"""Sending a response: head and body from memory in as few pieces as possible, a file with `sendfile`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web

from gateway.body import Body, Events, Part, Streamed
from gateway.concurrency.open_file import OpenFile
from gateway.errors import FileLost

SEND_SECONDS: Final = 600.0
"""Limit for one whole response, however slowly its caller reads."""

EVENT_SECONDS: Final = 10.0
"""Limit for one event of a stream."""

LARGEST_AT_ONCE: Final = 256 * 1024
"""How much a caller that does not read can make the gateway buffer for its connection."""

_PIECE: Final = 128 * 1024
_SLICE: Final = 32 * 1024
"""Of a piece, so much is passed on at once: over TLS, several copies of it may wait for the caller."""
TLS_BUFFER_BYTES: Final = 32 * 1024
"""From so many encrypted bytes on that a caller does not read, sending waits. The event loops have 512 KB, and hold
copies of them: each slow reader then takes more than a megabyte."""

_JOINED_BYTES: Final = 16 * 1024
"""Up to this size, joining head and body by copying costs less than passing two buffers."""


class Sent(web.StreamResponse):
    """What aiohttp gets after a response was sent: it only says whether to keep the connection or to close it.

    aiohttp's own responses would make the head once more, which costs more than a hit.
    """

    def __init__(self, *, keep_alive: bool) -> None:
        self._keep_alive = keep_alive  # no super().__init__: it would make maps of fields and cookies

    async def prepare(self, request: web.BaseRequest) -> None:
        """See the base class."""

    async def write_eof(self, data: bytes = b"") -> None:
        """See the base class."""


KEPT: Final = Sent(keep_alive=True)
CLOSED: Final = Sent(keep_alive=False)


async def send(
    request: web.BaseRequest, head: bytes, body: Body | Part | Streamed | Events, *, chunked: bool = False
) -> None:
    """Send head and body; waits while the caller reads slowly, so that memory use stays flat.

    `chunked` says that the head announces an arriving body as chunked.

    Raises:
        ConnectionError: the caller has left.
        TimeoutError: the caller reads too slowly.
        GatewayError: the body failed while it arrived. Once a part was sent, only closing the connection signals it.
        FileLost: its file is lost; nothing was sent.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the caller has left")
    if isinstance(body, Events):
        await _send_events(request, head, body)
        return
    if isinstance(body, Part):
        await _send_file(request, transport, head, body)
        return
    if not isinstance(body, Body):
        await _send_arriving(request, transport, head, body, chunked=chunked)
        return
    data = body.data
    if data is not None and len(data) <= LARGEST_AT_ONCE and not request.protocol.writing_paused:
        request.writer.output_size += len(head)  # from this aiohttp sees that a response has begun
        write(transport, head, data)
        return
    if body.path is not None:
        await _send_file(request, transport, head, Part(body, 0, body.size))
        return
    async with asyncio.timeout(SEND_SECONDS):
        await request.writer.drain()  # what is buffered from before
        await _send_bytes(request, head, data or b"")


class Transport(Protocol):
    """What `write` needs of a transport."""

    def write(self, data: bytes | memoryview) -> None:
        """Send it, or buffer it until it can be sent."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are buffered."""

    def get_extra_info(self, name: str) -> Any:
        """Return the socket, or another property of the transport."""


class Source(Protocol):
    """Where the bytes to send come from; see `OpenFile`."""

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from `start` on."""

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send bytes to a socket, as many as it accepts; returns how many."""


def write(transport: Transport, head: bytes, data: bytes) -> None:
    """Write head and body with one system call, without copying a body that is not small."""
    if len(data) <= _JOINED_BYTES:
        transport.write(head + data if data else head)
        return
    sent = 0
    if _is_free(transport):
        with contextlib.suppress(OSError):  # would block, or is broken: the transport will notice
            sent = os.writev(transport.get_extra_info("socket").fileno(), (head, data))
    if sent < len(head):
        transport.write(head[sent:])
        transport.write(data)
    elif sent < len(head) + len(data):
        transport.write(memoryview(data)[sent - len(head) :])


def limit_buffer(transport: asyncio.Transport) -> None:
    """Let a new connection buffer little for a caller that reads slowly."""
    if transport.get_extra_info("sslcontext") is not None:
        transport.set_write_buffer_limits(TLS_BUFFER_BYTES)


def _is_free(transport: Transport) -> bool:
    """Whether the socket may be written to directly: the transport has nothing buffered and encrypts nothing."""
    return transport.get_write_buffer_size() == 0 and transport.get_extra_info("sslcontext") is None


async def _send_bytes(request: web.BaseRequest, head: bytes, data: bytes) -> None:
    """Send in pieces: what the transport buffers for a slow reader is a copy."""
    await request.writer.write(head)
    rest = memoryview(data)
    for start in range(0, len(rest), _PIECE):
        await request.writer.write(rest[start : start + _PIECE])
        await request.writer.drain()


async def _send_file(request: web.BaseRequest, transport: asyncio.Transport, head: bytes, part: Part) -> None:
    """Send a part of a file: first what the kernel accepts at once, usually all of it, then the rest as the caller
    reads.
    """
    try:
        file = part.whole.open()  # on the loop: a thread would cost ten times as much
    except OSError as error:
        raise FileLost from error
    try:
        source = OpenFile(file)
        request.writer.output_size += len(head)
        transport.write(head)
        start = part.start + (_send_at_once(transport, source, part) if _is_free(transport) else 0)
        if start < part.end:
            async with asyncio.timeout(SEND_SECONDS):
                await _send_range(request, transport, source, start, part.end)
    finally:
        os.close(file)


def _send_at_once(transport: asyncio.Transport, source: Source, part: Part) -> int:
    """Send what the socket accepts now; returns how many bytes that was.

    Most files fit whole into a buffer of 4 MB and the receiver's, so that the loop need not wait. The buffer holds
    pages of the file, not copies. The loop's own `sendfile` costs twice as much, and uvloop has none.
    """
    sock: socket.socket = transport.get_extra_info("socket")
    if _MAY_ENLARGE:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return source.send(sock.fileno(), part.start, part.size)


async def _send_arriving(
    request: web.BaseRequest, transport: asyncio.Transport, head: bytes, body: Streamed, *, chunked: bool
) -> None:
    """Send what has arrived, then what follows."""
    loop, writer = asyncio.get_running_loop(), request.writer
    with body.reading() as source:
        sent, there = 0, await source.follow(0)
        async with asyncio.timeout(SEND_SECONDS) as deadline:
            await writer.write(head)
            if chunked:
                writer.enable_chunking()
            while sent < there:
                if chunked:
                    await _send_pieces(request, source, sent, there)
                else:
                    await _send_range(request, transport, source, sent, there)
                deadline.reschedule(loop.time() + SEND_SECONDS)  # the whole may take longer, as long as it progresses
                sent, there = there, await source.follow(there)
            await writer.write_eof()


async def _send_events(request: web.BaseRequest, head: bytes, body: Events) -> None:
    """Send events as they come, until there are no more; a caller that does not read them is cut off."""
    writer = request.writer
    async with contextlib.aclosing(body.source) as source:
        await writer.write(head)
        writer.enable_chunking()
        async for event in source:
            async with asyncio.timeout(EVENT_SECONDS):
                await writer.write(event)
                await writer.drain()
        await writer.write_eof()


async def _send_range(
    request: web.BaseRequest, transport: asyncio.Transport, source: Source, start: int, end: int
) -> None:
    """Send bytes `start` to `end`, as fast as the caller reads."""
    if not _is_free(transport):
        await _send_pieces(request, source, start, end)
        return
    copy = os.dup(transport.get_extra_info("socket").fileno())  # a loop refuses to watch a transport's own socket
    try:
        while (start := start + source.send(copy, start, end - start)) < end:
            await _writable(copy)
    finally:
        os.close(copy)


async def _send_pieces(request: web.BaseRequest, source: Source, start: int, end: int) -> None:
    """Send in pieces, each of which waits for a slow reader: over TLS, chunked, or after data that is buffered."""
    while start < end:
        await request.writer.drain()
        piece = await asyncio.to_thread(source.read, start, min(_PIECE, end - start))
        for at in range(0, len(piece), _SLICE):
            await request.writer.drain()
            await request.writer.write(memoryview(piece)[at : at + _SLICE])
        start += len(piece)


async def _writable(socket_fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(socket_fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(socket_fd)


def _may_enlarge() -> bool:
    """Whether the kernel allows so large a send buffer; if not, setting it would make the buffer smaller."""
    try:
        return int(Path("/proc/sys/net/core/wmem_max").read_text()) >= _BUFFER_BYTES
    except (OSError, ValueError):
        return False


_BUFFER_BYTES: Final = 4 * 2**20
_MAY_ENLARGE: Final = _may_enlarge()
