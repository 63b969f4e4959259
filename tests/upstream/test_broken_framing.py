"""Responses whose chunks are malformed: they end in an error at once, or after `upstream.read_timeout`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from security.front import Front, client, credential
from support.raw_redash import RawRedash
from support.waiting import within

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b"[" + b"1," * 60_000
WRONG = b"no end of a chunk"

SEGMENTS = {
    "all at once": [HEAD + b"ffff\r\n" + BODY],
    "with the head": [HEAD + b"ffff\r\n" + BODY[:30_000], BODY[30_000:]],
    "on its own": [HEAD, b"ffff\r\n" + BODY[:65_535], WRONG],
    "in the middle": [HEAD, b"5\r\n[1,2,\r\n", b"zz\r\n", BODY],
    "no number": [HEAD, b"5\r\n[1,2,\r\n", b"-1\r\n"],
    "silence": [HEAD, b"5\r\n[1,2,\r\n"],
}


class Redash(RawRedash):
    """Responds to everything with the same segments, each sent when the one before has left."""

    def __init__(self, segments: list[bytes], *, closes: bool) -> None:
        self._segments = segments
        self._closes = closes

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for segment in self._segments:
            writer.write(segment)
            await writer.drain()
            await asyncio.sleep(0.02)  # else the kernel joins them
        if not self._closes:
            await reader.read()  # until the gateway gives up


@pytest.fixture(params=SEGMENTS)
async def redash(request: pytest.FixtureRequest) -> list[bytes]:
    return SEGMENTS[request.param]


@pytest.fixture(params=[True, False], ids=["closed", "kept open"])
async def front(redash: list[bytes], request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Front]:
    async with Redash(redash, closes=request.param) as upstream:
        made = Front(tmp_path, upstream.url)
        made.write(credential(tmp_path, "user"), client("every"), upstream='read_timeout = "300ms"')
        async with made:
            yield made


async def test_a_body_of_malformed_chunks_is_no_internal_error_and_never_waits_for_long(front: Front) -> None:
    # A body that broke in a segment of its own waited for the deadline of the whole exchange, 15 minutes.
    async with within(10.0):
        for path in ("/api/queries/7", "/api/query_results/5.json"):
            reply = await front.call("GET", path, client="every")
            assert reply.status in (502, 504), (path, reply.body)
