"""Listening sockets, above all of Unix: one that a dead process has left behind is in the way, so the gateway looks
first who answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway import config
from gateway.app.handover import Handover
from gateway.app.listeners import Listeners
from gateway.app.sockets import bind
from gateway.app.systemd import API


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.sock"


@pytest.fixture
def notes(path: Path) -> Path:
    """A file that has the path."""
    path.write_text("notes")
    return path


def identity(path: Path) -> tuple[int, int]:
    """What tells it from another file with the same path."""
    status = path.stat()
    return status.st_ino, status.st_size


async def pong(request: web.BaseRequest) -> web.Response:
    return web.Response(text="ours")


@contextlib.asynccontextmanager
async def listening(path: Path) -> AsyncIterator[None]:
    """The gateway's listener at this path."""
    listeners = Listeners(Handover("memory:"), {})
    try:
        await listeners.open(API, [config.Listen(unix=str(path))], backlog=8)
        await listeners.accept(API, web.ServerRunner(web.Server(pong)), None, backlog=8)
        yield
    finally:
        await listeners.aclose()


async def answer(path: Path) -> bytes:
    """What is said to a caller of this socket."""
    reader, writer = await asyncio.open_unix_connection(path)
    async with asyncio.timeout(10):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        said = await reader.read()
    writer.close()
    return said


async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Another program."""
    await reader.readline()
    writer.write(b"other")
    writer.close()


async def test_the_socket_of_a_program_that_answers_stays(path: Path) -> None:
    async with await asyncio.start_unix_server(other, path):
        with pytest.raises(OSError, match="another program seems to listen") as refused:
            async with listening(path):
                pass
        assert str(path) in str(refused.value)
        assert await answer(path) == b"other"


async def test_a_program_that_is_too_busy_to_answer_keeps_its_socket(path: Path) -> None:
    # It listens, but its queue is full: a connection attempt is neither refused nor accepted.
    with contextlib.ExitStack() as sockets:
        busy = sockets.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(2):
            caller = sockets.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(str(path))
        before = identity(path)
        with pytest.raises(OSError, match="another program seems to listen"):
            async with listening(path):
                pass
        assert identity(path) == before


async def test_a_socket_of_another_kind_stays(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as log:
        log.bind(str(path))
        before = identity(path)
        with pytest.raises(OSError, match="another program seems to listen"):
            async with listening(path):
                pass
        assert identity(path) == before


async def test_a_dead_socket_is_replaced(path: Path) -> None:
    # A gateway that was killed leaves its socket behind.
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
        dead.listen()
    async with listening(path):
        assert b"ours" in await answer(path)


async def test_a_path_without_a_socket_gets_one(path: Path) -> None:
    async with listening(path):
        assert b"ours" in await answer(path)


async def test_a_file_is_not_replaced(notes: Path) -> None:
    before = identity(notes)
    with pytest.raises(OSError, match=str(notes)):
        async with listening(notes):
            pass
    assert identity(notes) == before


async def test_what_was_accepted_just_before_the_end_becomes_a_connection() -> None:
    # asyncio makes it in a task of its own. If the server is closed by then, the connection is dropped.
    listeners = Listeners(Handover("memory:"), {})
    (where,) = await listeners.open(API, [config.Listen(host="127.0.0.1", port=0)], backlog=8)
    await listeners.accept(API, web.ServerRunner(web.Server(pong)), None, backlog=8)
    with contextlib.closing(socket.create_connection((where.host, where.port))) as caller:  # waits for the kernel only
        for _ in range(2):
            await asyncio.sleep(0)  # now it is accepted, and its task is about to start
        await listeners.stop_accepting(API)
        caller.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            await loop.sock_sendall(caller, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"ours" in await loop.sock_recv(caller, 4096)
    await listeners.aclose()


async def test_a_response_in_two_writes_is_not_held_back() -> None:
    """Nagle's algorithm holds a second write until the caller has confirmed the first: up to 40 ms, as over TLS."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[asyncio.BaseTransport] = loop.create_future()

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(transport)

    (listening,) = await bind(config.Listen(host="127.0.0.1", port=0))
    async with await loop.create_server(Taken, sock=listening), asyncio.timeout(10):
        _, writer = await asyncio.open_connection(*listening.getsockname())
        taken = (await made).get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
