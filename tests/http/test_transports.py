"""Responses are the same over TCP, Unix sockets and TLS, on asyncio's loop and on uvloop, on every path."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.calls import TOKENS
from support.clocks import TurnableClock
from support.inside import connections
from support.loops import installed
from support.process import certificate
from support.waiting import until
from support.world import World, configuration

from gateway.config.schema import EventLoop
from gateway.http.sending import TLS_BUFFER_BYTES
from gateway.sandbox import Sandbox

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Scene = Callable[[World, Callable[[], Coroutine[Any, Any, Streams]]], Coroutine[Any, Any, None]]


class Place(msgspec.Struct, frozen=True):
    """Where a gateway listens, and how to connect to it."""

    listen: str
    server: str
    reach: Callable[[World], Coroutine[Any, Any, Streams]]


def tcp(_: Path) -> Place:
    async def reach(world: World) -> Streams:
        address = world.runtime.api_addresses[0]
        return await asyncio.open_connection(address.host, address.port)

    return Place("127.0.0.1:0", "", reach)


def unix(directory: Path) -> Place:
    path = directory / "api.sock"

    async def reach(_: World) -> Streams:
        return await asyncio.open_unix_connection(path)

    return Place(f"unix:{path}", "", reach)


def tls(directory: Path) -> Place:
    cert, key = certificate(directory, "here")
    context = ssl.create_default_context(cafile=str(cert))

    async def reach(world: World) -> Streams:
        address = world.runtime.api_addresses[0]
        return await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname="localhost")

    return Place("127.0.0.1:0", f'tls_cert = "{cert}"\ntls_key = "{key}"', reach)


PLACES = {"tcp": tcp, "unix": unix, "tls": tls}


def request(method: str, target: str, *fields: str, body: object = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Authorization: Key {TOKENS['dashboard']}", *fields]
    lines += [f"Content-Length: {len(data)}"] if data else []
    return "\r\n".join([*lines, "", ""]).encode() + data


async def ask(streams: Streams, *segments: bytes) -> tuple[int, bytes]:
    """Send one request, cut as given, and read its response."""
    reader, writer = streams
    async with asyncio.timeout(20):
        for segment in segments:
            writer.write(segment)
            await writer.drain()
            await asyncio.sleep(0.01 if len(segments) > 1 else 0)  # a segment of its own on the wire
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        size = next(int(line.split(":")[1]) for line in head if line.startswith("content-length:"))
        return int(head[0].split(" ")[1]), await reader.readexactly(size)


async def converse(world: World, reach: Callable[[], Coroutine[Any, Any, Streams]], by_fast_path: list[bytes]) -> None:
    kinds = [
        request("POST", f"/api/queries/{world.named[name]}/results", *fields, body={"max_age": 86_400})
        for name in ("kb1", "kb100", "large")
        for fields in ((), ("Accept-Encoding: gzip",))
    ]
    line = await reach()
    responses = [await ask(line, sent) for sent in kinds]
    assert {status for status, _ in responses} == {200}
    for _ in range(4):
        assert [await ask(line, sent) for sent in kinds] == responses
    assert set(by_fast_path) == set(kinds[:4])  # those of 5 MB are too large for it, and are sent from a file
    for sent, response in zip(kinds, responses, strict=True):
        # On a fresh connection: uvloop delivers its first bytes before aiohttp's task has started.
        count = len(by_fast_path)
        line = await reach()
        assert await ask(line, sent) == response
        assert await ask(line, sent) == response
        assert len(by_fast_path) == count + (2 if sent in kinds[:4] else 0)
        head, mark, body = sent.partition(b"\r\n\r\n")
        assert await ask(line, head + mark, body) == response
        assert await ask(line, sent[:40], sent[40:]) == response
        assert await ask(line, sent) == response


async def run(directory: Path, place: Place, scene: Scene) -> None:
    clock = TurnableClock()
    async with Sandbox(now=clock.wall) as sandbox:
        world = World(directory, sandbox, clock)
        world.text = configuration(sandbox, "sqlite:gateway.db", {"server": place.server}).replace(
            'listen = "127.0.0.1:0"', f'listen = "{place.listen}"', 1
        )
        await world.resume()
        lines: list[Streams] = []

        async def reach() -> Streams:
            lines.append(await place.reach(world))
            return lines[-1]

        try:
            await scene(world, reach)
        finally:
            for _, writer in lines:
                writer.transport.abort()
            await asyncio.sleep(0)
            await world.stop()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("place", PLACES)
def test_every_transport_and_path_gives_the_same_responses(
    tmp_path: Path, loop: EventLoop, place: str, needs: Callable[[str], str], by_fast_path: list[bytes]
) -> None:
    needs("openssl")
    with asyncio.Runner(loop_factory=installed(loop)) as runner:
        runner.run(run(tmp_path, PLACES[place](tmp_path), partial(converse, by_fast_path=by_fast_path)))


async def stop_reading(world: World, reach: Callable[[], Coroutine[Any, Any, Streams]]) -> None:
    reader, writer = await reach()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.write(request("POST", f"/api/queries/{world.named['large']}/results", body={"max_age": 86_400}))
    assert b" 200 " in await reader.readline()
    connection = connections(world.runtime)[0]
    await until(lambda: bool(connection._paused))  # sending waits for the caller
    assert connection.transport.get_write_buffer_size() <= 4 * TLS_BUFFER_BYTES


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_little_is_encrypted_ahead_for_a_caller_that_does_not_read(
    tmp_path: Path, loop: EventLoop, needs: Callable[[str], str]
) -> None:
    """TLS has a limit of 512 KB of its own: with its copies, each such caller took more than a megabyte."""
    needs("openssl")
    with asyncio.Runner(loop_factory=installed(loop)) as runner:
        runner.run(run(tmp_path, tls(tmp_path), stop_reading))
