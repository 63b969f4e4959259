"""The port of the sandbox."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """Can be closed and opened again."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._runner: web.ServerRunner | None = None
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._runner is not None

    async def open(self, host: str, port: int) -> str:
        """Listens, and returns the URL; port 0 means any free port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family)
        server = web.Server(self._handle, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=4096).start()
        return f"http://{host}:{self._socket.getsockname()[1]}"

    async def close(self) -> None:
        """Closes the port and all connections."""
        if self._runner is None or self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        for _ in range(3):  # asyncio makes an accepted connection in a task, and loses it if its server was closed
            await asyncio.sleep(0)
        await self._runner.cleanup()
        self._socket.close()
        self._runner = self._socket = None
