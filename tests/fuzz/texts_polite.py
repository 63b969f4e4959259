"""The polite caller, in a process of its own: it asks for /ping, /livez and one cached result all the time.

A bare server in another process is asked in the same rhythm, to tell a slow gateway from a busy machine. Prints one
line of JSON for each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from .texts_connection import BrokenOffError, Connection

EVERY_SECONDS: Final = 0.07


Times = dict[str, tuple[float, float]]
"""Seconds on a CPU and seconds of waiting for one, by thread."""


class Load:
    """What the gateway has used, and for how long its threads, this process or the whole machine had no CPU."""

    def __init__(self, pid: int) -> None:
        self._loop = str(pid)
        self._tasks = Path(f"/proc/{pid}/task")
        self._before = self._read()

    def begin(self) -> None:
        """Begin to measure."""
        self._before = self._read()

    def used(self) -> tuple[float, float, float]:
        """Return the CPU time of all threads since then, that of the event loop's, and the time without a CPU."""
        before, none = self._before, (0.0, 0.0)
        used = {
            task: (ran - before.get(task, none)[0], idle - before.get(task, none)[1])
            for task, (ran, idle) in self._read().items()
        }
        longest = max((idle for task, (_, idle) in used.items() if task.isdecimal()), default=0.0)
        lost = longest + used["caller"][1] + used["machine"][1]
        return sum(ran for ran, _ in used.values()), used.get(self._loop, none)[0], lost

    def _read(self) -> Times:
        found = {"caller": (0.0, _schedule(Path("/proc/self"))[1]), "machine": (0.0, _stolen())}
        for task in os.listdir(self._tasks):
            with contextlib.suppress(OSError, ValueError):
                found[task] = _schedule(self._tasks / task)
        return found


def _schedule(task: Path) -> tuple[float, float]:
    ran, waited, _ = (task / "schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


def _stolen() -> float:
    """Return for how many seconds the host gave this machine's CPUs to others."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


class Asked:
    """One URL that is asked again and again on its own connection."""

    def __init__(self, name: str, url: str, head: str) -> None:
        self.name, self._url, self._head = name, url, head.encode()
        self._connection: Connection | None = None
        self.count = self.failed = 0

    async def ask(self) -> tuple[float, float, bool]:
        """Return begin and end (monotonic), and whether the time says something: not where a result was not cached."""
        began = time.monotonic()
        try:
            if self._connection is None:
                self._connection = await Connection.open(self._url)
            await self._connection.send(self._head)
            async with asyncio.timeout(60):
                response = await self._connection.response(head=False)
        except (BrokenOffError, TimeoutError, OSError):
            self._connection, self.failed = None, self.failed + 1
            return began, time.monotonic(), False
        self.count += 1
        cached = response.fields.get("cache-status")
        told = response.status == 200 and (cached is None or "; hit" in cached)
        return began, time.monotonic(), told


async def measured(one: Asked, load: Load) -> tuple[str, tuple[float, ...]]:
    """Ask for one; returns its name and the values of a `Ping`, () where the time says nothing."""
    began, ended, told = await one.ask()
    return one.name, (ended - began, began, ended, *load.used()) if told else ()


async def ask_all(pid: int, asked: list[Asked]) -> None:
    """Ask all at once, again and again; print every second what was slowest."""
    load = Load(pid)
    while True:
        end = time.monotonic() + 1.0
        slowest: dict[str, tuple[float, ...]] = {}
        while time.monotonic() < end:
            due = time.monotonic() + EVERY_SECONDS
            load.begin()
            for name, times in await asyncio.gather(*(measured(one, load) for one in asked)):
                if times and times[0] > slowest.get(name, (0.0,))[0]:
                    slowest[name] = times
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        counts = {one.name: one.count for one in asked} | {f"{one.name} failed": one.failed for one in asked}
        print(json.dumps({"slowest": slowest, "count": counts}), flush=True)


async def bare_server() -> None:
    """Respond to everything at once: the time that this takes, the machine takes."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nPONG.")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        print(f"serves 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        asyncio.run(bare_server())
    else:
        given = json.loads(Path(sys.argv[1]).read_text())
        asyncio.run(ask_all(given["pid"], [Asked(*one) for one in given["asked"]]))
