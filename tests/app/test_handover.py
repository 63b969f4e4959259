"""The process that follows another: it has its sockets and its runs, and nobody else gets them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.calls import TOKENS
from support.kept import KeptCaller
from support.process import Process
from support.world import configuration, token_table

from gateway import config
from gateway.app.handover import Handover
from gateway.sandbox import Sandbox

STORE = "sqlite:/srv/gateway.db"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Addressed:
    """A configuration with addresses of its own, and the processes that were started with it."""

    def __init__(self, directory: Path, sandbox: Sandbox, api: str) -> None:
        self.directory, self.sandbox, self.api = directory, sandbox, api
        self.admin = f"127.0.0.1:{free_port()}"
        self.processes: list[Process] = []

    async def start(self, store: str = "sqlite:gateway.db") -> Process:
        text = configuration(self.sandbox, store, {})
        for address in (self.api, self.admin):
            text = text.replace('listen = "127.0.0.1:0"', f'listen = "{address}"', 1)
        path = self.directory / "config.toml"
        path.write_text(text)
        env = token_table(self.sandbox)
        process = await Process.start("serve", "-c", str(path), cwd=self.directory, env=env)
        self.processes.append(process)
        return process

    def caller(self) -> KeptCaller:
        return KeptCaller(f"http://{self.api}", TOKENS["dashboard"], keeps=False)

    async def metrics(self) -> str:
        reply = await KeptCaller(f"http://{self.admin}", "", keeps=False).call("GET", "/metrics")
        return reply.body.decode()


@pytest.fixture
async def addressed(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Addressed]:
    made = Addressed(tmp_path, sandbox, f"127.0.0.1:{free_port()}")
    yield made
    for process in made.processes:
        await process.kill()


async def stopped(process: Process) -> None:
    process.child.send_signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert "Traceback" not in process.text


async def test_the_next_process_follows_the_runs_of_the_one_that_it_waited_for(addressed: Addressed) -> None:
    sandbox = addressed.sandbox
    query = f"/api/queries/{sandbox.named['slow_seconds']}"
    first = await addressed.start()
    await first.serving()
    second = await addressed.start()
    await second.says("waiting until it has stopped")
    async with sandbox.hold():  # the second one is up already when the run begins
        caller = addressed.caller()
        job = (await caller.call("POST", f"{query}/results", {"max_age": 0, "parameters": {"seconds": 0}})).job
        held = asyncio.create_task(addressed.caller().call("GET", f"/api/jobs/{job['id']}", wait=20))
        form = asyncio.create_task(addressed.caller().call("GET", f"{query}/results.csv?p_seconds=0&max_age=60"))
        while "redash_gateway_execution_waiters 2.0" not in await addressed.metrics():  # noqa: ASYNC110 - of a process
            await asyncio.sleep(0.01)
        await stopped(first)
        job = (await held).job
        assert job["status"] in (1, 2)
        location = (await form).headers["Location"]
        await second.serving()
        waiting = asyncio.create_task(caller.call("GET", f"/api/jobs/{job['id']}", wait=20))
        redirected = asyncio.create_task(addressed.caller().call("GET", f"{query}/{location}"))
        await asyncio.wait({waiting}, timeout=0.1)
    job = (await waiting).job
    assert (job["status"], job["error"]) == (3, "")
    assert (await caller.call("GET", f"{query}/results/{job['query_result_id']}.json")).rows
    assert (await redirected).body.startswith(b"slept,orders\r\n")
    assert (sandbox.counters.started, sandbox.counters.posts[sandbox.named["slow_seconds"]]) == (1, 1)
    await stopped(second)


async def test_connections_that_come_between_two_processes_are_served_by_the_next(addressed: Addressed) -> None:
    sandbox = addressed.sandbox
    first = await addressed.start()
    await first.serving()
    second = await addressed.start()
    await second.says("waiting until it has stopped")
    fault = sandbox.faults.add("hang", route="/api/queries")
    slow = asyncio.create_task(addressed.caller().call("GET", "/api/queries"))  # holds the first one
    await sandbox.wait_until(lambda: sandbox.counters.by_route["GET /api/queries"] == 1)
    first.child.send_signal(signal.SIGTERM)
    host, _, port = addressed.admin.partition(":")
    while True:  # the admin listener is open until the store is given away, and says that the rest is not
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        if b" 503 " in await reader.readline():
            break
        writer.close()
    writer.close()
    between = [asyncio.create_task(addressed.caller().call("GET", "/ping"))]
    while (await asyncio.wait(between[-1:], timeout=0.3))[0]:  # the first one may just have served it
        between.append(asyncio.create_task(addressed.caller().call("GET", "/ping")))
    fault.clear()
    assert (await slow).json["results"]
    assert {(await one).body for one in between} == {b"PONG."}
    await second.serving()
    assert await first.ended() == 0
    await stopped(second)


@pytest.mark.parametrize("store", ["sqlite:another.db", "memory:"])
async def test_a_process_with_another_store_does_not_get_the_sockets(addressed: Addressed, store: str) -> None:
    # It would not wait for the store, and both would accept: callers would ask the wrong one for their jobs.
    first = await addressed.start()
    await first.serving()
    second = await addressed.start(store)
    assert await second.ended() == 1
    assert "in use" in second.text
    assert (await addressed.caller().call("GET", "/ping")).body == b"PONG."


async def test_a_unix_socket_is_handed_over_too(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "api.sock"
    addressed = Addressed(tmp_path, sandbox, f"unix:{path}")
    try:
        first = await addressed.start()
        await first.says(r"serves unix:")
        second = await addressed.start()
        await second.says("waiting until it has stopped")
        await stopped(first)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /ping HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert (await reader.read()).endswith(b"PONG.")
        writer.close()
        await stopped(second)
    finally:
        for process in addressed.processes:
            await process.kill()


async def test_a_process_that_waits_stops_on_a_signal_and_harms_nobody(addressed: Addressed) -> None:
    first = await addressed.start()
    await first.serving()
    second = await addressed.start()
    await second.says("waiting until it has stopped")
    await stopped(second)
    assert (await addressed.caller().call("GET", "/ping")).body == b"PONG."
    await stopped(first)


@contextlib.asynccontextmanager
async def offered(where: config.Listen) -> AsyncIterator[socket.socket]:
    handover = Handover(STORE)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        handover.offer(where, [listening])
        try:
            yield listening
        finally:
            handover.withdraw(where)


WHERE = config.Listen(host="127.0.0.1", port=8080)


async def test_only_the_same_address_and_store_get_a_socket() -> None:
    async with offered(WHERE) as listening:
        (taken,) = await Handover(STORE).take(WHERE)
        with taken:
            assert taken.getsockname() == listening.getsockname()
        assert await Handover("sqlite:/srv/other.db").take(WHERE) == []
        assert await Handover(STORE).take(config.Listen(host="127.0.0.1", port=8081)) == []
    assert await Handover(STORE).take(WHERE) == []


async def test_another_user_neither_gets_a_socket_nor_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # Names in the abstract namespace have no owner: whoever came first would get the tokens of all callers.
    async with offered(WHERE):
        users = iter([os.geteuid(), os.geteuid() + 1])  # the one that takes asks first whom it has met
        monkeypatch.setattr(os, "geteuid", lambda: next(users))
        assert await Handover(STORE).take(WHERE) == []
        assert next(users, None) is None, "the one that offers has looked, too"
        monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 2)
        assert await Handover(STORE).take(WHERE) == []


async def test_a_name_that_is_taken_does_not_keep_the_gateway_from_serving(caplog: pytest.LogCaptureFixture) -> None:
    async with offered(WHERE):
        second = Handover(STORE)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            second.offer(WHERE, [listening])
        second.withdraw(WHERE)
    assert "no other process will be able to take over this socket" in caplog.text
