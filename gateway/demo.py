"""The demo: a sandbox Redash, a gateway in front of it, and commands to paste. It needs no file and keeps nothing."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from gateway import config
from gateway.app.event_loop import loop_factory
from gateway.app.operations import RuntimeOperations
from gateway.app.runtime import Runtime
from gateway.app.serve import run
from gateway.errors import StoreError
from gateway.sandbox import Sandbox
from gateway.telemetry import log

ORDERS: Final = 200_000

CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"

[admin]
listen = "127.0.0.1:{admin_port}"
token_sha256 = "{admin_token_sha256}"

[upstream]
url = "{redash}"

[credentials.analyst]
kind = "user"
key_env = "DEMO_KEY"

[credentials.one-query]
kind = "query"
query = {query_key_id}
key_env = "DEMO_QUERY_KEY"

[clients.demo]
token_sha256 = ["{token_sha256}"]
credentials = ["analyst"]
text_parameters = true

[clients.one-query]
token_sha256 = ["{query_token_sha256}"]
credentials = ["query"]

[cache]
store = "sqlite:demo.db"

[log]
access = false
"""

TEXT: Final = """
Redash Gateway demo: a sandbox Redash with {orders:,} orders at {redash}, and the gateway in front of it.

  gateway  {api}      token  {token}
  console  {admin}      open it in a browser; also /metrics  /readyz  /api/status
           sign in with  {admin_token}  to purge, to reload and to end runs

Paste in another terminal:

  # 1. A miss: nothing is cached yet. Redash already has a result, so no query runs (Prefer: wait=20 would wait for one)
  curl -si -H 'Authorization: Key {token}' -H 'Prefer: wait=20' -d '{{"max_age": 60}}' {api}/api/queries/{query}/results | head -c 900

  # 2. The same request again: a hit, see Age and Cache-Status
  curl -si -H 'Authorization: Key {token}' -d '{{"max_age": 60}}' {api}/api/queries/{query}/results | head -c 900

  # 3. Fifty callers request a fresh run of the {slow} s query at the same time: Redash runs it once
  seq 50 | xargs -P50 -I{{}} curl -s -o /dev/null -H 'Authorization: Key {token}' -H 'Prefer: wait=30' -d '{{"max_age": 0}}' {api}/api/queries/{slow_query}/results
  curl -s {redash}/sandbox/counters

  # 4. Hits, misses, executions, and the execution time that was saved
  curl -s {admin}/metrics | grep -E '^redash_gateway_(requests|executions|saved_execution_seconds)_total'

Ctrl-C stops everything; nothing is kept.
"""


class Tokens(NamedTuple):
    """The tokens of one demo."""

    client: str
    one_query: str
    admin: str


def main(port: int, admin_port: int, sandbox_port: int) -> int:
    """Run until interrupted. Returns the exit status."""
    log.set_up("text")
    try:
        with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
            runner.run(_run(port, admin_port, sandbox_port))
    except (StoreError, OSError) as error:
        print(f"redash-gateway demo: {error}", file=sys.stderr)  # noqa: T201 - talks to a terminal
        return 1
    return 0


async def _run(port: int, admin_port: int, sandbox_port: int) -> None:
    with tempfile.TemporaryDirectory(prefix="redash-gateway-demo-") as directory:
        sandbox = Sandbox(orders=ORDERS)
        await sandbox.start(port=sandbox_port)
        try:
            tokens = Tokens(*(f"rg_{secrets.token_urlsafe(32)}" for _ in range(3)))
            settings = _settings(sandbox, Path(directory), port, admin_port, tokens)
            runtime = Runtime(settings, operations=lambda runtime: RuntimeOperations(runtime, None))
            await run(runtime, started=lambda: print(_text(runtime, sandbox, tokens), flush=True))  # noqa: T201
        finally:
            await sandbox.stop()


def _settings(sandbox: Sandbox, directory: Path, port: int, admin_port: int, tokens: Tokens) -> config.Config:
    query_key_id = sandbox.named["in_country"]
    text = CONFIGURATION.format(
        port=port,
        admin_port=admin_port,
        redash=sandbox.url,
        query_key_id=query_key_id,
        token_sha256=config.token_hash(tokens.client),
        query_token_sha256=config.token_hash(tokens.one_query),
        admin_token_sha256=config.token_hash(tokens.admin),
    )
    keys = {"DEMO_KEY": sandbox.user_keys["analyst"], "DEMO_QUERY_KEY": sandbox.query_key(query_key_id)}
    return config.parse(text, directory, keys, "demo")


def _text(runtime: Runtime, sandbox: Sandbox, tokens: Tokens) -> str:
    return TEXT.format(
        orders=ORDERS,
        redash=sandbox.url,
        api=runtime.api_address.url,
        admin=runtime.admin_address.url,
        token=tokens.client,
        admin_token=tokens.admin,
        query=sandbox.named["by_country"],
        slow_query=sandbox.named["slow"],
        slow=3,
    )
