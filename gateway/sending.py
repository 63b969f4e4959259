"""Sending an answer's body: from memory in one piece, from a file by the kernel."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import hdrs, web

from gateway.model import Body
from gateway.outcome import Outcome

_CHUNK: Final = 256 * 1024


async def send(request: web.BaseRequest, response: web.StreamResponse, body: Body, outcome: Outcome) -> None:
    """Send head and body; waits while the caller reads slowly, so that memory stays flat."""
    if body.path is None:
        await response.prepare(request)
        await response.write_eof()
    else:
        await _send_file(request, response, body.path, body.size)
    outcome.sent_bytes = 0 if request.method == hdrs.METH_HEAD else body.size


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
