"""Nothing that a caller sent, and nothing that Redash sent for it, waits for the garbage collector.

The collector counts objects, not bytes, and `serve` makes it run seldom. In a fuzz of four minutes, 76 cycles held 41
MB of bodies whose callers had left, and the texts of 160,000 parameters that Redash had sent.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from aiohttp.web_protocol import RequestHandler
from support.calls import TOKENS
from support.inside import connections, flights, open_requests
from support.waiting import until
from support.world import World

from gateway.http.connection import Handler

HEAD: Final = f"Host: localhost\r\nAuthorization: Key {TOKENS['dashboard']}\r\n"
POST: Final = f"POST /api/queries/1/results HTTP/1.1\r\n{HEAD}"
PART: Final = "[" * 200_000


@pytest.fixture
def left() -> Iterator[Callable[[], list[str]]]:
    """Returns what only the collector would free: connections, and frames of the gateway with all their values."""
    gc.collect()
    gc.disable()

    def found() -> list[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        objects, gc.garbage[:] = gc.garbage[:], []
        return sorted({name for name in map(_name, objects) if name})

    yield found
    gc.enable()


def _name(found: Any) -> str:
    if isinstance(found, Handler):
        return "a connection"
    if not isinstance(found, FrameType):
        return ""
    code = found.f_code
    ours = "/gateway/" in code.co_filename and "/gateway/sandbox/" not in code.co_filename
    return code.co_qualname if ours or code.co_qualname.startswith(RequestHandler.__name__) else ""


async def leave(world: World, url: str, sent: str, ready: Callable[[], bool], *, reset: bool = True) -> None:
    """Send this, wait until the gateway is at work on it, and go."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(sent.encode())
        await until(ready)
    finally:
        if reset:
            writer.transport.abort()
        writer.close()
    await until(lambda: not open_requests(world.runtime) and not connections(world.runtime))


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize(
    ("sent", "at_work"),
    [
        pytest.param("", False, id="nothing sent"),
        pytest.param("GET /ping HT", False, id="a part of a head"),
        pytest.param("GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n", False, id="idle after a request"),
        pytest.param(f"{POST}Content-Length: 999999\r\n\r\n{PART}", True, id="a part of a body"),
        pytest.param(f"{POST}Transfer-Encoding: chunked\r\n\r\n{200_000:x}\r\n{PART}", True, id="a part of a chunk"),
        pytest.param(
            f"POST /api/queries/1/results HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n{PART}",
            False,
            id="a part of a body, no token",
        ),
    ],
)
async def test_a_connection_that_ends_leaves_nothing(
    world: World, left: Callable[[], list[str]], sent: str, at_work: bool, reset: bool
) -> None:
    def ready() -> bool:
        return bool(open_requests(world.runtime) if at_work else connections(world.runtime))

    for _ in range(3):
        await leave(world, world.url, sent, ready, reset=reset)
    assert left() == []


async def test_a_caller_that_leaves_during_a_run_leaves_nothing(world: World, left: Callable[[], list[str]]) -> None:
    fault = world.sandbox.faults.add("stall", route="/api/queries/<query_id>/results", method="POST")
    body = '{"max_age": 0}'
    sent = f"{POST}Prefer: wait=30\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    await leave(world, world.url, sent, lambda: bool(fault.hits))
    fault.release()
    await until(lambda: not world.runtime.executions.flights.running)
    assert left() == []


async def test_a_body_that_breaks_off_leaves_nothing(world: World, left: Callable[[], list[str]]) -> None:
    parts = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"{POST}Transfer-Encoding: chunked\r\n\r\n{len(PART):x}\r\n{PART}\r\n".encode())
    await until(lambda: bool(open_requests(world.runtime)))
    writer.write(b"no length of a chunk\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    await until(lambda: not connections(world.runtime))
    assert left() == []


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param("\x01\x02\r\n\r\n", id="no method"),
        pytest.param(f"{POST}Content-Length: x\r\n\r\n", id="no length"),
        pytest.param(f"GET /{'a' * 9_000} HTTP/1.1\r\n{HEAD}\r\n", id="a long target"),
        pytest.param(f"{POST}Transfer-Encoding: chunked\r\n\r\nxyz\r\n", id="no chunk"),
        pytest.param(f"GET /api/nothing HTTP/1.1\r\n{HEAD}\r\n", id="no route"),
    ],
)
@pytest.mark.parametrize("listener", ["url", "admin"])
async def test_what_is_refused_leaves_nothing(
    world: World, left: Callable[[], list[str]], sent: str, listener: str
) -> None:
    parts = urlsplit(getattr(world, listener))
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(sent.encode())
    assert await reader.readline() != b""
    writer.transport.abort()
    await until(lambda: not connections(world.runtime))
    await asyncio.sleep(0.05)  # the admin listener does not say how many connections it has
    assert left() == []


RUNS: Final = {"route": "/api/queries/<query_id>/results", "method": "POST"}


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("garbage", {}),
        ("garbage", RUNS),
        ("html", {}),
        ("status", {}),
        ("unhealthy", {}),
        ("truncate", {}),
        ("reset_before_headers", {}),
        ("reset_after_headers", {}),
        ("reset_in_body", {}),
        ("lose_jobs", {}),
    ],
)
async def test_errors_of_redash_leave_nothing(
    world: World, left: Callable[[], list[str]], kind: str, limits: dict[str, str]
) -> None:
    query_id = world.named["kb1"]
    world.sandbox.faults.add(kind, **limits)
    paths = (f"/api/queries/{query_id}", f"/api/queries/{query_id}/results.json?max_age=0", "/api/query_results/1.csv")
    for path in paths:
        alike = await asyncio.gather(*(world.get(path) for _ in range(3)))
        assert len({reply.status for reply in alike}) == 1, "they share one call, and its error"
    await asyncio.gather(*(world.post(query_id, max_age=0, wait=10) for _ in range(3)))
    definitions = world.runtime.results.definitions
    await until(lambda: not flights(definitions) and not world.runtime.executions.flights.running)
    assert left() == []
