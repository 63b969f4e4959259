"""The processes of a fuzz run: hostile Redash, gateway, bare server and polite caller; started, watched, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.calls import ADMIN_TOKEN

from gateway import config
from gateway.sandbox.sample_objects import QUERIES

from .texts_drawing import Target
from .texts_redash import KEPT_QUERY
from .texts_responses import HOSTILE, NARROW
from .texts_run import MB

ROOT: Final = Path(__file__).parent.parent.parent
CLIENTS: Final = ("every", "reader", "bound", "narrow", "limited", "revealer", "polite")
TOKENS: Final = {name: f"rg_{name}_{'0123456789abcdef' * 2}" for name in CLIENTS}
CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:0"
max_wait = "2s"
max_request_body = {body}
[admin]
listen = "127.0.0.1:0"
token_sha256 = "{admin}"
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
    """What the configuration of the fuzz names: MB, but for the body."""

    memory: int = 16
    disk: int = 256
    body: int = 1_000_000

    @property
    def largest(self) -> float:
        """The largest list or object."""
        return max(4.2, self.memory / 7)

    def memory_limits(self, base: int) -> dict[str, float]:
        """Return what the gateway may take, in MB, by what for; `base` are its bytes at the start."""
        return {
            "at the start": base / MB,
            "what the first requests load: modules, threads": 40.0,
            "cache.memory: results and their gzip forms": self.memory,
            "a quarter of it: prepared responses": self.memory / 4,
            "an eighth: definitions of queries": self.memory / 8,
            "as much: bodies of requests in progress": self.memory,
            "as much: runs in progress": self.memory,
            "an eighth, 4 at least: lists and objects": max(4.0, self.memory / 8),
            "twice the largest, and their copies: lists and objects on their way": 4 * self.largest,
            "twelve times the largest: one of them while keys are removed": 12 * self.largest,
            "an eighth, and 1 for each request to Redash: results that pass through": self.memory / 8 + 16,
            "fixed: parsed operations": 8.0,
            "fixed: recent failures": 16.0,
            "fixed: recent jobs, and the ledger's jobs, runs and result ids": 64.0,
            "three eighths, 4 at least for each: queues of the store's writers": 8 + self.memory * 3 / 8,
            "fixed: log lines that wait for their reader": 8.0,
        }


SERVES: Final = r"serves ([\w.:]+)"


class Child:
    """One process, with its output in a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, directory: Path, name: str, *command: str, env: Mapping[str, str]) -> Child:
        """Start a Python process; the polite caller's output is a pipe."""
        log = directory / f"{name}.log"
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": path, **env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if name == "polite" else file,
                stderr=file,
            )
        return cls(process, log)

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    async def serves(self, pattern: str, *, seconds: float = 60.0) -> list[str]:
        """Wait until it has printed where it listens; returns the addresses that the pattern finds."""
        end = time.monotonic() + seconds
        while self.process.returncode is None and time.monotonic() < end:
            if found := re.search(pattern, self.logged()):
                return [f"http://{address}" for address in found.groups()]
            await asyncio.sleep(0.05)
        raise RuntimeError(f"it does not say {pattern!r}:\n{self.logged()[-3_000:]}")

    async def stop(self, *, seconds: float = 20.0) -> int:
        """End it as an operator does; returns the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(seconds):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()

    def resident_bytes(self) -> int:
        """Raises OSError if it has ended."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class Stage:
    """All processes of one run, in one directory."""

    def __init__(self, directory: Path, bounds: Bounds) -> None:
        self.directory = directory
        self.bounds = bounds
        self._children: list[Child] = []
        self._keys: dict[str, str] = {}

    async def __aenter__(self) -> Stage:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in reversed(self._children):
            await child.stop()

    async def _child(self, name: str, *command: str) -> Child:
        child = await Child.start(self.directory, name, *command, env=self._keys)
        self._children.append(child)
        return child

    async def _start(self) -> None:
        redash = await self._child("redash", "-m", "fuzz.texts_redash")
        (self._redash,) = await redash.serves(SERVES)
        keys = json.loads(await asyncio.to_thread(_get, f"{self._redash}/sandbox/keys"))
        by_name = {query["name"]: int(query_id) for query_id, query in keys["queries"].items()}
        self.queries = {short: by_name[name] for short, name, *_ in QUERIES}
        sample = self.queries["in_country"]
        self._keys = {f"FUZZ_NARROW_{k}": f"narrow{k}" + "0Key" * 8 + "Ab" for k in range(NARROW)}
        self._keys["FUZZ_USER"] = next(key for name, key in keys["users"].items() if name.endswith("Admin"))
        self._keys["FUZZ_SAMPLE"] = keys["queries"][str(sample)]["api_key"]
        file = self.directory / "fuzz.toml"
        file.write_text(self._configuration(sample))
        self.gateway = await self._child("gateway", "-m", "gateway", "serve", "-c", str(file))
        self._api, self._admin = await self.gateway.serves(r"serves ([\w.:]+), admin on ([\w.:]+)")
        bare = await self._child("bare", "-m", "fuzz.texts_polite")
        (self._bare,) = await bare.serves(SERVES)

    @property
    def secrets(self) -> tuple[str, ...]:
        """All keys and tokens: none may stand in a log, an error or a response."""
        return (*self._keys.values(), *TOKENS.values(), ADMIN_TOKEN)

    def _configuration(self, sample: int) -> str:
        text = CONFIGURATION.format(
            redash=self._redash,
            admin=config.token_hash(ADMIN_TOKEN),
            sample=sample,
            memory=self.bounds.memory,
            disk=self.bounds.disk,
            body=self.bounds.body,
        )
        for k in range(NARROW):
            lines = f'kind = "query"\nquery = {HOSTILE + k}\nkey_env = "FUZZ_NARROW_{k}"'
            text += f"[credentials.narrow-{k}]\n{lines}\n"
        everything = 'can = ["read", "execute", "adhoc", "write", "admin"]'
        tables = {
            "every": f'credentials = ["user"]\n{everything}',
            "reader": 'credentials = ["user"]',
            "bound": f'credentials = ["user"]\nqueries = [1, 2, 3, {HOSTILE + 20}]\ndashboards = [1]',
            "narrow": 'credentials = ["query"]',
            "limited": 'credentials = ["user"]\nrate = "20/s"\nmax_executions = 2',
            "revealer": f'credentials = ["user"]\nreveal_keys = true\ntext_parameters = true\n{everything}',
            "polite": f'credentials = ["user"]\nqueries = [{self.queries[KEPT_QUERY]}]',
        }
        for name, lines in tables.items():
            text += f'[clients.{name}]\ntoken_sha256 = ["{config.token_hash(TOKENS[name])}"]\n{lines}\n'
        return text

    @property
    def target(self) -> Target:
        return Target(TOKENS, self.queries, self._api, self._admin)

    async def polite(self) -> Child:
        """Start the polite caller; it prints a line of JSON each second."""
        host, token = "Host: localhost\r\n", f"Authorization: Key {TOKENS['polite']}\r\n"
        kept = f"/api/queries/{self.queries[KEPT_QUERY]}/results.json?max_age=86400"
        asked = [
            ("ping", self._api, f"GET /ping HTTP/1.1\r\n{host}\r\n"),
            ("hit", self._api, f"GET {kept} HTTP/1.1\r\n{host}{token}\r\n"),
            ("livez", self._admin, f"GET /livez HTTP/1.1\r\n{host}\r\n"),
            ("bare", self._bare, "GET / HTTP/1.1\r\n\r\n"),
        ]
        file = self.directory / "polite.json"
        file.write_text(json.dumps({"pid": self.gateway.process.pid, "asked": asked}))
        return await self._child("polite", "-m", "fuzz.texts_polite", str(file))


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        body: bytes = response.read()
        return body
