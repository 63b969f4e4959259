"""The stream of reports: once a second for all listeners, bounded, and no delay for shutdown."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from support.calls import ADMIN_TOKEN, AS_OPERATOR
from support.waiting import within
from support.world import World

from gateway import config
from gateway.admin import events


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[aiohttp.ClientResponse]:
    async with asyncio.timeout(20), world.session.get(f"{world.admin}/events") as response:
        yield response


async def report(response: aiohttp.ClientResponse) -> Any:
    async for line in response.content:
        if line.startswith(b"data: "):
            return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream has ended")


async def to_the_end(response: aiohttp.ClientResponse) -> int:
    """Count the events of a stream that ends as a stream should; it raises where it is cut off."""
    return len([line async for line in response.content if line.startswith(b"data: ")])


async def test_reports_are_pushed(world: World) -> None:
    async with listening(world) as response:
        assert response.content_type == "text/event-stream"
        first = await report(response)
        await world.get("/ping")
        second = await report(response)
        third = await report(response)
    assert first["totals"]["requests"] == 0
    assert max(second["totals"]["requests"], third["totals"]["requests"]) == 1
    assert second["uptime_seconds"] > first["uptime_seconds"]


async def test_the_page_is_pushed_as_html(world: World) -> None:
    async with asyncio.timeout(20), world.session.get(f"{world.admin}/live") as response:
        first = await report(response)
    assert 'id="verdict"' in first
    assert "csrf" not in first, "it is the same for all who look at it"


async def test_a_stream_ends_with_the_session_that_may_read_it(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On other addresses than loopback reading needs the admin token: that is judged again before each event."""
    monkeypatch.setattr(events, "PERIOD_SECONDS", 0.01)
    await bare.start(admin=f'listen = "0.0.0.0:0"\ntoken_sha256 = "{config.token_hash(ADMIN_TOKEN)}"')
    async with asyncio.timeout(20), bare.session.get(f"{bare.admin}/events", headers=AS_OPERATOR) as response:
        await report(response)
        bare.reconfigure(bare.text.replace(config.token_hash(ADMIN_TOKEN), config.token_hash("rg_other")))
        await to_the_end(response)


async def test_all_listeners_get_the_same_event(world: World) -> None:
    async with listening(world) as one, listening(world) as two:
        await report(one)
        await report(two)
        assert (await report(one))["at"] == (await report(two))["at"]


async def test_listeners_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_LISTENERS", 2)
    async with listening(world) as one, listening(world) as two:
        await report(one)
        await report(two)
        async with listening(world) as three:
            assert three.status == 503
            assert three.headers["Retry-After"] == "10"


async def test_a_listener_that_leaves_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_LISTENERS", 1)
    async with listening(world) as one:
        await report(one)
        one.close()
    async with asyncio.timeout(10):
        while True:
            async with listening(world) as two:
                if two.status == 200:
                    await report(two)
                    return
            await asyncio.sleep(0.1)


async def test_silence_is_filled_with_comments(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(events, "PERIOD_SECONDS", 5.0)
    async with listening(world) as response:
        await report(response)
        async for line in response.content:
            if line == b": still here\n":
                break


def deaf(world: World) -> socket.socket:
    """A listener that never reads, with buffers as small as they get."""
    parts = urlsplit(world.admin)
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    made.connect((parts.hostname, parts.port))
    made.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return made


async def test_a_listener_that_does_not_read_is_disconnected(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(events, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(events, "MOST_LISTENERS", 1)
    with deaf(world):
        async with asyncio.timeout(30):
            while True:
                async with listening(world) as other:
                    if other.status == 200:
                        break
                await asyncio.sleep(0.2)
    assert not caplog.records


async def test_open_streams_do_not_delay_shutdown(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await bare.start()
    monkeypatch.setattr(events, "PERIOD_SECONDS", 0.001)
    async with asyncio.timeout(30), listening(bare) as one, listening(bare) as two:
        with deaf(bare):
            reading = [asyncio.create_task(to_the_end(stream)) for stream in (one, two)]
            await asyncio.sleep(1.0)  # until the one that does not read has filled every buffer
            async with within(1.0):
                await bare.runtime.stop()
        assert min([await events for events in reading]) > 10
    monkeypatch.undo()
    await bare.session.close()
    await bare.resume()
