"""The configuration that `init` writes: what a first start needs, and what is often changed, with comments. Pure."""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

DEFAULT_CREDENTIAL: Final = "reporting"
"""The name of the only key."""

TEMPLATE: Final = """\
# Redash Gateway. `redash-gateway check --online` says what is wrong here; SIGHUP applies a change.
# All keys with their defaults: config.example.toml in the project's repository.

[server]
# Address for clients: "host:port", "[::1]:port" or "unix:/path". A change needs a restart.
listen = {listen}
# Names that clients may use in URLs, without port. Others get 421.
hosts = {hosts}
# Web pages that may call the gateway from a browser.
#cors_origins = ["https://intranet.example.com"]

[admin]
# Address for metrics, health, console, purge and reload: for operators only.
listen = "127.0.0.1:8081"
# The hash of the admin token (`redash-gateway token` makes both), which the commands explain, purge and reload need.
#token_sha256 = "1111111111111111111111111111111111111111111111111111111111111111"

[upstream]
# URL of Redash, with the organisation's slug if there is one.
url = {url}
# Certificate of the authority (PEM) that signed Redash's certificate, where the system does not know it.
#ca_file = "ca.pem"
# Queries that run in Redash at once; more wait, fairly by client.
max_executions = 8

{credential}
# A client: a dashboard or a service that calls the gateway. Each has a table of its own; the names are free.
[clients.{client}]
# `redash-gateway token` makes a token for another client, and its line.
token_sha256 = [{token_sha256}]
# The keys for its requests: the first that can do the job.
credentials = [{credential_name}]
# Only these queries, and the queries on these dashboards. Default: all that the key can see.
#queries = [12, 42]
#dashboards = [3]
# Queries with text parameters put the caller's text into the SQL; allow them to this client?
text_parameters = false
# Limits on its requests, and on its queries that run at once.
#rate = "50/s"
#max_executions = 4

[cache]
# Results are kept here, across restarts. A relative path starts at this file. "memory:" keeps them until a restart.
store = "sqlite:redash-gateway.db"
# The store takes at most so much of the disk, the process about 120 MB and four times `memory`.
disk = "4GB"
memory = "256MB"
# Results that are younger than this count as fresh, whatever a client asks for.
#floor = "30s"
# So long may older results be sent while Redash is unavailable.
stale_if_error = "1h"
"""

_CREDENTIAL: Final = """\
# An API key of Redash. The key itself is not in this file.
[credentials.{name}]
# "user": a user's key, from the profile page. "query": the key of one query, which needs `query = 42`.
kind = "user"
{source}
"""

_BOUND: Final = """\
[clients.{name}]
token_sha256 = [{token_sha256}]
credentials = [{credential}]
dashboards = [{dashboard}]
"""


class Source(NamedTuple):
    """Where a key comes from: `key_env` or `key_file` of a credential, and its value."""

    option: str
    value: str

    @property
    def line(self) -> str:
        """The line for the credential's table."""
        return f"{self.option} = {quoted(self.value)}"


def quoted(text: str) -> str:
    """Return a text as TOML has it; a JSON string is a TOML string."""
    return json.dumps(text, ensure_ascii=False)


def credential_table(name: str, source: Source) -> str:
    """Return the table of a credential."""
    return _CREDENTIAL.format(name=name, source=source.line)


def bound_client_table(name: str, token_sha256: str, credential: str, dashboard: int) -> str:
    """Return the table of a client that may use one dashboard."""
    return _BOUND.format(
        name=name, token_sha256=quoted(token_sha256), credential=quoted(credential), dashboard=dashboard
    )


def configuration(url: str, source: Source, listen: str, client: str, token_sha256: str) -> str:
    """Return the whole file."""
    host = listen.rpartition(":")[0].strip() if not listen.startswith("unix:") else ""
    names = dict.fromkeys(["localhost", "127.0.0.1", *([] if host in ("", "0.0.0.0", "[::]") else [host])])  # noqa: S104
    return TEMPLATE.format(
        listen=quoted(listen),
        hosts=f"[{', '.join(map(quoted, names))}]",
        url=quoted(url),
        credential=credential_table(DEFAULT_CREDENTIAL, source),
        credential_name=quoted(DEFAULT_CREDENTIAL),
        client=client,
        token_sha256=quoted(token_sha256),
    )


def table_name(text: str, taken: set[str]) -> str:
    """Return a name for a table that comes close to a text and is not taken yet; takes it."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "unnamed"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(name)
    return name
