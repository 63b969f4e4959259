"""What several keys of the configuration must be to each other. Pure; notes mistakes in the report, no more.

`unless` names the keys whose own mistakes would make a note here a mere consequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.config.report import Report, did_you_mean, dotted, may_be_secret, shown
from gateway.config.schema import Cache, Client, Config, Credential, Rule, Warm

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BEYOND_BINDING = ("adhoc", "write", "admin")


def check(config: Config, report: Report) -> None:
    """Note every contradiction."""
    _listeners(config, report)
    _credentials(config.credentials, report)
    _clients(config, report)
    _tokens(config, report)
    _cache(config.cache, report)
    for number, warm in enumerate(config.warm):
        _warm(warm, f"warm[{number}]", config.credentials, report)


def _listeners(config: Config, report: Report) -> None:
    server, admin = config.server, config.admin
    if server.listen == admin.listen and (server.listen.unix or server.listen.port):
        both = ("server.listen", "admin.listen")
        report.add("admin.listen", "is the same address as server.listen; the two listeners need one each", unless=both)
    _pair(report, "server.tls_cert", "server.tls_key", bool(server.tls_cert), bool(server.tls_key))


def _pair(report: Report, first: str, second: str, has_first: bool, has_second: bool) -> None:
    if has_first != has_second:
        missing, given = (second, first) if has_first else (first, second)
        report.add(missing, f"is missing; {given} needs it", unless=(first, second))


def _credentials(credentials: dict[str, Credential], report: Report) -> None:
    keys: dict[int, str] = {}
    for name, credential in credentials.items():
        path = dotted("credentials", name)
        _name(name, path, report)
        if name == "query":
            report.add(path, 'the name "query" stands for "the key of the query asked for"; choose another')
        _kind(credential, path, report)
        if credential.kind == "query" and credential.query is not None:
            first = keys.setdefault(credential.query, path)
            if first != path:
                report.add(f"{path}.query", f"{first} is for the same query; keep one of them")


def _kind(credential: Credential, path: str, report: Report) -> None:
    kind, query = f"{path}.kind", f"{path}.query"
    if credential.kind == "query" and credential.query is None:
        report.add(query, 'is missing; kind = "query" needs the id of its query', unless=(kind, query))
    if credential.kind == "user" and credential.query is not None:
        report.add(query, 'belongs to kind = "query"; leave it out', unless=(kind,))


def _name(name: str, path: str, report: Report) -> None:
    if may_be_secret(name) or not _NAME.fullmatch(name):
        report.add(path, "is no usable name; take up to 64 letters, digits, '-', '_' and '.', and no long code")


def _clients(config: Config, report: Report) -> None:
    if not config.clients:
        text = "there is none, so nobody could call; write [clients.NAME] with token_sha256 and credentials"
        report.add("clients", text, unless=("clients",))
    for name, client in config.clients.items():
        path = dotted("clients", name)
        _name(name, path, report)
        _binding(client, path, report)
        _speaks_through(client, path, config.credentials, report)
        _bounds(client, path, report)
        if client.burst is not None and client.rate is None:
            report.add(f"{path}.burst", 'needs rate; write for example rate = "50/s"', unless=(f"{path}.rate",))
        if not client.token_sha256 and name != "anonymous":
            hashes = f"{path}.token_sha256"
            text = "names no token, so nobody could be this client; `redash-gateway token` makes one"
            report.add(hashes, text, unless=(hashes,))


def _binding(client: Client, path: str, report: Report) -> None:
    beyond = [capability for capability in _BEYOND_BINDING if capability in client.can]
    if client.is_bound and beyond:
        keys = " and ".join(key for key in ("queries", "dashboards") if getattr(client, key))
        text = f"{' and '.join(beyond)} would lead around the binding to {keys}; leave one of the two out"
        report.add(f"{path}.can", text)


def _speaks_through(client: Client, path: str, credentials: dict[str, Credential], report: Report) -> None:
    key = f"{path}.credentials"
    if not client.credentials:
        report.add(key, "names no credential to speak to Redash with", unless=(key,))
    for number, name in enumerate(client.credentials):
        if name == "query":
            if not any(credential.kind == "query" for credential in credentials.values()):
                text = '"query" needs a credential of kind = "query"; there is none'
                report.add(f"{key}[{number}]", text, unless=("credentials",))
        elif name is not None:
            _exists(name, f"{key}[{number}]", credentials, report)


def _exists(name: str, path: str, credentials: dict[str, Credential], report: Report) -> bool:
    if name not in credentials:
        known = (other for other in credentials if not may_be_secret(other))
        report.add(path, f"there is no credential {shown(name)}; {did_you_mean(name, known)}")
    return name in credentials


def _tokens(config: Config, report: Report) -> None:
    seen: dict[str, str] = {}
    for path, token in _all_tokens(config):
        first = seen.setdefault(token, path)
        if first != path:
            report.add(path, f"is the same token as {first}; each needs its own")


def _all_tokens(config: Config) -> Iterator[tuple[str, str]]:
    for name, client in config.clients.items():
        for number, token in enumerate(client.token_sha256):
            if token is not None:
                yield f"{dotted('clients', name)}.token_sha256[{number}]", token
    if config.admin.token_sha256:
        yield "admin.token_sha256", config.admin.token_sha256


def _cache(cache: Cache, report: Report) -> None:
    _bounds(cache, "cache", report)
    for number, rule in enumerate(cache.rules):
        path = f"cache.rules[{number}]"
        _bounds(rule, path, report)
        selectors = ("queries", "data_sources", "tags")
        if not any(getattr(rule, selector) for selector in selectors):
            keys = [f"{path}.{selector}" for selector in selectors]
            report.add(path, "matches nothing; it needs queries, data_sources or tags", unless=keys)


def _bounds(table: Client | Rule | Cache, path: str, report: Report) -> None:
    if table.floor is not None and table.ceiling is not None and table.floor > table.ceiling:
        text = f"{table.floor:g} s is more than the ceiling of {table.ceiling:g} s"
        report.add(f"{path}.floor", text, unless=(f"{path}.floor", f"{path}.ceiling"))


def _warm(warm: Warm, path: str, credentials: dict[str, Credential], report: Report) -> None:
    query, dashboard = f"{path}.query", f"{path}.dashboard"
    if (warm.query is None) == (warm.dashboard is None):
        report.add(path, "needs exactly one of query and dashboard", unless=(query, dashboard))
    elif warm.parameters and warm.dashboard is not None:
        report.add(f"{path}.parameters", "goes with query only; a dashboard's queries run with their defaults")
    key = f"{path}.credential"
    if warm.credential is None or not _exists(warm.credential, key, credentials, report):
        return
    credential = credentials[warm.credential]
    if credential.kind == "query" and credential.query not in (None, warm.query):
        text = f"{shown(warm.credential)} is the key of query {credential.query} and can run only that one"
        report.add(key, text, unless=(query, dashboard))
