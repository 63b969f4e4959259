"""A gateway before a sandbox on real ports of the loopback, with a clock that tests can turn, and callers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from gateway import config
from gateway.app.operations import RuntimeOperations
from gateway.app.runtime import Runtime
from gateway.sandbox import Sandbox

TOKENS = {name: f"rg_{name}_{'0123456789abcdef' * 2}" for name in ("dashboard", "second", "sql", "narrow", "writer")}
"""Tokens by client. `dashboard` and `second` read and run with the analyst's key, `sql` may send any SQL, `narrow` has
only the key of one query, `writer` may edit."""


SECRETS: set[str] = set(TOKENS.values())
"""Every token and key that a test of this run has used. None may stand in a log, a metric, the status or a file."""


class TurnableClock:
    """The clocks of the system, moved by `turn`: both at once, as when time passes."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def turn(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        self.ahead += seconds


class Reply(msgspec.Struct, frozen=True):
    """What a caller got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json["query_result"]["data"]["rows"]
        return rows

    @property
    def job(self) -> dict[str, Any]:
        job: dict[str, Any] = self.json["job"]
        return job

    @property
    def cache(self) -> str:
        return self.headers.get("Cache-Status", "")


class World:
    """One sandbox, one gateway, any number of callers."""

    def __init__(self, directory: Path, sandbox: Sandbox, clock: TurnableClock) -> None:
        self.directory = directory
        self.sandbox = sandbox
        self.clock = clock
        self.named = sandbox.named
        self.runtime: Runtime
        self.session: aiohttp.ClientSession
        self.text = ""

    @property
    def url(self) -> str:
        return self.runtime.api_address.url

    @property
    def admin(self) -> str:
        return self.runtime.admin_address.url

    async def start(self, extra: str = "", store: str = "sqlite:gateway.db", **tables: str) -> None:
        """Start the gateway; `extra` is TOML at the end, `tables` adds lines to a table: `cache='memory = "1MB"'`."""
        self.text = configuration(self.sandbox, store, tables) + extra
        await self.resume()

    async def resume(self) -> None:
        """Start a gateway with the configuration and directory of the last one."""
        self.runtime = Runtime(
            self.settings(), operations=lambda runtime: RuntimeOperations(runtime, None), clock=self.clock
        )
        await self.runtime.start()
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def settings(self) -> config.Config:
        keys = {f"KEY_{name.upper()}": key for name, key in self.sandbox.user_keys.items()}
        for query_id in self.sandbox.queries:
            keys[f"QUERY_KEY_{query_id}"] = self.sandbox.query_key(query_id)
        return config.parse(self.text, self.directory, keys)

    async def stop(self) -> None:
        shown = ""
        if self.runtime.serving:
            for path in ("/metrics", "/api/status", "/readyz", "/"):
                async with self.session.get(self.admin + path) as response:
                    shown += await response.text()
        await self.session.close()
        await self.runtime.stop()
        await asyncio.to_thread(self._find_no_secret, shown)

    def _find_no_secret(self, shown: str) -> None:
        """Look through all that the gateway showed to operators and left on disk, the WAL included."""
        sandbox = self.sandbox
        SECRETS.update(sandbox.user_keys.values(), (query.api_key for query in sandbox.queries.values()))
        secrets = [secret.encode() for secret in SECRETS]
        files = [file for file in self.directory.rglob("*") if file.is_file() and file.stat().st_size < 32 * 10**6]
        for name, data in [("admin listener", shown.encode()), *((str(file), file.read_bytes()) for file in files)]:
            if file_is_a_test_s_own(name):
                continue
            assert not [secret for secret in secrets if secret in data], f"a key or token stands in {name}"

    async def restart(self) -> None:
        await self.stop()
        await self.resume()

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        client: str | None = "dashboard",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request as a client; `body` is JSON unless it is bytes."""
        sent = dict(headers or {})
        if client is not None:
            sent["Authorization"] = f"Key {TOKENS[client]}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self.session.request(
            method, self.url + path, data=data, headers=sent, allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers.copy(), await response.read())

    async def get(self, path: str, *, client: str | None = "dashboard", **headers: str) -> Reply:
        return await self.call("GET", path, client=client, headers=_fields(headers))

    async def post(
        self, name: str | int, *, client: str = "dashboard", wait: int | None = None, **body: object
    ) -> Reply:
        """POST a query's results, by its short name or id; `wait` sends `Prefer: wait`."""
        query_id = self.named[name] if isinstance(name, str) else name
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        return await self.call("POST", f"/api/queries/{query_id}/results", body, client=client, headers=headers)

    async def finish(self, job_id: str, *, client: str = "dashboard") -> dict[str, Any]:
        """Follow a job to its end (the gateway holds each answer, so nothing sleeps here)."""
        for _ in range(20):
            reply = await self.get(f"/api/jobs/{job_id}", client=client, prefer="wait=10")
            if reply.job["status"] in (3, 4):
                return reply.job
        raise AssertionError("the job does not end")

    async def rows(self, name: str | int, *, client: str = "dashboard", **body: object) -> list[dict[str, Any]]:
        """Run or read a query as a polling client does: POST, job, result."""
        query_id = self.named[name] if isinstance(name, str) else name
        reply = await self.post(query_id, client=client, **body)
        if "query_result" in reply.json:
            return reply.rows
        job = await self.finish(reply.job["id"], client=client)
        assert job["status"] == 3, job
        read = await self.get(f"/api/queries/{query_id}/results/{job['query_result_id']}.json", client=client)
        return read.rows

    async def metrics(self) -> dict[str, float]:
        """Scrape: every sample by its full name with labels, in the text format."""
        async with self.session.get(f"{self.admin}/metrics") as response:
            text = await response.text()
        samples = re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in samples}

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of one metric over every series that has these labels."""
        total = 0.0
        for sample, value in (await self.metrics()).items():
            if sample.partition("{")[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total += value
        return total


def file_is_a_test_s_own(name: str) -> bool:
    """Whether a test wrote it: scripts and key files that hold what they must hold."""
    return not any(part in name for part in ("gateway.db", "admin listener"))


def _fields(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def configuration(sandbox: Sandbox, store: str, tables: Mapping[str, str]) -> str:
    """The configuration of the tests; `tables` adds lines by table name (`.` written as `__`)."""
    narrow = sandbox.named["in_country"]
    return f"""
[server]
listen = "127.0.0.1:0"
drain_timeout = "2s"
{tables.get("server", "")}
[admin]
listen = "127.0.0.1:0"
[upstream]
url = "{sandbox.url}"
{tables.get("upstream", "")}
[credentials.analyst]
kind = "user"
key_env = "KEY_ANALYST"
[credentials.admin]
kind = "user"
key_env = "KEY_ADMIN"
[credentials.narrow]
kind = "query"
query = {narrow}
key_env = "QUERY_KEY_{narrow}"
[cache]
store = "{store}"
{tables.get("cache", "")}
[log]
access = false
[clients.dashboard]
token_sha256 = ["{config.token_hash(TOKENS["dashboard"])}"]
credentials = ["analyst"]
{tables.get("dashboard", "")}
[clients.second]
token_sha256 = ["{config.token_hash(TOKENS["second"])}"]
credentials = ["analyst"]
{tables.get("second", "")}
[clients.sql]
token_sha256 = ["{config.token_hash(TOKENS["sql"])}"]
credentials = ["analyst"]
can = ["read", "execute", "adhoc"]
[clients.narrow]
token_sha256 = ["{config.token_hash(TOKENS["narrow"])}"]
credentials = ["query"]
{tables.get("narrow", "")}
[clients.writer]
token_sha256 = ["{config.token_hash(TOKENS["writer"])}"]
credentials = ["admin"]
can = ["read", "execute", "write"]
text_parameters = true
{tables.get("writer", "")}
"""


def token_table(sandbox: Sandbox) -> dict[str, str]:
    """The environment in which the configuration of the tests finds its keys."""
    keys = {f"KEY_{name.upper()}": key for name, key in sandbox.user_keys.items()}
    return keys | {f"QUERY_KEY_{query_id}": sandbox.query_key(query_id) for query_id in sandbox.queries}


def certificate(directory: Path, name: str, *, host: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate and its key, made with openssl."""
    cert, private = directory / f"{name}.pem", directory / f"{name}.key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            private,
            "-out",
            cert,
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{host},IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    return cert, private


async def until(ready: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Wait for something that tells nobody when it happens. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while True:
            if ready():
                return
            await asyncio.sleep(0.01)


async def exchange(url: str, sent: bytes, *, timeout: float = 10.0) -> bytes:
    """Send bytes as they are and return all that comes back until the other side closes, or the time is up."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    received = b""
    try:
        writer.write(sent)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(timeout):
                while data := await reader.read(65536):
                    received += data
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return received


class Process:
    """The real command in a process of its own; what it prints is kept line by line and can be waited for."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[str] = []
        self._more = asyncio.Condition()
        pipes = [pipe for pipe in (child.stdout, child.stderr) if pipe is not None]
        self._readers = [asyncio.create_task(self._read(pipe)) for pipe in pipes]
        self._open = len(pipes)

    @classmethod
    async def start(cls, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Process:
        """Start `redash-gateway` with these arguments, as `python -m gateway` of this interpreter."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            cwd=cwd,
            env=_plain_environment() | dict(env or {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(child)

    @classmethod
    async def run(cls, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command to its end: exit status and all that it printed."""
        process = await cls.start(*arguments, cwd=cwd, env=env)
        return await process.ended(), process.text

    async def _read(self, pipe: asyncio.StreamReader) -> None:
        while line := await pipe.readline():
            async with self._more:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._more.notify_all()
        async with self._more:
            self._open -= 1
            self._more.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def says(self, pattern: str, *, timeout: float = 20.0) -> re.Match[str]:
        """Wait until it has printed this; raises with all it printed when it ends or the time is up."""
        found = None

        def looked() -> bool:
            nonlocal found
            found = re.search(pattern, self.text, re.MULTILINE)
            return found is not None or self._open == 0

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._more:
                await self._more.wait_for(looked)
        assert found is not None, f"it never said {pattern!r}:\n{self.text}"
        return found

    async def serving(self) -> tuple[str, str]:
        """Wait until it listens; the addresses of API and admin listener."""
        found = await self.says(r"serves ([\w.:]+), admin on ([\w.:]+)$")
        return f"http://{found[1]}", f"http://{found[2]}"

    async def ended(self, *, timeout: float = 30.0) -> int:
        """Wait for its end; the exit status."""
        async with asyncio.timeout(timeout):
            await asyncio.gather(*self._readers)
            return await self.child.wait()

    async def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.child.kill()
        await self.ended()


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("REDASH_", "KEY_", "QUERY_KEY_"))}
