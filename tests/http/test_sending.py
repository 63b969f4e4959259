"""Sending files to callers: whole or not at all, whatever happened to the file and however the caller reads."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gateway.body import Body
from gateway.http import sending

SIZE = 6_000_000
HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode()
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "body"
    file.write_bytes(content)
    return file


@asynccontextmanager
async def caller(path: Path, late: asyncio.Event | None = None) -> AsyncIterator[socket.socket]:
    """A caller with a small buffer, and a server that responds with the file; `late` is called when it gives up."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await sending.send(request, HEAD, Body(size=SIZE, path=path))
        except TimeoutError:
            assert late is not None
            late.set()
            raise
        return sending.KEPT

    loop = asyncio.get_running_loop()
    server = await loop.create_server(web.Server(respond), "127.0.0.1", 0)
    with socket.socket() as plug:
        plug.setblocking(False)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        await loop.sock_connect(plug, server.sockets[0].getsockname())
        try:
            yield plug
        finally:
            server.close()


async def read(plug: socket.socket, size: int) -> bytes:
    """Read `count` bytes, or what there is until the other side closes."""
    loop, got = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(20):
        while len(got) < size and (piece := await loop.sock_recv(plug, min(262_144, size - len(got)))):
            got += piece
    return bytes(got)


async def ask(plug: socket.socket, times: int = 1) -> None:
    await asyncio.get_running_loop().sock_sendall(plug, ASK * times)


@pytest.mark.parametrize("enlarged", [True, False])
async def test_a_file_is_sent_whole_again_and_again(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, enlarged: bool
) -> None:
    monkeypatch.setattr(sending, "_MAY_ENLARGE", enlarged and sending._MAY_ENLARGE)
    async with caller(path) as plug:
        for _ in range(3):
            await ask(plug)
            assert await read(plug, len(HEAD) + SIZE) == HEAD + content


async def test_pipelined_requests_are_served_one_after_the_other(path: Path, content: bytes) -> None:
    async with caller(path) as plug:
        await ask(plug, 3)
        assert await read(plug, 3 * (len(HEAD) + SIZE)) == 3 * (HEAD + content)


@pytest.mark.parametrize("size", [SIZE + 1, SIZE - 1])
async def test_nothing_of_a_file_of_another_length_is_sent(path: Path, size: int) -> None:
    """What was looked up a moment ago may be another file by now."""
    os.truncate(path, size)
    async with caller(path) as plug:
        await ask(plug)
        assert not (await read(plug, 100)).startswith(HEAD)


@pytest.mark.parametrize("size", [SIZE + 4, 1_000_000])
async def test_a_file_that_changes_while_it_is_sent_is_never_complete_with_other_bytes(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Its length is promised by then: only an early close can show that something is missing (RFC 9112 section 8)."""
    monkeypatch.setattr(sending, "_MAY_ENLARGE", False)  # else the kernel has all of it at once
    async with caller(path) as plug:
        await ask(plug)
        first = await read(plug, len(HEAD) + 1)
        os.truncate(path, size)
        rest = await read(plug, SIZE - 1)
        assert len(first + rest) < len(HEAD) + SIZE if size < SIZE else first + rest == HEAD + content


async def test_a_caller_that_does_not_read_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.05)
    monkeypatch.setattr(sending, "_MAY_ENLARGE", False)
    late = asyncio.Event()
    async with caller(path, late) as plug:
        await ask(plug)
        async with asyncio.timeout(10):
            await late.wait()
        assert len(await read(plug, len(HEAD) + SIZE)) < len(HEAD) + SIZE
