"""What the fast path reads in a request is what aiohttp reads in it: the same end, the same meaning.

RFC 9112 section 11.2: two recipients that frame a message differently let one request be smuggled inside another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final
from unittest import mock

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st
from support.client_requests import client_requests

from gateway.http.problems import MAX_FIELD_BYTES, MAX_TARGET_BYTES
from gateway.http.request_key import (
    HEAD_MISSING,
    LONGEST_REQUEST,
    MEANINGFUL,
    UNCERTAIN,
    WHOLE,
    RequestReader,
    request_key,
)

RECORDED: Final = [
    b"".join(request.segments(host="localhost:8080", token="rg_token", query=7, etag='"tag"'))
    for request in client_requests()
]
PIECES: Final = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"Content-Length: 5\r\n", b"content-length:0\r\n", b"x" * 300,
    b"Content-Length: +5\r\n", b"Content-Length: 5, 5\r\n", b"Content-Length: 0x5\r\n", b"Content-Length: 00\r\n",
    b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: identity\r\n", b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n", b"Connection: close\r\n", b"Host: other\r\n", b"Authorization: Key other\r\n",
    b"User-Agent: other\r\n", b"Content-Type: other\r\n", b" folded\r\n", b"HTTP/1.1", b"HTTP/1.0", b"CONNECT ",
    b"Expect: 100-continue\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\xff", b"\r\n\r\n", b"0\r\n\r\n", b"#", b"*",
    b"Sec-WebSocket-Key1: x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


class Parsed:
    """What aiohttp's parser makes of some bytes."""

    def __init__(self, data: bytes, loop: asyncio.AbstractEventLoop) -> None:
        parser = HttpRequestParser(
            BaseProtocol(loop), loop, 2**16, max_line_size=MAX_TARGET_BYTES, max_field_size=MAX_FIELD_BYTES,
            auto_decompress=False,
        )  # fmt: skip
        self.requests: list[Any] = []
        self.rest = b""
        try:
            self.requests, self.upgraded, self.rest = parser.feed_data(data)
            self.refused = False
        except HttpProcessingError:
            self.refused = True

    @property
    def is_one_request(self) -> bool:
        """Whether the bytes are exactly one request, after which the connection goes on."""
        if self.refused or self.upgraded or len(self.requests) != 1 or self.rest:
            return False
        _, body = self.requests[0]
        return bool(body.is_eof())

    def key(self) -> object:
        """The request's key, as the normal path makes it."""
        message, body = self.requests[0]
        request = mock.Mock(
            raw_headers=message.raw_headers, version=message.version, method=message.method, raw_path=message.path,
            keep_alive=not message.should_close,
        )  # fmt: skip
        return request_key(request, body.read_nowait() if body.is_eof() and message.method else b"")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def broken(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Replace pieces: each change has a place (per mille), how many bytes go, and what comes."""
    for mille, gone, piece in changes:
        place = len(data) * mille // 1000
        data = data[:place] + piece + data[place + gone :]
    return data


def shortest(key: tuple[Any, ...]) -> bytes:
    """The shortest request with this key."""
    line, _, body, *parts = key
    fields = [
        f"{MEANINGFUL[number - 1]}: ".encode() + value for number, value in zip(parts[::2], parts[1::2], strict=True)
    ]
    return b"\r\n".join([line, *fields, b"Content-Length: %d" % len(body), b"", body])


CHANGES: Final = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=4)), max_size=3
)


@settings(max_examples=500)
@given(data=st.sampled_from(RECORDED), changes=CHANGES, at_line=st.booleans())
def test_what_is_whole_here_is_one_request_there_with_the_same_key(
    loop: asyncio.AbstractEventLoop, data: bytes, changes: list[tuple[int, int, bytes]], at_line: bool
) -> None:
    sent = broken(data, changes)
    if at_line and changes:  # a field more, where fields stand
        first, mark, rest = data.partition(b"\r\n")
        sent = first + mark + changes[0][2] + rest
    reader = RequestReader(10**6)
    found = reader.read(sent)
    parsed = Parsed(sent, loop)
    if found == WHOLE and parsed.refused:
        assert Parsed(shortest(reader.key), loop).refused, "all requests of this meaning are refused, so none is cached"
    elif found == WHOLE:
        assert parsed.is_one_request
        assert reader.key in (parsed.key(), ())
    elif found > 0:
        assert not parsed.requests or not parsed.requests[0][1].is_eof()
        whole = Parsed(sent + b"x" * found, loop)
        assert whole.refused or whole.is_one_request
    elif found == HEAD_MISSING:
        assert not parsed.requests


@pytest.mark.parametrize("data", RECORDED)
def test_the_requests_of_real_clients_are_whole(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    reader = RequestReader(10**6)
    for _ in range(3):
        assert reader.read(data) == WHOLE
        assert reader.key == Parsed(data, loop).key()
        reader.remember(data)
    head, mark, body = data.partition(b"\r\n\r\n")
    for _ in range(2):
        assert reader.read(head + mark) == (len(body) if body else WHOLE)
        assert reader.read(head) == HEAD_MISSING
        assert reader.read(data + b"GET") == UNCERTAIN


def test_fields_that_no_response_depends_on_are_not_in_the_key() -> None:
    reader = RequestReader(10**6)
    start, end = b"GET /ping HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n"
    assert reader.read(start + b"Cookie: a\r\nX-Request-ID: 1" + end) == WHOLE
    key = reader.key
    assert reader.read(start + b"Cookie: b\r\ntraceparent: 2\r\nReferer: c" + end) == WHOLE
    assert reader.key == key
    for field in (b"Origin: x", b"prefer: wait=1", b"AUTHORIZATION: x", b"X-Api-Key: x", b"sec-fetch-site: x"):
        assert reader.read(start + field + end) == WHOLE
        assert reader.key != key, field


def test_remembered_requests_are_bounded_in_bytes() -> None:
    reader = RequestReader(100_000)
    for number in range(1_000):
        data = b"GET /%0500d HTTP/1.1\r\nHost: a\r\n\r\n" % number
        assert reader.read(data) == WHOLE
        reader.remember(data)
    assert sum(2 * len(data) for data in reader._by_bytes) < 100_000


def test_long_requests_have_no_key() -> None:
    reader = RequestReader(10**6)
    assert reader.read(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"x" * LONGEST_REQUEST)) == WHOLE
    assert reader.key == ()
