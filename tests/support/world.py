"""A gateway before a sandbox on real ports of the loopback, with a clock that tests can turn, and callers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from gateway import config
from gateway.app.operations import RuntimeOperations
from gateway.app.runtime import Runtime
from gateway.app.tls import client_context
from gateway.policy.configured import Configured
from gateway.sandbox import Sandbox
from support.calls import ADMIN_TOKEN, TOKENS, Calls
from support.clocks import TurnableClock

SECRETS: set[str] = {ADMIN_TOKEN, *TOKENS.values()}
"""Every token and key that a test of this run has used. None may stand in a log, a metric, the status or a file."""


class World(Calls):
    """One sandbox, one gateway, any number of callers."""

    def __init__(self, directory: Path, sandbox: Sandbox, clock: TurnableClock, upstream: str = "") -> None:
        """`upstream` is the address that the gateway knows, if it is not the sandbox's own: a proxy's before it."""
        self.directory = directory
        self.sandbox = sandbox
        self.upstream = upstream or sandbox.url
        self.clock = clock
        self.named = sandbox.named
        self.runtime: Runtime
        self.text = ""

    @property
    def url(self) -> str:
        return self.runtime.api_addresses[0].url

    @property
    def admin(self) -> str:
        return self.runtime.admin_address.url

    async def start(self, extra: str = "", store: str = "sqlite:gateway.db", **tables: str) -> None:
        """Start the gateway; `extra` is TOML at the end, `tables` adds lines to a table: `cache='memory = "1MB"'`."""
        self.text = configuration(self.sandbox, store, tables, self.upstream) + extra
        await self.resume()

    async def resume(self) -> None:
        """Start a gateway with the configuration and directory of the last one."""
        self._note_secrets()
        self.runtime = Runtime(
            self.settings(), operations=lambda runtime: RuntimeOperations(runtime, None), clock=self.clock
        )
        await self.runtime.start()
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def settings(self) -> config.Config:
        return config.parse(self.text, self.directory, token_table(self.sandbox))

    def reconfigure(self, text: str) -> None:
        """Put another configuration in force, as a reload does."""
        self.text = text
        loaded = self.settings()
        self.runtime.reconfigure(Configured.of(loaded), client_context(loaded.upstream))

    @property
    def started(self) -> int:
        """How many runs Redash has started."""
        return self.sandbox.counters.started

    async def stop(self) -> None:
        shown = ""
        if self.runtime.serving:
            for path in ("/api/status", "/readyz", "/", "/requests", "/configuration"):
                async with self.session.get(self.admin + path) as response:
                    shown += await response.text()
            shown += "\n".join(self._labels())
        await self.session.close()
        await self.runtime.stop()
        await asyncio.to_thread(self._find_no_secret, shown)

    def _labels(self) -> set[str]:
        """All of `/metrics` that is not the same in each test: its page takes longer to write than a short test."""
        samples = (sample for metric in self.runtime.telemetry.metrics.collect() for sample in metric.samples)
        return {value for sample in samples for value in sample.labels.values()}

    def _find_no_secret(self, shown: str) -> None:
        """Look through all that the gateway showed to operators and left on disk, the WAL included."""
        self._note_secrets()
        secrets = [secret.encode() for secret in SECRETS]
        files = [file for file in self.directory.rglob("*") if file.is_file() and file.stat().st_size < 32 * 10**6]
        for name, data in [("admin listener", shown.encode()), *((str(file), file.read_bytes()) for file in files)]:
            if file_is_a_test_s_own(name):
                continue
            assert not [secret for secret in secrets if secret in data], f"a key or token stands in {name}"

    def _note_secrets(self) -> None:
        SECRETS.update(token_table(self.sandbox).values())

    async def restart(self) -> None:
        await self.stop()
        await self.resume()


def file_is_a_test_s_own(name: str) -> bool:
    """Whether a test wrote it: scripts and key files that hold what they must hold."""
    return not any(part in name for part in ("gateway.db", "admin listener"))


_ADMIN = f'listen = "127.0.0.1:0"\ntoken_sha256 = "{config.token_hash(ADMIN_TOKEN)}"'


def configuration(sandbox: Sandbox, store: str, tables: Mapping[str, str], upstream: str = "") -> str:
    """The configuration of the tests; `tables` adds lines by table name (`.` written as `__`)."""
    narrow = sandbox.named["in_country"]
    return f"""
[server]
listen = "127.0.0.1:0"
drain_timeout = "2s"
{tables.get("server", "")}
[admin]
{tables.get("admin", _ADMIN)}
[upstream]
url = "{upstream or sandbox.url}"
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
