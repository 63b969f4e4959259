"""Starts the gateway as an operator does, and the sandbox Redash behind it."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from support.client_requests import OTHER_ORIGIN

from bench.processes import Running, free_port, running
from gateway.app.event_loop import loop_factory
from gateway.config.schema import EventLoop

TOKEN = "rg_bench_0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Server:
    """One way to send requests to a running server; several may use the same process."""

    name: str
    url: str
    running: Running
    headers: dict[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ("GET", "POST")
    encodings: tuple[str, ...] = ("plain", "gzip")
    own_paths: bool = False
    """Its paths are the names of the sizes, not the paths of Redash."""

    def normal_path(self) -> Server:
        """The same gateway without its fast path, which takes no request that asks for a protocol aiohttp knows."""
        name = self.name.replace("gateway", "gateway, normal path")
        return replace(self, name=name, headers={**self.headers, "Upgrade": "tcp"})


LOOPS: tuple[EventLoop, ...] = ("asyncio",) if loop_factory("auto") is None else ("uvloop", "asyncio")
"""The event loops that the gateway can run on here; by default it takes the first."""

_MAIN = """
import sys
from gateway.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def redash(directory: Path) -> Iterator[tuple[str, str]]:
    """Run the sandbox as upstream of all servers; yields its URL and a key that may run every query."""
    port = free_port()
    code = "import asyncio, sys; from gateway.sandbox import serve; "
    code += "asyncio.run(serve('127.0.0.1', int(sys.argv[1]), orders=2000))"
    with running([sys.executable, "-c", code, str(port)], directory) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_for(f"{url}/ping")
        with urllib.request.urlopen(f"{url}/sandbox/keys") as response:
            keys: dict[str, str] = json.load(response)["users"]
        yield url, next(key for name, key in keys.items() if name.lower().endswith("analyst"))


@contextmanager
def fixed_upstream(directory: Path, *data: Path) -> Iterator[str]:
    """Run `bench.upstream`, with a file of data if there is one; yields its URL."""
    port = free_port()
    with running([sys.executable, "-m", "bench.upstream", str(port), *map(str, data)], directory) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_for(f"{url}/bench/counts")
        yield url


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its key."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Settings:
    """A configuration file."""

    path: Path
    url: str
    """Of a Unix socket: `unix:` and its path."""
    ready_url: str


def settings(
    directory: Path,
    upstream: str,
    *,
    access_log: bool = False,
    store: str = "",
    unix: bool = False,
    certificate: Certificate | None = None,
    loop: EventLoop = LOOPS[0],
    cache: str = "",
) -> Settings:
    """Write a configuration with free ports; the store is new unless `store` names its file, or is the URL of a Redis.

    `cache` has more lines for that table.
    """
    port, admin = free_port(), free_port()
    path = directory / f"gateway-{port}.toml"
    listen = f"unix:{directory}/{port}.sock" if unix else f"127.0.0.1:{port}"
    tls = [f'tls_cert = "{certificate.cert}"', f'tls_key = "{certificate.key}"'] if certificate else []
    server = "\n".join(
        ["[server]", f'listen = "{listen}"', f'event_loop = "{loop}"', f'cors_origins = ["{OTHER_ORIGIN}"]', *tls]
    )
    path.write_text(
        server
        + textwrap.dedent(f"""
        [admin]
        listen = "127.0.0.1:{admin}"
        [upstream]
        url = "{upstream}"
        [credentials.bench]
        kind = "user"
        key_env = "BENCH_KEY"
        [clients.bench]
        token_sha256 = ["{hashlib.sha256(TOKEN.encode()).hexdigest()}"]
        credentials = ["bench"]
        can = ["read", "execute", "adhoc"]
        [cache]
        store = "{store if "://" in store else f"sqlite:{store or f'gateway-{port}.db'}"}"
        {cache}
        definition_check = "1h"
        [log]
        access = {"true" if access_log else "false"}
        """)
    )
    url = listen if unix else f"{'https' if certificate else 'http'}://{listen}"
    return Settings(path, url, f"http://127.0.0.1:{admin}/readyz")


def command(written: Settings, *, before: str = "") -> list[str]:
    """Return the command that starts the gateway; `before` is Python code to run first."""
    runtime = ["-c", before + _MAIN] if before else ["-m", "gateway"]
    return [sys.executable, *runtime, "serve", "-c", str(written.path)]


@contextmanager
def gateway(
    directory: Path,
    upstream: str,
    key: str = "bench",
    *,
    access_log: bool = False,
    loop: EventLoop = LOOPS[0],
    before: str = "",
    env: dict[str, str] | None = None,
    unix: bool = False,
    certificate: Certificate | None = None,
    store: str = "",
    cache: str = "",
) -> Iterator[Server]:
    """Run the gateway; `before` is Python code to run first."""
    written = settings(
        directory,
        upstream,
        access_log=access_log,
        unix=unix,
        certificate=certificate,
        loop=loop,
        store=store,
        cache=cache,
    )
    runtime = command(written, before=before)
    with running(runtime, directory, {"BENCH_KEY": key, **(env or {})}) as process:
        process.wait_for(written.ready_url)
        name = f"gateway, {loop}, access log" if access_log else f"gateway, {loop}"
        yield Server(name, written.url, process, {"Authorization": f"Key {TOKEN}"})


@dataclass(frozen=True)
class Redis:
    """A running redis-server."""

    port: int
    running: Running

    @property
    def url(self) -> str:
        """As the configuration names it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def connect(self) -> socket.socket:
        """Connect without delaying segments."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def cpu_seconds(self) -> float:
        """CPU time so far, as Redis counts it: finer than the kernel's ticks."""
        return self.info("used_cpu_user") + self.info("used_cpu_sys")

    def info(self, name: str) -> float:
        """Return a number from INFO."""
        lines = self._ask("INFO").splitlines()
        return next(float(line.partition(":")[2]) for line in lines if line.startswith(f"{name}:"))

    def number(self, key: str) -> int:
        """Return the number under a key."""
        return int(self._ask(f"GET {key}").splitlines()[1])

    def _ask(self, command: str) -> str:
        with self.connect() as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()


@contextmanager
def redis_server(directory: Path) -> Iterator[Redis]:
    """Run Redis without persistence."""
    port = free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction"]
    with running(["redis-server", *settings], directory) as process:
        redis, end = Redis(port, process), time.monotonic() + 10
        while True:
            try:
                redis.connect().close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise SystemExit("redis-server does not start") from None
                time.sleep(0.02)
        yield redis


@contextmanager
def gateways(
    directory: Path, upstream: str, key: str, *, certificate: Certificate | None = None, unix: bool = False
) -> Iterator[list[Server]]:
    """Run a gateway on each event loop."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(gateway(directory, upstream, key, loop=loop, certificate=certificate, unix=unix))
            for loop in LOOPS
        ]
