"""One process follows another while callers go on: none of them may notice, except by a short wait."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import TOKENS
from support.http import Reply
from support.kept import KeptCaller
from support.process import Process, certificate
from support.waiting import until, within
from support.world import configuration, token_table

from gateway.sandbox import Sandbox

RESTARTS = 10

Start = Callable[[], Awaitable[Process]]


class Load:
    """Constant load by callers of all kinds; each checks what it gets."""

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        self.url, self.named = url, sandbox.named
        self.done = dict.fromkeys(self._kinds(), 0)
        self.held = 0  # GET forms in progress
        self.failed: list[str] = []
        self.repeated = 0
        self.longest_ping = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def _kinds(self) -> dict[str, Callable[[KeptCaller], Awaitable[None]]]:
        return {
            "hit": self._hit,
            "ping": self._ping,
            "GET form": self._form,
            "polls": self._polls,
            "waits": self._waits,
            "list": self._list,
        }

    def start(self) -> None:
        for (name, act), keeps in itertools.product(self._kinds().items(), (True, False)):
            self._tasks.append(asyncio.create_task(self._repeat(name, act, keeps=keeps)))

    async def stop(self) -> None:
        self._stopping = True
        async with within(60):
            await asyncio.gather(*self._tasks)

    async def progress(self) -> None:
        """Wait until callers of each kind have been served once more."""
        before = dict(self.done)
        await until(lambda: all(self.done[kind] > count for kind, count in before.items()), timeout=60)

    async def _repeat(self, name: str, act: Callable[[KeptCaller], Awaitable[None]], *, keeps: bool) -> None:
        caller = KeptCaller(self.url, TOKENS["dashboard"], keeps=keeps)
        while not self._stopping:
            try:
                await act(caller)
            except (OSError, EOFError, AssertionError) as error:
                self.failed.append(f"{name}, kept={keeps}: {error!r}")
                caller.close()
            self.done[name] += 1
            await asyncio.sleep(0.005)
        self.repeated += caller.repeated
        caller.close()

    async def _hit(self, caller: KeptCaller) -> None:
        reply = await caller.call("POST", f"/api/queries/{self.named['by_country']}/results", {"max_age": 86400})
        if reply.body.startswith(b'{"job"'):  # the first one
            reply = await self._result(caller, reply)
        check(reply, reply.status == 200 and len(reply.rows) > 1)

    async def _ping(self, caller: KeptCaller) -> None:
        began = asyncio.get_running_loop().time()
        reply = await caller.call("GET", "/ping")
        self.longest_ping = max(self.longest_ping, asyncio.get_running_loop().time() - began)
        check(reply, reply.status == 200 and reply.body == b"PONG.")

    async def _list(self, caller: KeptCaller) -> None:
        reply = await caller.call("GET", "/api/queries")
        check(reply, reply.status == 200 and bool(reply.json["results"]))

    async def _form(self, caller: KeptCaller) -> None:
        path = f"/api/queries/{self.named['slow_seconds']}/results.json?p_seconds=0.4&max_age=0"
        self.held += 1
        try:
            reply = await caller.call("GET", path)
            for _ in range(8):
                if reply.status != 307:
                    break
                path = path.rpartition("/")[0] + "/" + reply.headers["Location"]
                reply = await caller.call("GET", path)
        finally:
            self.held -= 1
        check(reply, reply.status == 200 and len(reply.rows) == 1)

    async def _polls(self, caller: KeptCaller) -> None:
        body = {"max_age": 0, "parameters": {"seconds": 0.3}}
        reply = await caller.call("POST", f"/api/queries/{self.named['slow_seconds']}/results", body)
        await self._result(caller, reply)

    async def _waits(self, caller: KeptCaller) -> None:
        body = {"max_age": 0, "parameters": {"seconds": 0.5}}
        reply = await caller.call("POST", f"/api/queries/{self.named['slow_seconds']}/results", body, wait=20)
        if reply.body.startswith(b'{"job"'):
            reply = await self._result(caller, reply, wait=20)
        check(reply, reply.status == 200 and len(reply.rows) == 1)

    async def _result(self, caller: KeptCaller, reply: Reply, wait: int | None = None) -> Reply:
        check(reply, reply.status == 200)
        job: dict[str, Any] = reply.job
        while job["status"] in (1, 2):
            await asyncio.sleep(0.02)
            reply = await caller.call("GET", f"/api/jobs/{job['id']}", wait=wait)
            check(reply, reply.status == 200)
            job = reply.job
        check(reply, job["status"] == 3)
        reply = await caller.call("GET", f"/api/query_results/{job['query_result_id']}")
        check(reply, reply.status == 200 and bool(reply.rows))
        return reply


def check(reply: Reply, good: bool) -> None:
    assert good, f"{reply.status} {reply.body[:300]!r}"


KINDS = ("asyncio", "uvloop", "uvloop, TLS")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Event loop and transport: each has its own way to accept, and to close."""
    return str(request.param)


@pytest.fixture
def served(
    tmp_path: Path, sandbox: Sandbox, kind: str, needs: Callable[[str], str]
) -> Iterator[tuple[Path, str, list[socket.socket]]]:
    """A configuration with addresses of its own, the URL, and sockets that hold them."""
    loop, _, tls = kind.partition(", ")
    server = f'max_wait = "10s"\nevent_loop = "{loop}"\n'
    if tls:
        needs("openssl")
        cert, key = certificate(tmp_path, "gateway")
        server += f'tls_cert = "{cert}"\ntls_key = "{key}"\n'
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(2)]
    api, admin = (f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
    text = configuration(sandbox, "sqlite:gateway.db", {"server": server})
    text = text.replace('listen = "127.0.0.1:0"', f'listen = "{api}"', 1)
    text = text.replace('listen = "127.0.0.1:0"', f'listen = "{admin}"', 1)
    text = text.replace('drain_timeout = "2s"', 'drain_timeout = "20s"')
    path = tmp_path / "config.toml"
    path.write_text(text)
    yield path, f"http{'s' if tls else ''}://{api}", sockets
    for one in sockets:
        one.close()


@contextlib.asynccontextmanager
async def started(path: Path, sandbox: Sandbox, *sockets: socket.socket) -> AsyncIterator[Start]:
    """Start `serve`, with these sockets as systemd passes them; all processes are killed at the end."""
    processes: list[Process] = []
    env = token_table(sandbox) | ({"LISTEN_FDNAMES": "api:admin"} if sockets else {})

    async def start() -> Process:
        numbers = [one.fileno() for one in sockets]
        process = await Process.start("serve", "-c", str(path), cwd=path.parent, env=env, sockets=numbers)
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            await process.kill()


async def stop(process: Process) -> None:
    process.child.send_signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert "Traceback" not in process.text


async def restart_with_systemd(old: Process, start: Start) -> Process:
    """As `systemctl restart`: the sockets stay with systemd, and connections queue."""
    await stop(old)
    new = await start()
    await new.serving()
    return new


async def restart_with_a_second_process(old: Process, start: Start) -> Process:
    """The next one waits for the store before the first is told to stop."""
    new = await start()
    await new.says("waiting until it has stopped")
    await stop(old)
    await new.serving()
    return new


@pytest.mark.long
@pytest.mark.parametrize("restart", [restart_with_systemd, restart_with_a_second_process])
async def test_no_request_fails_in_ten_rolling_restarts(
    served: tuple[Path, str, list[socket.socket]],
    sandbox: Sandbox,
    note: Callable[[str], None],
    kind: str,
    restart: Callable[[Process, Start], Awaitable[Process]],
) -> None:
    path, url, sockets = served
    if restart is restart_with_a_second_process:
        while sockets:
            sockets.pop().close()
    async with started(path, sandbox, *sockets) as start:
        process = await start()
        await process.serving()
        load = Load(url, sandbox)
        load.start()
        held = 0
        for _ in range(RESTARTS):
            await load.progress()
            await until(lambda: load.held > 0)
            held += load.held
            process = await restart(process, start)
        await load.progress()
        await load.stop()
        await stop(process)
    assert load.failed == []
    assert held >= RESTARTS
    total = sum(load.done.values())
    calls = f"{total} calls, {load.repeated} repeated on kept connections, longest /ping {load.longest_ping:.2f} s"
    note(f"{restart.__name__}, {kind}: {RESTARTS} restarts, {calls}")
