"""Sending an answer: head and body from memory in as few pieces as may be, a file by the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import web

from gateway.hitlane import JOINED_BYTES
from gateway.model import Body

SEND_SECONDS: Final = 600.0
"""For one answer as a whole, however slowly its caller reads."""

_PIECE: Final = 256 * 1024


class Sent(web.StreamResponse):
    """What aiohttp is given when an answer has left: there is nothing more to do than to keep the connection or not.

    Its own responses would make the head once more, for more than a hit costs.
    """

    def __init__(self, *, keep_alive: bool) -> None:
        self._keep_alive = keep_alive  # and no more: the base class would make its maps of fields and cookies

    async def prepare(self, request: web.BaseRequest) -> None:
        """See the base class."""

    async def write_eof(self, data: bytes = b"") -> None:
        """See the base class."""


KEPT: Final = Sent(keep_alive=True)
CLOSED: Final = Sent(keep_alive=False)


async def send(request: web.BaseRequest, head: bytes, body: Body) -> None:
    """Send head and body; waits while the caller reads slowly, so that memory stays flat.

    Raises:
        ConnectionError: the caller has left.
        TimeoutError: it has read too slowly.
    """
    data, waits = body.data, request.protocol.writing_paused
    if data is not None and len(data) <= JOINED_BYTES and not waits:
        await request.writer.write(head + data if data else head)
        return
    async with asyncio.timeout(SEND_SECONDS):
        await request.writer.drain()  # of what came before
        if body.path is not None:
            await _send_file(request, head, body.path, body.size)
        else:
            await _send_bytes(request, head, data or b"")


async def _send_bytes(request: web.BaseRequest, head: bytes, data: bytes) -> None:
    """Send in pieces: what the transport keeps for a slow reader is a copy."""
    await request.writer.write(head)
    rest = memoryview(data)
    for start in range(0, len(rest), _PIECE):
        await request.writer.write(rest[start : start + _PIECE])
        await request.writer.drain()


async def _send_file(request: web.BaseRequest, head: bytes, path: Path, size: int) -> None:
    """Send a file by the kernel where it can; else (TLS, uvloop) in pieces, each of which waits for a slow reader."""
    with path.open("rb", buffering=0) as file:  # here: a thread would cost ten times what it takes
        await request.writer.write(head)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the caller has left")
        if transport.get_extra_info("sslcontext") is None:
            with contextlib.suppress(NotImplementedError):  # uvloop
                await _send_by_kernel(transport, file, size)
                return
        while piece := await asyncio.to_thread(file.read, _PIECE):
            await request.writer.write(piece)
            await request.writer.drain()


async def _send_by_kernel(transport: asyncio.Transport, file: BinaryIO, size: int) -> None:
    """Send what the socket takes at once, then the rest as it is read.

    Most files go whole into a buffer of 4 MB and the receiver's, which spares the loop all its waiting. The buffer
    holds pages of the file, not copies.
    """
    loop, sent = asyncio.get_running_loop(), 0
    if type(loop).sendfile is asyncio.BaseEventLoop.sendfile and transport.get_write_buffer_size() == 0:
        plug = transport.get_extra_info("socket")
        if _MAY_ENLARGE:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        with contextlib.suppress(BlockingIOError):
            sent = os.sendfile(plug.fileno(), file.fileno(), 0, size)
    if sent < size:
        await loop.sendfile(transport, file, sent, size - sent, fallback=False)


def _may_enlarge() -> bool:
    """Whether the kernel gives a socket that much when asked; if not, asking would make it less than it has."""
    try:
        return int(Path("/proc/sys/net/core/wmem_max").read_text()) >= _BUFFER_BYTES
    except (OSError, ValueError):
        return False


_BUFFER_BYTES: Final = 4 * 2**20
_MAY_ENLARGE: Final = _may_enlarge()
