"""A caller that reads the beginning of a response, and nothing more until it is told to."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit


async def requested(url: str, request: bytes) -> socket.socket:
    """Send a request on a connection of its own that takes little at a time; nothing is read yet."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop, at = asyncio.get_running_loop(), urlsplit(url)
    await loop.sock_connect(slow, (at.hostname, at.port))
    await loop.sock_sendall(slow, request)
    return slow


async def rest_of(slow: socket.socket) -> bytes:
    """Read on, and no longer slowly, until the other side closes."""
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    received = b""
    while data := await asyncio.get_running_loop().sock_recv(slow, 1 << 20):
        received += data
    return received
