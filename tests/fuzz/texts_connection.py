"""One connection of an attacker: bytes out as they are, and whether what comes back is HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2}) [ -~]*")
FIELD: Final = re.compile(rb"([A-Za-z0-9-]+): ?([\t -~\x80-\xff]*)")
MOST_KEPT: Final = 64 * 1024
"""How much of a body is kept, to look for keys in it; the rest is only counted."""


class NotHttpError(Exception):
    """What came back is no response (RFC 9112)."""


class BrokenOffError(Exception):
    """The other side closed within a response, or instead of one."""


@dataclass(frozen=True)
class Response:
    """One response; of a long body only the beginning."""

    status: int
    fields: dict[str, str]
    body: bytes
    size: int
    is_1_0: bool = False

    @property
    def closes(self) -> bool:
        connection = self.fields.get("connection", "").lower()
        return connection == "close" or (self.is_1_0 and connection != "keep-alive")


class Connection:
    """A connection to one listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 17))

    async def send(self, piece: bytes) -> bool:
        """Send bytes; returns whether the other side still took them."""
        try:
            self.writer.write(piece)
            await self.writer.drain()
        except ConnectionError:
            return False
        return True

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def response(self, *, head: bool, pause: float = 0.0) -> Response:
        """Read one final response; `pause` is how long to wait after each piece of its body.

        Raises:
            NotHttpError, BrokenOffError, TimeoutError.
        """
        while True:
            is_1_0, status, fields = await self._head()
            if status >= 200:
                break
        if head or status in (204, 304):
            return Response(status, fields, b"", 0, is_1_0)
        if fields.get("transfer-encoding") == "chunked":
            body, size = await self._chunked(pause)
        elif "content-length" in fields:
            body, size = await self._counted(int(fields["content-length"]), pause)
        else:
            raise NotHttpError(f"{status} without a length")
        return Response(status, fields, body, size, is_1_0)

    async def _head(self) -> tuple[bool, int, dict[str, str]]:
        try:
            top = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise NotHttpError(f"a part of a head: {error.partial[:200]!r}") from None
            raise BrokenOffError("closed without a response") from None
        except ConnectionError:
            raise BrokenOffError("reset without a response") from None
        except asyncio.LimitOverrunError:
            raise NotHttpError("a head without an end") from None
        first, *rest = top[:-4].split(b"\r\n")
        status = STATUS.fullmatch(first)
        fields = [FIELD.fullmatch(line) for line in rest]
        if status is None or not all(fields):
            raise NotHttpError(f"{top[:300]!r}")
        return (
            status[1] == b"0",
            int(status[2]),
            {f[1].decode().lower(): f[2].decode("latin-1") for f in fields if f is not None},
        )

    async def _counted(self, size: int, pause: float) -> tuple[bytes, int]:
        kept, left = b"", size
        while left:
            piece = await self._piece(min(left, 65_536))
            left -= len(piece)
            if len(kept) < MOST_KEPT:
                kept += piece
            if pause:
                await asyncio.sleep(pause)
        return kept, size

    async def _piece(self, most: int) -> bytes:
        try:
            piece = await self.reader.read(most)
        except ConnectionError:
            piece = b""
        if not piece:
            raise BrokenOffError("broken off within a body")
        return piece

    async def _chunked(self, pause: float) -> tuple[bytes, int]:
        kept, size = b"", 0
        while True:
            try:
                count = int(await self.reader.readuntil(b"\r\n"), 16)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise BrokenOffError("broken off between chunks") from None
            piece, _ = await self._counted(count, pause)
            size += count
            if len(kept) < MOST_KEPT:
                kept += piece
            with contextlib.suppress(asyncio.IncompleteReadError):
                await self.reader.readexactly(2)
            if count == 0:
                return kept, size
