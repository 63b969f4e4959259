"""A caller over kept connections that repeats what browsers and urllib3 repeat, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from multidict import CIMultiDict

from support.http import Reply

LIMIT_SECONDS = 30.0
READ_SLOWLY_BYTES = 1 << 16
_NONE: Mapping[str, str] = {}


class KeptCaller:
    """One connection at a time. A request that meets its end is repeated once, if it was used before.

    On a new connection nothing is repeated: there, a connection that is closed or refused is a failed request.
    """

    def __init__(self, url: str, token: str, *, keeps: bool = True) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 0
        self._tls = ssl._create_unverified_context() if parts.scheme == "https" else None
        self._token = token
        self._keeps = keeps
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.repeated = 0
        self.rests_seconds = 0.0
        """A slow reader rests so long after each 64 KB of a body."""

    async def call(
        self, method: str, path: str, body: object = None, *, wait: int | None = None, fields: Mapping[str, str] = _NONE
    ) -> Reply:
        """Send a request and return its response. Raises OSError, EOFError or TimeoutError if it fails."""
        sent = self._request(method, path, body, wait, fields)
        async with asyncio.timeout(LIMIT_SECONDS):
            if self._streams is not None:
                try:
                    return await self._exchange(*self._streams, method, sent)
                except _ClosedError:
                    self.close()
                    self.repeated += 1
            self._streams = await asyncio.open_connection(*self._address, ssl=self._tls)
            return await self._exchange(*self._streams, method, sent)

    def _request(self, method: str, path: str, body: object, wait: int | None, more: Mapping[str, str]) -> bytes:
        data = b"" if body is None else json.dumps(body).encode()
        fields = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Key {self._token}"]
        fields += [f"{name}: {value}" for name, value in more.items()]
        fields += [f"Prefer: wait={wait}"] if wait is not None else []
        fields += [] if self._keeps else ["Connection: close"]
        fields += [f"Content-Length: {len(data)}"] if data else []
        return "\r\n".join([*fields, "", ""]).encode() + data

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, sent: bytes
    ) -> Reply:
        try:
            writer.write(sent)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                raise
            raise _ClosedError from error
        status, fields = _parse(head)
        body = b"" if method == "HEAD" or status in (204, 304) else await self._body(reader, fields)
        if not self._keeps or fields.get("Connection", "").lower() == "close":
            self.close()
        return Reply(status, fields, body)

    async def _body(self, reader: asyncio.StreamReader, fields: Mapping[str, str]) -> bytes:
        if "Content-Length" in fields:
            return await self._exactly(reader, int(fields["Content-Length"]))
        if fields.get("Transfer-Encoding", "") != "chunked":
            return await reader.read()
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await self._exactly(reader, size + 2))[:-2])
        await reader.readuntil(b"\r\n")
        return b"".join(pieces)

    async def _exactly(self, reader: asyncio.StreamReader, size: int) -> bytes:
        if not self.rests_seconds:
            return await reader.readexactly(size)
        pieces = []
        while size:
            pieces.append(await reader.readexactly(min(size, READ_SLOWLY_BYTES)))
            size -= len(pieces[-1])
            await asyncio.sleep(self.rests_seconds)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            with contextlib.suppress(ConnectionError):
                streams[1].close()


class _ClosedError(ConnectionError):
    """The connection was closed before the first byte of a response."""


def _parse(head: bytes) -> tuple[int, CIMultiDict[str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    fields: CIMultiDict[str] = CIMultiDict()
    for line in filter(None, lines):
        name, value = line.split(": ", 1)
        fields.add(name, value)
    return int(first.split()[1]), fields
