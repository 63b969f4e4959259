"""Redash, the fault proxy before it, and a gateway in a process of its own that is killed, restarted and reloaded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from support.calls import AS_OPERATOR
from support.fault_proxy import FaultProxy
from support.process import Process
from support.world import token_table

from bench.soak.edits import Edits
from bench.soak.journal import Journal
from bench.soak.queries import Queries
from bench.soak.settings import DEFINITION_CHECK_SECONDS, text
from gateway.sandbox import Sandbox

_WORKERS = 8
_START_SECONDS = 60.0
_MAIN = """
import asyncio, signal, sys
from gateway.cli import main

def report(*_):
    global count
    count += 1
    print(f"report {count}: {len(asyncio.all_tasks())} tasks", file=sys.stderr, flush=True)

count = 0
signal.signal(signal.SIGUSR1, report)
sys.exit(main(sys.argv[1:]))
"""
"""The command, which also reports how many tasks it has when it gets SIGUSR1."""


class Stage:
    """Everything that runs. `begun` and `killed` are moments of the monotonic clock."""

    def __init__(self, directory: Path, sandbox: Sandbox, proxy: FaultProxy, journal: Journal, reset: str) -> None:
        """`reset` is `upstream.breaker_reset`."""
        self.directory = directory
        self._reset = reset
        self.sandbox, self.proxy, self.journal = sandbox, proxy, journal
        self.queries = Queries(sandbox)
        self.sockets = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(2)]
        self.url, self.admin = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in self.sockets)
        self.process: Process
        self.killed: list[float] = []
        self._is_back = True
        self.begun = 0.0
        self.visitor: bool | None = True
        """Whether the visitor's token is in force; None while that changes."""
        self.edits = Edits(DEFINITION_CHECK_SECONDS)
        self.weather_until = 0.0
        """Until when faults may have affected responses; `inf` while there are any."""
        self.dropped = 0.0
        """The last moment of a purge or an edit: what only the store has is gone. `inf` while there is one."""
        self._reports = 0

    @property
    def store(self) -> Path:
        """The directory of the store."""
        return self.directory / "store"

    # -- the process

    async def start(self, *, with_sockets: bool = True) -> None:
        """Start a gateway and wait until it serves, with the sockets as systemd passes them."""
        self.process = await self._launch(with_sockets=with_sockets)
        await self._serving()

    async def _launch(self, *, with_sockets: bool) -> Process:
        return await Process.start(
            "serve",
            "-c",
            str(self.directory / "config.toml"),
            cwd=self.directory,
            env=token_table(self.sandbox) | ({"LISTEN_FDNAMES": "api:admin"} if with_sockets else {}),
            sockets=[one.fileno() for one in self.sockets] if with_sockets else [],
            program=("-c", _MAIN),
        )

    async def _serving(self) -> None:
        await self.process.says(r"serves [\w.:]+, admin on", timeout=_START_SECONDS)
        self.begun, self._reports = time.monotonic(), 0

    async def kill(self, *, again_after: float | None = None) -> None:
        """Kill -9 and start the next one at once; that one is killed, too, after `again_after` seconds."""
        self._is_back = False
        self.killed.append(time.monotonic())
        await self._kill()
        if again_after is not None:
            self.process = await self._launch(with_sockets=True)
            await asyncio.sleep(again_after)
            self.killed.append(time.monotonic())
            await self._kill()
            self.journal.figures["killed while starting"] += 1
        await self.start()
        self.killed.append(time.monotonic())
        self._is_back = True
        self.edits.killed(weather=self.had_weather_since(self.killed[-1]))
        self.journal.figures["kills"] += 1

    async def _kill(self) -> None:
        await self.process.kill()
        self._look_through_log()

    async def restart(self) -> None:
        """As `systemctl restart`: connections queue in the sockets between two processes."""
        await self.stop()
        await self.start()
        self.journal.figures["restarts with passed sockets"] += 1

    async def follow(self) -> None:
        """Start a second process, which takes the sockets over, and stop the first."""
        new = await self._launch(with_sockets=False)
        try:
            await new.says("waiting until it has stopped", timeout=_START_SECONDS)
        finally:
            await self.stop()
            self.process = new
        await self._serving()
        self.journal.figures["restarts with a second process"] += 1

    async def stop(self) -> None:
        """SIGTERM; it must end well."""
        self.process.child.send_signal(signal.SIGTERM)
        status = await self.process.ended(timeout=_START_SECONDS)
        if status:
            self.journal.find("no error in the log", f"exit status {status}: {self.process.text[-2000:]}")
        self._look_through_log()

    def _look_through_log(self) -> None:
        for line in self.process.lines:
            if "Traceback" in line or " ERROR " in line:
                at = self.process.lines.index(line)
                self.journal.find("no error in the log", "\n".join(self.process.lines[at - 1 : at + 30]))
                break
        for mark in ("a stored body", "is renamed to", "cannot hold"):
            if lines := [line for line in self.process.lines if mark in line]:
                self.journal.find("no corrupt entry", lines[0])
        for name, value in token_table(self.sandbox).items():
            if value in self.process.text:
                self.journal.find("no error in the log", f"it contains {name}")

    async def tasks(self) -> int:
        """How many tasks the process has."""
        self._reports += 1
        self.process.child.send_signal(signal.SIGUSR1)
        found = await self.process.says(rf"report {self._reports}: (\d+) tasks", timeout=_START_SECONDS)
        return int(found[1])

    def was_killed_since(self, moment: float) -> bool:
        """Whether a process was killed since then, or was not yet back."""
        return not self._is_back or any(killed >= moment for killed in self.killed)

    # -- what happens to it

    def write(self, *, visitor: bool) -> None:
        """Write the configuration."""
        ids = self.queries.ids
        written = text(self.url[7:], self.admin[7:], self.proxy.url, ids["stamp"], visitor=visitor, reset=self._reset)
        (self.directory / "config.toml").write_text(written)

    async def reload(self) -> None:
        """Let the visitor in, or shut it out."""
        wanted, self.visitor = not self.visitor, None
        self.write(visitor=wanted)
        if not await self.operate("/reload", {}):
            self.journal.find("tokens as the last reload has them", "the reload failed")
        self.visitor = wanted
        self.journal.figures["reloads"] += 1

    @contextlib.contextmanager
    def dropping(self) -> Iterator[None]:
        """Stored results of a query are dropped meanwhile."""
        self.dropped = float("inf")
        try:
            yield
        finally:
            self.dropped = time.monotonic()

    async def operate(self, path: str, body: dict[str, Any]) -> bool:
        """POST to the admin listener; returns whether it was done."""
        timeout = aiohttp.ClientTimeout(total=_START_SECONDS)
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self.admin + path, json=body, headers=AS_OPERATOR) as response,
            ):
                return response.status == 200
        return False

    async def levels(self) -> dict[str, float]:
        """Scrape the metrics, without labels: the sum of each."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin}/metrics") as response:
            lines = (await response.text()).splitlines()
        sums: dict[str, float] = {}
        for line in lines:
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0].removeprefix("redash_gateway_")
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    async def status(self) -> dict[str, Any]:
        """Return the numbers of the console."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin}/api/status") as response:
            found: dict[str, Any] = json.loads(await response.read())
        return found

    # -- weather

    def begin_weather(self) -> None:
        """Responses may break from now on."""
        self.weather_until = float("inf")

    def end_weather(self) -> None:
        """Redash and the network work again; what is on its way may still break off."""
        self.proxy.clear()
        self.sandbox.faults.clear()
        self.weather_until = time.monotonic()
        self.edits.calm()

    def weather_ended_since(self, moment: float) -> bool:
        """Whether Redash has come to work again since then."""
        return moment <= self.weather_until < float("inf")

    def had_weather_since(self, moment: float) -> bool:
        """Whether a request that was sent then may have met a fault."""
        return self.weather_until >= moment


@asynccontextmanager
async def stage(directory: Path, journal: Journal, seed: int, reset: str) -> AsyncIterator[Stage]:
    """Build everything and start it; at the end nothing runs any more."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(workers=_WORKERS))
        proxy = await stack.enter_async_context(FaultProxy(sandbox.url, seed))
        made = Stage(directory, sandbox, proxy, journal, reset)
        for one in made.sockets:
            stack.callback(one.close)
        made.store.mkdir()
        made.write(visitor=True)
        stack.push_async_callback(_end, made)
        await made.start()
        yield made


async def _end(made: Stage) -> None:
    if hasattr(made, "process"):
        await made.process.kill()
