"""What the tests of stores share: a clock that stands still, entries, and ways to make a store."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.waiting import until

from gateway.body import Body
from gateway.concurrency.space import Space
from gateway.config import RedisAddress
from gateway.model import Entry, ExecutionRecord, JobRecord, digest
from gateway.store.layered import LayeredStore
from gateway.store.memory import MemoryStore
from gateway.store.redis.link import Link
from gateway.store.redis.server import RedisOptions
from gateway.store.redis.store import RedisStore
from gateway.store.redis.times import SharedTime
from gateway.store.sqlite.store import SqliteStore
from gateway.store.temporary import TemporaryFiles

MB = 2**20


class FakeClock:
    def __init__(self, wall: float = 1_800_000_000.0, monotonic: float = 5_000.0) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def set_wall(self, wall: float) -> None:
        self._wall = wall


def key(name: object) -> bytes:
    return digest(str(name).encode())


def entry(body: object = "b", **fields: Any) -> Entry:
    values = {"scope": "s", "query_id": 1, "result_id": 7, "form": "full", "born": 4_000.0, "confirmed": 4_500.0}
    return Entry(body_id=key(f"body {body}"), **{**values, **fields})


def execution(name: str = "e1", **fields: Any) -> ExecutionRecord:
    values = {
        "key": key("k"),
        "scope": "s",
        "credential": "reporting",
        "query_id": 1,
        "path": "/api/queries/1/results",
        "body": b"{}",
        "marker": "m",
        "started_at": 1_800_000_000.0,
    }
    return ExecutionRecord(id=name, **{**values, **fields})


def job(name: str = "j1", **fields: Any) -> JobRecord:
    values = {"execution_id": "e1", "client": "c", "scope": "s", "query_id": 1, "noted_at": 1_800_000_000.0}
    return JobRecord(id=name, **{**values, **fields})


def make_memory(_path: Path, clock: FakeClock, **options: Any) -> MemoryStore:
    limit, most = options.get("memory_bytes", 16 * MB), options.get("max_entry_bytes", 4 * MB)
    return MemoryStore(limit, clock, max_entry_bytes=most, temporary=TemporaryFiles(2 * limit, most, Space(MB), clock))


def make_sqlite(path: Path, clock: FakeClock, **options: Any) -> SqliteStore:
    defaults = {"disk_bytes": 16 * MB, "max_entry_bytes": 4 * MB, "lock_wait_seconds": 5.0, "retry_seconds": 0.01}
    return SqliteStore(path, clock=clock, **{**defaults, **options})


def make_layered(path: Path, clock: FakeClock, **options: Any) -> LayeredStore:
    limit = options.pop("memory_bytes", 16 * MB)
    memory = MemoryStore(limit, clock, max_entry_bytes=options.get("max_entry_bytes", 4 * MB))
    return LayeredStore(memory, make_sqlite(path, clock, **options))


class RedisProcess:
    """A server of this test process, started when it is needed first; tests have a prefix each."""

    def __init__(self, program: str) -> None:
        self.port = 0
        self._program = program
        self._child: subprocess.Popen[bytes] | None = None
        self._directory = ""

    def address(self) -> RedisAddress:
        if self._child is None:
            self._start()
        return RedisAddress(hosts=(("127.0.0.1", self.port),), tls=False)

    def _start(self) -> None:
        program = shutil.which(self._program)
        if program is None and os.environ.get("GATEWAY_TEST_REQUIRE_ALL") != "1":
            pytest.skip(f"{self._program} is not installed")
        assert program is not None, f"{self._program} is not installed"
        self._directory = tempfile.mkdtemp()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._directory]
        self._child = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert time.monotonic() < deadline, f"{program} did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()
            shutil.rmtree(self._directory, ignore_errors=True)
            self._child = None


REDIS = RedisProcess("redis-server")
VALKEY = RedisProcess("valkey-server")


class StandingTime(SharedTime):
    """Redis' time for a clock that stands still: Redis' own clock goes on."""

    def measure(self, redis_seconds: float, sent: float, received: float) -> None:
        self._offset = 1_700_000_000.0


def make_link(path: Path, clock: FakeClock, name: str = "", server: RedisProcess = REDIS) -> Link:
    """The gateways of one `path` share what they have in Redis."""
    prefix = f"test-{digest(str(path).encode()).hex()[:16]}"
    link = Link(RedisOptions(address=server.address(), prefix=prefix, name=name), clock)
    link.time = StandingTime(clock)
    return link


def make_redis(path: Path, clock: FakeClock, server: RedisProcess = REDIS, **options: Any) -> RedisStore:
    memory = make_memory(path, clock, **options)
    limits = {
        "disk_bytes": options.get("disk_bytes", 16 * MB),
        "max_entry_bytes": options.get("max_entry_bytes", 4 * MB),
    }
    return RedisStore(make_link(path, clock, server=server), memory, clock=clock, **limits)


MAKERS: dict[str, Callable[..., Any]] = {
    "memory": make_memory,
    "sqlite": make_sqlite,
    "layered": make_layered,
    "redis": make_redis,
}
if shutil.which("valkey-server"):  # Debian 12 has none
    MAKERS["valkey"] = partial(make_redis, server=VALKEY)


def noise(count: int, seed: int = 0) -> bytes:
    """Bytes that take as much room when they are compressed."""
    return Random(seed).randbytes(count)


@asynccontextmanager
async def opened(store: Any) -> AsyncIterator[Any]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def spooled(store: Any, data: bytes) -> Body:
    """A body that has arrived in a spool, in pieces as the upstream client reads them."""
    spool = await store.begin_spool(len(data))
    for start in range(0, len(data), MB // 4):
        await spool.append([data[start : start + MB // 4]])
    body: Body = await spool.body()
    return body


async def bytes_of(store: Any, name: object) -> bytes | None:
    """The bytes that `name` leads to, by the normal path."""
    found = await store.get(key(name))
    body = None if found is None else await store.read(found)
    return None if body is None else body.load()


async def heard(*stores: RedisStore) -> None:
    """Wait until each has heard of everything."""
    number = int(await stores[0].link.command("GET", stores[0].link.base + "seq") or 0)
    await until(lambda: all(store.link.seen.number >= number for store in stores))
