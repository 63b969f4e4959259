"""Raw bytes to a gateway and all that comes back: client libraries would correct what these tests are about."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Got:
    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def field(self, name: str) -> str:
        return next((value for field, value in self.fields if field.lower() == name.lower()), "")


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str, **more: object) -> Wire:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, **more))  # type: ignore[arg-type]

    async def __aenter__(self) -> Wire:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError, OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def response(self, *, head: bool = False, timeout: float = 5.0) -> Got | None:
        """The next whole response, None when the other side has closed."""
        async with asyncio.timeout(timeout):
            try:
                top = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            lines = top.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            fields = tuple((n, v.strip()) for n, _, v in (line.partition(":") for line in lines[1:] if line))
            named = {n.lower(): v for n, v in fields}
            length = 0 if head or status in (100, 204, 304) else int(named.get("content-length", "0"))
            try:
                body = await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            return Got(status, fields, gzip.decompress(body) if named.get("content-encoding") == "gzip" else body)

    async def responses(self, *, quiet: float = 0.25, head: bool = False) -> list[Got]:
        """All responses until it closes, or sends nothing more for a while."""
        found = []
        with contextlib.suppress(TimeoutError):
            while (got := await self.response(timeout=5.0 if not found else quiet, head=head)) is not None:
                found.append(got)
        return found

    async def closed(self, timeout: float) -> bytes:
        """What still arrives until the other side closes; raises TimeoutError if it does not."""
        received = b""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    received += data
        return received


async def ask(url: str, data: bytes, *, quiet: float = 0.25, head: bool = False) -> list[Got]:
    """Send bytes on a new connection; returns every response."""
    async with await Wire.open(url) as wire:
        await wire.send(data)
        return await wire.responses(quiet=quiet, head=head)
