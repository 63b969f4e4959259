"""Sending an answer's body: from memory in one piece, from a file by the kernel."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import hdrs, web

from gateway.model import Body
from gateway.outcome import Outcome

SEND_SECONDS: Final = 600.0
"""For one answer as a whole, however slowly its caller reads."""

SMALL_BYTES: Final = 16 * 1024
_CHUNK: Final = 256 * 1024


async def send(request: web.BaseRequest, response: web.StreamResponse, body: Body, outcome: Outcome) -> None:
    """Send head and body; waits while the caller reads slowly, so that memory stays flat."""
    if body.size <= SMALL_BYTES and body.path is None:  # fits into the socket's buffer; a deadline would cost more
        await response.prepare(request)
        await response.write_eof()
    else:
        async with asyncio.timeout(SEND_SECONDS):
            await _send_large(request, response, body)
    outcome.sent_bytes = 0 if request.method == hdrs.METH_HEAD else body.size


async def _send_large(request: web.BaseRequest, response: web.StreamResponse, body: Body) -> None:
    if body.path is not None:
        await _send_file(request, response, body.path, body.size)
    else:
        await response.prepare(request)
        await response.write_eof()


async def _send_file(request: web.BaseRequest, response: web.StreamResponse, path: Path, size: int) -> None:
    """Send a file by the kernel where the loop can; else in pieces, each of which waits for a slow reader."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        await response.prepare(request)
        if request.method != hdrs.METH_HEAD:
            await _send_contents(request, response, file, size)
        await response.write_eof()
    finally:
        file.close()


async def _send_contents(request: web.BaseRequest, response: web.StreamResponse, file: BinaryIO, size: int) -> None:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the caller has left")
    try:
        request.writer.send_headers()
        await asyncio.get_running_loop().sendfile(transport, file, 0, size)
    except NotImplementedError:  # uvloop
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            await response.write(chunk)
