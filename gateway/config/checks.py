"""Conditions on several keys of the configuration. Pure; only adds to the list of mistakes.

`unless` names keys: if one of them has a mistake of its own, the one here may be only its consequence and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from gateway.config.mistakes import Mistakes, did_you_mean, dotted, may_be_secret, shown
from gateway.config.redis_url import redis_address
from gateway.config.schema import Cache, Client, Config, Credential, Redis, Rule, Warm
from gateway.config.stores import is_redis
from gateway.config.units import RuntimeFloor
from gateway.config.values import Listen

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_COMPARED = 100
"""To compare thousands of mistyped names with thousands of credentials would take minutes."""

_BEYOND_BINDING = ("adhoc", "write", "admin")


def check(config: Config, mistakes: Mistakes) -> None:
    """Add every contradiction to the mistakes."""
    _listeners(config, mistakes)
    _upstream(config, mistakes)
    _credentials(config.credentials, mistakes)
    _clients(config, mistakes)
    _tokens(config, mistakes)
    _cache(config.cache, mistakes)
    _redis(config, mistakes)
    _warm_all(config, mistakes)


def _listeners(config: Config, mistakes: Mistakes) -> None:
    server = config.server
    seen: dict[Listen, str] = {}
    for key, address in (*server.addresses, ("admin.listen", config.admin.listen)):
        first = seen.setdefault(address, key)
        if first != key and (address.unix or address.port):
            mistakes.add(key, f"is the same address as {first}; each needs its own", unless=(first, key))
    if not any(address.unix for _, address in server.addresses):
        for key in ("socket_mode", "socket_group"):
            if getattr(server, key) is not None:
                text = 'is only for a Unix socket in server.listen; write "unix:/path" there, or leave it out'
                mistakes.add(f"server.{key}", text, unless=("server.listen", f"server.{key}"))
    _pair(mistakes, "server.tls_cert", "server.tls_key", bool(server.tls_cert), bool(server.tls_key))


def _upstream(config: Config, mistakes: Mistakes) -> None:
    parts = urlsplit(config.upstream.url or "")  # None: the mistake is known
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    for key, listen in (*config.server.addresses, ("admin.listen", config.admin.listen)):
        if parts.hostname and listen.is_reached_by(parts.hostname, port):
            text = f"leads to the gateway itself ({key} is {listen}); write the address of Redash"
            mistakes.add("upstream.url", text, unless=("upstream.url", key))
    if parts.path and parts.path == config.server.path_prefix:
        text = "is the slug in upstream.url, which clients may use in their paths anyway; leave it out"
        mistakes.add("server.path_prefix", text, unless=("upstream.url", "server.path_prefix"))


def _pair(mistakes: Mistakes, first: str, second: str, has_first: bool, has_second: bool) -> None:
    if has_first != has_second:
        missing, given = (second, first) if has_first else (first, second)
        mistakes.add(missing, f"is missing; {given} needs it", unless=(first, second))


def _credentials(credentials: dict[str, Credential], mistakes: Mistakes) -> None:
    keys: dict[int, str] = {}
    for name, credential in credentials.items():
        path = dotted("credentials", name)
        _name(name, path, mistakes)
        if name == "query":
            mistakes.add(path, 'the name "query" stands for "the key of the requested query"; choose another')
        _kind(credential, path, mistakes)
        if credential.kind == "query" and credential.query is not None:
            first = keys.setdefault(credential.query, path)
            if first != path:
                mistakes.add(f"{path}.query", f"{first} is for the same query; keep one of them")


def _kind(credential: Credential, path: str, mistakes: Mistakes) -> None:
    kind, query = f"{path}.kind", f"{path}.query"
    if credential.kind == "query" and credential.query is None:
        mistakes.add(query, 'is missing; kind = "query" needs the id of its query', unless=(kind, query))
    if credential.kind == "user" and credential.query is not None:
        mistakes.add(query, 'belongs to kind = "query"; leave it out', unless=(kind,))


def _name(name: str, path: str, mistakes: Mistakes) -> None:
    if may_be_secret(name) or not _NAME.fullmatch(name):
        mistakes.add(path, "is not a usable name; use up to 64 letters, digits, '-', '_' and '.', and no long code")


def _clients(config: Config, mistakes: Mistakes) -> None:
    if not config.clients:
        text = "there is none, so nobody could send requests; write [clients.NAME] with token_sha256 and credentials"
        mistakes.add("clients", text, unless=("clients",))
    for name, client in config.clients.items():
        path = dotted("clients", name)
        _name(name, path, mistakes)
        _binding(client, path, mistakes)
        _client_credentials(client, path, config.credentials, mistakes)
        _bounds(client, path, mistakes)
        if client.burst is not None and client.rate is None:
            mistakes.add(f"{path}.burst", 'needs rate; write for example rate = "50/s"', unless=(f"{path}.rate",))
        _budget(client, path, mistakes)
        if not client.token_sha256 and name != "anonymous":
            hashes = f"{path}.token_sha256"
            text = "names no token, so nobody could call as this client; `redash-gateway token` makes one"
            mistakes.add(hashes, text, unless=(hashes,))


def _budget(client: Client, path: str, mistakes: Mistakes) -> None:
    seen: dict[float, int] = {}
    for number, budget in enumerate(client.budget):
        if budget is not None and seen.setdefault(budget.per_seconds, number) != number:
            mistakes.add(f"{path}.budget[{number}]", "is for the same time as another one; keep one of them")
    if client.stale_over_budget is not None and not client.budget:
        key = f"{path}.budget"
        mistakes.add(f"{path}.stale_over_budget", 'needs budget; write for example budget = "30m/h"', unless=(key,))


def _binding(client: Client, path: str, mistakes: Mistakes) -> None:
    beyond = [capability for capability in _BEYOND_BINDING if capability in client.can]
    if client.is_bound and beyond:
        keys = " and ".join(key for key in ("queries", "dashboards") if getattr(client, key))
        text = f"{' and '.join(beyond)} would bypass the binding to {keys}; leave one of the two out"
        mistakes.add(f"{path}.can", text)


def _client_credentials(client: Client, path: str, credentials: dict[str, Credential], mistakes: Mistakes) -> None:
    key = f"{path}.credentials"
    if not client.credentials:
        mistakes.add(key, "names no credential for Redash", unless=(key,))
    for number, name in enumerate(client.credentials):
        if name == "query":
            if not any(credential.kind == "query" for credential in credentials.values()):
                text = '"query" needs a credential of kind = "query"; there is none'
                mistakes.add(f"{key}[{number}]", text, unless=("credentials",))
        elif name is not None:
            _exists(name, f"{key}[{number}]", credentials, mistakes)


def _exists(name: str, path: str, credentials: dict[str, Credential], mistakes: Mistakes) -> bool:
    if name not in credentials:
        mistakes.add(path, f"there is no credential {shown(name)}; {_nearest(name, credentials)}")
    return name in credentials


def _nearest(name: str, credentials: dict[str, Credential]) -> str:
    if len(credentials) > _MOST_COMPARED:
        return f"it is none of the {len(credentials)} that there are"
    return did_you_mean(name, (other for other in credentials if not may_be_secret(other)))


def _tokens(config: Config, mistakes: Mistakes) -> None:
    seen: dict[str, str] = {}
    for path, token in _all_tokens(config):
        first = seen.setdefault(token, path)
        if first != path:
            mistakes.add(path, f"is the same token as {first}; each needs its own")


def _all_tokens(config: Config) -> Iterator[tuple[str, str]]:
    for name, client in config.clients.items():
        for number, token in enumerate(client.token_sha256):
            if token is not None:
                yield f"{dotted('clients', name)}.token_sha256[{number}]", token
    if config.admin.token_sha256:
        yield "admin.token_sha256", config.admin.token_sha256


def _cache(cache: Cache, mistakes: Mistakes) -> None:
    _bounds(cache, "cache", mistakes)
    for number, rule in enumerate(cache.rules):
        path = f"cache.rules[{number}]"
        _bounds(rule, path, mistakes)
        selectors = ("queries", "data_sources", "tags")
        if not any(getattr(rule, selector) for selector in selectors):
            keys = [f"{path}.{selector}" for selector in selectors]
            mistakes.add(path, "matches nothing; it needs queries, data_sources or tags", unless=keys)


def _bounds(table: Client | Rule | Cache, path: str, mistakes: Mistakes) -> None:
    least = table.floor.at_least if isinstance(table.floor, RuntimeFloor) else table.floor
    if least is not None and table.ceiling is not None and least > table.ceiling:
        text = f"{least:g} s is more than the ceiling of {table.ceiling:g} s"
        mistakes.add(f"{path}.floor", text, unless=(f"{path}.floor", f"{path}.ceiling"))


def _redis(config: Config, mistakes: Mistakes) -> None:
    table = config.redis
    if not is_redis(config.cache.store):
        for name in Redis.__struct_fields__:
            if getattr(table, name) != getattr(Redis(), name):
                text = 'is only for a Redis in cache.store; write store = "redis://HOST:PORT/DB" there, or leave it out'
                mistakes.add(f"redis.{name}", text, unless=("cache.store", f"redis.{name}"))
        return
    _redis_login(config, mistakes)
    if table.ca_file and not config.redis_address.tls:
        mistakes.add("redis.ca_file", 'is only for TLS; write "rediss:" instead of "redis:" in cache.store')


def _redis_login(config: Config, mistakes: Mistakes) -> None:
    table, url = config.redis, redis_address(config.cache.store)
    sources = ("redis.password_env", "redis.password_file")
    passwords = {"cache.store": url.password.reveal(), **{key: getattr(table, key[6:]) for key in sources}}
    given = [key for key, value in passwords.items() if value]
    if len(given) > 1:
        mistakes.add(given[1], f"{given[0]} gives a password, too; keep one of them", unless=sources)
    if table.username and url.username:
        mistakes.add("redis.username", "cache.store names a user, too; keep one of them")
    if (table.username or url.username) and not given:
        key = "redis.username" if table.username else "cache.store"
        mistakes.add(
            key, "has a user without a password; add redis.password_env or redis.password_file", unless=sources
        )


def _warm(warm: Warm, path: str, credentials: dict[str, Credential], mistakes: Mistakes) -> None:
    kinds = [name for name in ("query", "dashboard", "popular") if getattr(warm, name) is not None]
    keys = [f"{path}.{name}" for name in ("query", "dashboard", "popular")]
    if len(kinds) != 1:
        mistakes.add(path, "needs exactly one of query, dashboard and popular", unless=keys)
    elif warm.parameters and warm.query is None:
        mistakes.add(f"{path}.parameters", "goes with query only; a dashboard's queries run with their defaults")
    else:
        _warm_keys(warm, kinds[0], path, mistakes)
    key = f"{path}.credential"
    if warm.credential is None or not _exists(warm.credential, key, credentials, mistakes):
        return
    credential = credentials[warm.credential]
    if credential.kind == "query" and credential.query not in (None, warm.query) and warm.popular is None:
        text = f"{shown(warm.credential)} is the key of query {credential.query} and can run only that one"
        mistakes.add(key, text, unless=keys)


_POPULAR = ("within", "budget", "quiet")
"""Keys that go with `popular` only; the first two are needed there."""


def _warm_keys(warm: Warm, kind: str, path: str, mistakes: Mistakes) -> None:
    """Add a mistake for each key that this kind of entry needs or cannot have."""
    needed = ("within", "budget") if kind == "popular" else ("every",)
    foreign = ("every",) if kind == "popular" else _POPULAR
    for name in needed:
        if getattr(warm, name) is None:
            text = "is missing and has no default" if name == "every" else f"is missing; {kind} needs it"
            mistakes.add(f"{path}.{name}", text, unless=(f"{path}.{name}",))
    for name in foreign:
        if getattr(warm, name) is not None:
            other = "query and dashboard" if kind == "popular" else "popular"
            mistakes.add(f"{path}.{name}", f"goes with {other} only; leave it out", unless=(f"{path}.{kind}",))


def _warm_all(config: Config, mistakes: Mistakes) -> None:
    seen: dict[str, str] = {}
    for number, warm in enumerate(config.warm):
        path = f"warm[{number}]"
        _warm(warm, path, config.credentials, mistakes)
        if warm.popular is not None and warm.credential is not None:
            first = seen.setdefault(warm.credential, path)
            if first != path:
                mistakes.add(f"{path}.credential", f"{first} renews what is popular with it already; keep one of them")
