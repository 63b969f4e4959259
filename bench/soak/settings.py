"""The configuration of the gateway in a soak: small bounds, and clients of several kinds and scopes."""

from __future__ import annotations

import hashlib
import textwrap

from support.calls import ADMIN_TOKEN, token

MB = 10**6
MEMORY_MB, DISK_MB = 32, 64
MAX_WAIT_SECONDS = 5.0
DRAIN_SECONDS = 15.0
"""While a process stops, requests wait for the next one: with `MAX_WAIT_SECONDS`, less than callers do (30 s)."""
MOST_REQUESTS, MOST_EXECUTIONS = 8, 4
DEFINITION_CHECK_SECONDS = 2.0
CLIENTS = ("dashboard", "second", "sql", "keyed", "bound", "writer")
TOKENS = {name: token(name) for name in (*CLIENTS, "visitor", "nobody")}
"""`visitor` is a client that reloads let in and shut out."""

_RIGHTS = {
    "keyed": 'credentials = ["query"]',
    "sql": 'credentials = ["analyst"]\ncan = ["read", "execute", "adhoc"]',
    "writer": 'credentials = ["admin"]\ncan = ["read", "execute", "write"]',
}


def text(api: str, admin: str, redash: str, stamp: int, *, visitor: bool, reset: str) -> str:
    """Return the file. `stamp` is the query that has a key, and that the bound client may use."""
    tables = [_TABLES.format(api=api, admin=admin, redash=redash, stamp=stamp, reset=reset)]
    rights = _RIGHTS | {"bound": f'credentials = ["analyst"]\nqueries = [{stamp}]'}
    for name in (*CLIENTS, "visitor"):
        brought = TOKENS["nobody" if name == "visitor" and not visitor else name]
        digest = hashlib.sha256(brought.encode()).hexdigest()
        lines = rights.get(name, 'credentials = ["analyst"]')
        tables.append(f'[clients.{name}]\ntoken_sha256 = ["{digest}"]\n{lines}\n')
    return "\n".join(tables)


_TABLES = textwrap.dedent(f"""\
    [server]
    listen = "{{api}}"
    max_wait = "{MAX_WAIT_SECONDS:g}s"
    drain_timeout = "{DRAIN_SECONDS:g}s"
    [admin]
    listen = "{{admin}}"
    token_sha256 = "{hashlib.sha256(ADMIN_TOKEN.encode()).hexdigest()}"
    [upstream]
    url = "{{redash}}"
    connect_timeout = "2s"
    read_timeout = "5s"
    queue_timeout = "5s"
    max_requests = {MOST_REQUESTS}
    max_executions = {MOST_EXECUTIONS}
    breaker_reset = "{{reset}}"
    [credentials.analyst]
    kind = "user"
    key_env = "KEY_ANALYST"
    [credentials.admin]
    kind = "user"
    key_env = "KEY_ADMIN"
    [credentials.stamp]
    kind = "query"
    query = {{stamp}}
    key_env = "QUERY_KEY_{{stamp}}"
    [cache]
    store = "sqlite:store/gateway.db"
    memory = "{MEMORY_MB}MB"
    disk = "{DISK_MB}MB"
    max_entry = "16MB"
    definition_check = "{DEFINITION_CHECK_SECONDS:g}s"
    any_age_confirm = "2s"
    metadata_ttl = "1s"
    stale_if_error = "1h"
    [log]
    access = false
    """)
