"""A gateway that stops: which connections it waits for, and for how long the next process waits for the store."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.calls import TOKENS
from support.inside import connections
from support.slow_reader import requested, rest_of
from support.waiting import until, within
from support.world import World

from gateway.http import connection
from gateway.store.sqlite.file_lock import FileLock

PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
HUGE = (
    "with recursive part(n) as (select 1 union all select n + 1 from part where n < 10000)"
    " select n, hex(zeroblob(500)) as text from part"
)
"""10 MB: more than the buffers of the kernel hold for a caller that does not read."""


@pytest.fixture
async def patient(world: World) -> World:
    world.reconfigure(world.text.replace('drain_timeout = "2s"', 'drain_timeout = "10m"'))
    return world


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that the gateway has accepted."""
    before = len(connections(world.runtime))
    parts = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    await until(lambda: len(connections(world.runtime)) > before)
    try:
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def stopping(world: World) -> AsyncIterator[asyncio.Task[None]]:
    """The gateway begins to stop; at the end it must have done so."""
    task = asyncio.create_task(world.runtime.stop())
    await until(lambda: world.runtime.executions.flights.draining)
    await asyncio.sleep(5 * 0.01)  # some ticks of the drain: whatever it closes at once is closed
    yield task
    async with within(10):
        await task


async def test_a_new_connection_gets_the_response_to_its_first_request(patient: World) -> None:
    # Callers repeat a request when a connection is closed that they have used before, but not on a new one.
    async with connected(patient) as (reader, writer), stopping(patient):
        writer.write(PING)
        received = await reader.read()
    assert received.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in received.lower()
    assert received.endswith(b"PONG.")


async def test_a_new_connection_without_a_request_does_not_hold_the_stop(
    patient: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.2)
    async with connected(patient) as (reader, _), stopping(patient) as stop:
        assert await reader.read() == b""
        await stop


async def test_a_used_connection_is_closed_at_once(patient: World) -> None:
    async with connected(patient) as (reader, writer):
        writer.write(PING)
        await reader.readuntil(b"PONG.")
        async with stopping(patient) as stop:
            await stop
            assert await reader.read() == b""


async def large_response(world: World) -> tuple[socket.socket, bytes, bytes]:
    """Request a large stored result, and read only its beginning; the socket, what was read, and the whole body."""
    query = world.sandbox.add_query("huge", HUGE)
    await world.rows(query, max_age=86400)
    whole = (await world.post(query, max_age=86400)).body
    assert len(whole) > 10_000_000
    body = b'{"max_age": 86400}'
    head = (
        f"POST /api/queries/{query}/results HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: Key {TOKENS['dashboard']}\r\n\r\n"
    )
    slow = await requested(world.url, head.encode() + body)
    return slow, await asyncio.get_running_loop().sock_recv(slow, 1000), whole


def is_free(store: Path) -> bool:
    """Whether another process could take the store over."""
    lock = FileLock(store.with_name(store.name + ".lock"))
    free = lock.acquire()
    lock.release()
    return free


async def test_a_slow_reader_holds_neither_the_store_nor_is_it_cut_off(patient: World) -> None:
    # The next process accepts connections when it has the store: one slow reader must not make all others wait.
    slow, received, whole = await large_response(patient)
    with slow:
        async with stopping(patient) as stop:
            await until(lambda: is_free(patient.directory / "gateway.db"))
            assert not stop.done()
            received += await rest_of(slow)
    assert received.partition(b"\r\n\r\n")[2] == whole


async def test_a_slow_reader_is_cut_off_when_the_stop_is_hurried(patient: World) -> None:
    slow, _, _ = await large_response(patient)
    with slow:
        async with stopping(patient) as stop:
            await until(lambda: is_free(patient.directory / "gateway.db"))
            patient.runtime.hurry()
            await stop


async def test_a_request_that_redash_has_still_to_answer_holds_the_store(patient: World) -> None:
    # Its run must be in the ledger before the next process reads that.
    fault = patient.sandbox.faults.add("hang", route="/api/queries/<query_id>")
    request = asyncio.create_task(patient.post("slow_seconds", max_age=0, parameters={"seconds": 0}))
    await patient.sandbox.wait_until(lambda: patient.sandbox.counters.by_route["GET /api/queries/<query_id>"] > 0)
    async with patient.sandbox.hold():
        async with stopping(patient) as stop:
            assert not is_free(patient.directory / "gateway.db")
            assert not stop.done()
            fault.clear()
            job = (await request).job
        await patient.session.close()
        await patient.resume()
    assert (await patient.finish(job["id"]))["status"] == 3
    assert patient.started == 1


async def test_a_request_after_the_last_one_that_is_served_gets_no_response(
    patient: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The store is no longer there. Its caller has used this connection before, and sends the request again.
    slow, _, _ = await large_response(patient)
    with slow:
        async with stopping(patient) as stop:
            await until(lambda: is_free(patient.directory / "gateway.db"))
            await asyncio.get_running_loop().sock_sendall(slow, PING)
            received = await rest_of(slow)
            await stop
    assert received.count(b"HTTP/1.1 ") == 0


async def test_a_form_that_waits_is_redirected_once_to_the_next_process(patient: World) -> None:
    # On the same connection it would be redirected by this process again and again, eight times in some milliseconds.
    path = f"/api/queries/{patient.named['slow_seconds']}/results.json?p_seconds=0&max_age=60"
    async with patient.sandbox.hold(), connected(patient) as (reader, writer):
        fields = f"Host: localhost\r\nAuthorization: Key {TOKENS['dashboard']}"
        writer.write(f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        await patient.sandbox.wait_executions(1)
        await until(lambda: sum(one.waiters for one in patient.runtime.executions.flights.running) > 0)
        async with stopping(patient):
            received = await reader.read()
    assert received.startswith(b"HTTP/1.1 307")
    assert b"connection: close" in received.lower()


async def test_nobody_is_sent_away_before_the_port_is_closed(patient: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who comes again at once on a new connection would still reach this process, and be redirected again and again.
    listeners, flights = patient.runtime.listeners, patient.runtime.executions.flights
    close, seen = listeners.stop_accepting, list[bool]()

    async def stop_accepting(name: str) -> None:
        seen.append(flights.draining)
        await close(name)
        seen.append(flights.draining)

    monkeypatch.setattr(listeners, "stop_accepting", stop_accepting)
    async with stopping(patient):
        pass
    assert seen[:2] == [False, False]
    assert flights.draining
