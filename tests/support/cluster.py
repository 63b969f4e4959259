"""Several gateways, each in a process of its own as an operator starts it, that share one Redis and one sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from gateway.sandbox import Sandbox
from support.calls import AS_OPERATOR, Calls
from support.http import Reply, send
from support.process import Process
from support.waiting import until
from support.world import SECRETS, configuration, token_table

NAMES: Final = ("one", "two", "three")
JOINS_AGAIN: Final = 20.0
"""Seconds in which a gateway has to notice that Redis is gone or back; much more than it takes on a quiet machine."""


class Gateway(Calls):
    """One of several gateways. Its URLs change with each start."""

    def __init__(self, name: str, directory: Path, sandbox: Sandbox, store: str, tables: dict[str, str]) -> None:
        """`store` is Redis as this gateway sees it; `tables` are lines for tables of the configuration."""
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.named = sandbox.named
        self.store = store
        self.process: Process
        self.tree: Path | None = None
        """Where the program comes from, if it is not the one under test."""
        self.without: tuple[str, ...] = ()
        """Clients that it does not know."""
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._directory = directory
        self._sandbox = sandbox
        self._tables = tables
        self._addresses = ("", "")

    @property
    def url(self) -> str:
        return self._addresses[0]

    @property
    def admin(self) -> str:
        return self._addresses[1]

    @property
    def pid(self) -> int:
        return self.process.child.pid

    def configure(self) -> None:
        """Write the configuration. It is in force after a start or a reload."""
        text = configuration(self._sandbox, self.store, self._tables)
        parts = text.split("\n[")
        kept = [part for part in parts if not any(part.startswith(f"clients.{client}]") for client in self.without)]
        more = self._tables.get("redis", "")
        path = self._directory / "config.toml"
        shared = f'\n[redis]\nname = "{self.name}"\n{more}\n' if self.store.startswith("redis") else ""
        path.write_text("\n[".join(kept) + shared)

    async def start(self) -> None:
        """Start it and wait until it serves and has Redis."""
        await self.launch()
        await self.joined()

    async def launch(self) -> None:
        """Start it and wait until it serves."""
        self.configure()
        env = token_table(self._sandbox)
        SECRETS.update(env.values())
        env |= {"PYTHONPATH": str(self.tree)} if self.tree is not None else {}
        self.process = await Process.start("serve", "-c", "config.toml", cwd=self._directory, env=env)
        self._addresses = await self.process.serving()

    async def stop(self) -> None:
        """SIGTERM, as an upgrade does."""
        self.process.child.send_signal(signal.SIGTERM)
        assert await self.process.ended() == 0, self.process.text
        assert "Traceback" not in self.process.text, self.process.text

    async def kill(self) -> None:
        """SIGKILL."""
        await self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        self.process.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.child.send_signal(signal.SIGCONT)

    async def joined(self) -> None:
        """Wait until it says that it has Redis."""
        await self.shows(1.0, "redash_gateway_store_up", tier="redis")

    async def cut_off(self) -> None:
        """Wait until it says that it has no Redis."""
        await self.shows(0.0, "redash_gateway_store_up", tier="redis")

    async def shows(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has this value."""
        seen = -1.0

        async def look() -> None:
            nonlocal seen
            while seen != value:
                seen = await self.metric(name, **labels)
                await asyncio.sleep(0.05)

        looking = asyncio.create_task(look())
        try:
            await until(looking.done, timeout=JOINS_AGAIN)
        except TimeoutError:
            raise AssertionError(f"{self.name}: {name}{labels} is {seen}\n{self.process.text}") from None
        finally:
            looking.cancel()

    async def tell(self, action: str, **what: object) -> Reply:
        """Purge or reload, on the admin listener."""
        return await send(self.session, "POST", f"{self.admin}/{action}", what, headers=AS_OPERATOR)


class Cluster:
    """Three gateways that are one cache."""

    def __init__(self, directory: Path, sandbox: Sandbox, stores: Sequence[str], **tables: str) -> None:
        """`stores`: Redis as each gateway sees it, one gateway for each."""
        self.sandbox = sandbox
        self.gateways = [
            Gateway(name, directory / name, sandbox, store, tables) for name, store in zip(NAMES, stores, strict=True)
        ]

    async def start(self) -> None:
        """Start all, and wait until they know one another."""
        await asyncio.gather(*(gateway.start() for gateway in self.gateways))

    async def each(self, path: str, **more: str) -> list[Reply]:
        """The responses of all gateways to one GET."""
        return list(await asyncio.gather(*(gateway.get(path, **more) for gateway in self.gateways)))

    async def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over all gateways."""
        return sum(await asyncio.gather(*(gateway.metric(name, **labels) for gateway in self.gateways)))

    async def close(self) -> None:
        """Kill what runs still."""
        for gateway in self.gateways:
            await gateway.session.close()
            if hasattr(gateway, "process"):
                with contextlib.suppress(ProcessLookupError):
                    gateway.resume()
                await gateway.kill()


@contextlib.asynccontextmanager
async def clustered(directory: Path, sandbox: Sandbox, stores: Sequence[str], **tables: str) -> AsyncIterator[Cluster]:
    """Start three gateways; they are killed at the end, and have to have logged no traceback."""
    cluster = Cluster(directory, sandbox, stores, **tables)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.close()
    for gateway in cluster.gateways:
        assert "Traceback" not in gateway.process.text, gateway.process.text
