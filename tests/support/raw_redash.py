"""What stands in the place of Redash and writes bytes that no Redash sends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class RawRedash:
    """Reads the head of one request on each connection, and responds as its subclass says."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await self.respond(reader, writer)
        finally:
            writer.close()

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Respond, or raise ConnectionError when the gateway has left; the connection is closed afterwards."""
        raise NotImplementedError
