"""Callers: requests, bytes as they are, and what came back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec


class Reply(msgspec.Struct, frozen=True):
    """What a caller got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json["query_result"]["data"]["rows"]
        return rows

    @property
    def job(self) -> dict[str, Any]:
        job: dict[str, Any] = self.json["job"]
        return job

    @property
    def cache(self) -> str:
        return self.headers.get("Cache-Status", "")


async def send(
    session: aiohttp.ClientSession, method: str, url: str, body: object = None, *, headers: Mapping[str, str]
) -> Reply:
    """Send one request and read its whole response; `body` is JSON unless it is bytes."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    async with session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
        return Reply(response.status, response.headers.copy(), await response.read())


async def exchange(url: str, sent: bytes, *, timeout: float = 10.0) -> bytes:
    """Send bytes as they are and return all that comes back until the other side closes, or the time is up."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    received = b""
    try:
        writer.write(sent)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(timeout):
                while data := await reader.read(65536):
                    received += data
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return received
