"""The processes of a fuzz run: hostile Redash, gateway, bare server and polite caller; started, watched, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway import config

from .attacks import Target
from .redash import HOSTILE, KEPT_QUERY

ROOT: Final = Path(__file__).parent.parent.parent
TOKENS: Final = {
    name: f"rg_{name}_{'0123456789abcdef' * 2}"
    for name in ("every", "reader", "bound", "narrow", "limited", "revealer", "polite")
}
NARROW: Final = 4
"""So many queries of the hostile Redash have keys of their own; their results are reduced ones."""

CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{api}"
max_wait = "2s"
max_request_body = {body}
[admin]
listen = "127.0.0.1:{admin}"
[upstream]
url = "{redash}"
max_executions = 4
queue_timeout = "5s"
read_timeout = "5s"
breaker_failures = 100000
breaker_reset = "100ms"
[credentials.user]
kind = "user"
key_env = "FUZZ_USER"
[credentials.sample]
kind = "query"
query = {sample}
key_env = "FUZZ_SAMPLE"
[cache]
store = "sqlite:fuzz.db"
memory = "{memory}MB"
disk = "{disk}MB"
max_entry = "32MB"
definition_check = "2s"
metadata_ttl = "1s"
rendered_ttl = "5s"
failure_ttl = "1s"
stale_if_error = "1s"
[log]
format = "json"
access = true
"""


@dataclass(frozen=True)
class Bounds:
    """What the configuration of the fuzz names."""

    memory: int = 16
    disk: int = 256
    body: int = 1_000_000


class Child:
    """One process, with its output in a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, directory: Path, name: str, *command: str, env: Mapping[str, str] | None = None) -> Child:
        log = directory / f"{name}.log"
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=directory, env={**os.environ, "PYTHONPATH": path, **(env or {})},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE if name == "polite" else file, stderr=file, limit=1 << 20,
            )  # fmt: skip
        return cls(process, log)

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    async def answers(self, url: str, *, seconds: float = 30.0) -> None:
        """Wait until `url` responds."""
        for _ in range(int(seconds / 0.05)):
            try:
                await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)
            except OSError:
                if not self.running:
                    break
                await asyncio.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{url} does not respond:\n{self.log.read_text(errors='replace')[-3000:]}")

    async def stop(self, *, seconds: float = 20.0) -> int:
        """End it as an operator does; returns the exit status."""
        if self.running:
            self.process.terminate()
            try:
                async with asyncio.timeout(seconds):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class Stage:
    """All processes of one run."""

    def __init__(self, directory: Path, bounds: Bounds) -> None:
        self.directory = directory
        self.bounds = bounds
        self.children: list[Child] = []
        self.keys: set[str] = set()

    async def __aenter__(self) -> Stage:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in reversed(self.children):
            await child.stop()

    async def _child(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> Child:
        child = await Child.start(self.directory, name, *command, env=env)
        self.children.append(child)
        return child

    async def _start(self) -> None:
        self._ports = {name: _free_port() for name in ("redash", "api", "admin", "bare")}
        redash = f"http://127.0.0.1:{self._ports['redash']}"
        self.redash = await self._child("redash", "-m", "fuzz.redash", str(self._ports["redash"]))
        await self.redash.answers(f"{redash}/ping")
        keys = await asyncio.to_thread(_read, f"{redash}/sandbox/keys")
        user = next(key for name, key in keys["users"].items() if name.endswith("Admin"))
        await self._read_queries(keys)
        sample = self.queries["in_country"]
        narrow = {f"FUZZ_NARROW_{k}": f"narrow{k}" + "0Key" * 8 + "Ab" for k in range(NARROW)}
        env = {"FUZZ_USER": user, "FUZZ_SAMPLE": keys["queries"][str(sample)]["api_key"], **narrow}
        self.keys = set(env.values())
        file = self.directory / "fuzz.toml"
        file.write_text(self._configuration(redash, sample))
        self.gateway = await self._child("gateway", "-m", "gateway", "serve", "-c", str(file), env=env)
        await self.gateway.answers(f"http://127.0.0.1:{self._ports['admin']}/readyz")
        bare = await self._child("bare", "-m", "fuzz.polite", "--bare", str(self._ports["bare"]))
        await bare.answers(f"http://127.0.0.1:{self._ports['bare']}/")

    async def _read_queries(self, keys: dict[str, Any]) -> None:
        from gateway.sandbox.sample_objects import QUERIES

        by_name = {query["name"]: int(query_id) for query_id, query in keys["queries"].items()}
        self.queries = {short: by_name[name] for short, name, *_ in QUERIES}

    def _configuration(self, redash: str, sample: int) -> str:
        bounds = self.bounds
        text = CONFIGURATION.format(
            redash=redash,
            sample=sample,
            api=self._ports["api"],
            admin=self._ports["admin"],
            memory=bounds.memory,
            disk=bounds.disk,
            body=bounds.body,
        )
        for k in range(NARROW):
            text += f'[credentials.narrow-{k}]\nkind = "query"\nquery = {HOSTILE + k}\nkey_env = "FUZZ_NARROW_{k}"\n'
        tables = {
            "every": 'credentials = ["user"]\ncan = ["read", "execute", "adhoc", "write", "admin"]',
            "reader": 'credentials = ["user"]',
            "bound": f'credentials = ["user"]\nqueries = [1, 2, 3, {HOSTILE + 20}]\ndashboards = [1]',
            "narrow": 'credentials = ["query"]',
            "limited": 'credentials = ["user"]\nrate = "20/s"\nmax_executions = 2',
            "revealer": 'credentials = ["user"]\nreveal_keys = true\ntext_parameters = true\ncan = ["read", "execute", "write"]',
            "polite": f'credentials = ["user"]\nqueries = [{self.queries[KEPT_QUERY]}]',
        }
        for name, lines in tables.items():
            text += f'[clients.{name}]\ntoken_sha256 = ["{config.token_hash(TOKENS[name])}"]\n{lines}\n'
        return text

    @property
    def target(self) -> Target:
        return Target(
            TOKENS, self.queries, f"http://127.0.0.1:{self._ports['api']}", f"http://127.0.0.1:{self._ports['admin']}"
        )

    async def polite(self) -> Child:
        """Start the polite caller; it prints a line of JSON each second."""
        target, host = self.target, "Host: localhost\r\n"
        hit = f"GET /api/queries/{self.queries[KEPT_QUERY]}/results.json?max_age=86400 HTTP/1.1\r\n{host}Authorization: Key {TOKENS['polite']}\r\n\r\n"
        asked = [
            ("ping", target.api, f"GET /ping HTTP/1.1\r\n{host}\r\n"),
            ("hit", target.api, hit),
            ("livez", target.admin, f"GET /livez HTTP/1.1\r\n{host}\r\n"),
            ("bare", f"http://127.0.0.1:{self._ports['bare']}", "GET / HTTP/1.1\r\n\r\n"),
        ]
        child = await self._child("polite", "-m", "fuzz.polite")
        assert child.process.stdin is not None
        child.process.stdin.write(json.dumps({"pid": self.gateway.process.pid, "asked": asked}).encode())
        child.process.stdin.close()
        return child


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)
