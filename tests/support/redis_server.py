"""A real redis-server in a process of its own, to be stopped, paused, emptied and failed over, and a network before it
that can be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from support.waiting import within

_NETWORK: Final = Path(__file__).with_name("network.py")
_SHORTLY: Final = 10.0
_STARTS: Final = 5
_MASTER: Final = "gateways"
"""The name under which Sentinel knows the master."""

Answer = str | int | list[Any] | None


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Child:
    """A process that listens on a port of the loopback, without a file that outlives it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = 0
        self._child: asyncio.subprocess.Process | None = None

    def command(self) -> list[str]:
        """The command that starts it on `self.port`."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it, after a stop on the same port, and wait until it accepts connections."""
        for _ in range(_STARTS):  # another process may have taken the port since it was free
            self.port = self.port or free_port()
            with (self.directory / f"{self.port}.log").open("ab") as log:
                self._child = await asyncio.create_subprocess_exec(
                    *self.command(), cwd=self.directory, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
                )
            if await self._accepts():
                return
        raise AssertionError((self.directory / f"{self.port}.log").read_text())

    async def _accepts(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with within(_SHORTLY):
                while self._child is not None and self._child.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                        writer.close()
                        return True
                    await asyncio.sleep(0.01)
        await self.kill()
        self.port = 0
        return False

    async def ask(self, *words: str) -> Answer:
        """Send a command of plain words, and return its reply. Raises TimeoutError."""
        return await ask(self.port, *words)

    async def kill(self) -> None:
        """SIGKILL: what it knew is gone, its connections are closed."""
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and stay open, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: whatever was sent in between is served now."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(number)


class RedisServer(Child):
    """`redis-server` without persistence, so that a restart is empty."""

    def __init__(self, directory: Path, *settings: str) -> None:
        """`settings` are further arguments, such as `"--replicaof", "127.0.0.1 7001"`."""
        super().__init__(directory)
        self._settings = settings

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def let_leases_run_out(self) -> None:
        """Remove them, as when their time is over."""
        for key in await self.ask("KEYS", "*:l:*"):  # type: ignore[union-attr]
            await self.ask("DEL", str(key))

    def command(self) -> list[str]:
        fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        fixed += ["--repl-diskless-sync-delay", "0", "--dir", str(self.directory)]
        return ["redis-server", "--port", str(self.port), *fixed, *self._settings]


@contextlib.asynccontextmanager
async def server(directory: Path, *settings: str) -> AsyncIterator[RedisServer]:
    """One that runs until the block ends."""
    made = RedisServer(directory / "redis", *settings)
    await made.start()
    try:
        yield made
    finally:
        await made.kill()


class Sentinel(Child):
    """`redis-server --sentinel`, alone: it decides by itself, and soon."""

    def __init__(self, directory: Path, master: RedisServer, *, patience: float) -> None:
        """`patience`: after so many seconds without a reply the master is taken to be down."""
        super().__init__(directory)
        self._master = master
        self._patience = patience

    @property
    def url(self) -> str:
        """How the gateway is given it."""
        return f"redis+sentinel://127.0.0.1:{self.port}/{_MASTER}/0"

    def command(self) -> list[str]:
        path = self.directory / "sentinel.conf"
        path.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {_MASTER} 127.0.0.1 {self._master.port} 1\n"
            f"sentinel down-after-milliseconds {_MASTER} {round(self._patience * 1000)}\n"
            f"sentinel failover-timeout {_MASTER} 5000\n"
        )
        return ["redis-server", str(path), "--sentinel"]

    async def master_port(self) -> int:
        """Where it says that the master is."""
        found = await self.ask("SENTINEL", "get-master-addr-by-name", _MASTER)
        assert isinstance(found, list)
        return int(str(found[1]))


async def ask(port: int, *words: str) -> Answer:
    """Send a command of plain words to what listens on this port, and return its reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with within(_SHORTLY):
            writer.write(f"{' '.join(words)}\r\n".encode())
            return await _reply(reader)
    finally:
        writer.close()


async def _reply(reader: asyncio.StreamReader) -> Answer:
    """Read one reply (RESP 2)."""
    line = (await reader.readuntil(b"\r\n")).decode().rstrip()
    kind, text = line[:1], line[1:]
    if kind in "+-":
        return text
    if kind == ":":
        return int(text)
    if int(text) < 0:
        return None
    if kind == "*":
        return [await _reply(reader) for _ in range(int(text))]
    return (await reader.readexactly(int(text) + 2))[:-2].decode(errors="replace")


class Network(Child):
    """What lies between one gateway and Redis: a process that passes bytes on, so that it can be cut.

    It is a process of its own, because a busy test would delay what passes. `pause` cuts silently: connections stay
    open, and what was sent arrives late, when it is mended by `resume`. `kill` resets all connections, and new ones are
    refused until `start`.
    """

    def __init__(self, directory: Path, target: RedisServer) -> None:
        super().__init__(directory)
        self._target = target

    def command(self) -> list[str]:
        return [sys.executable, str(_NETWORK), str(self.port), str(self._target.port)]
