"""A configuration in a few lines for the operator. Pure; shows names and limits, never keys, tokens or hashes."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.schema import Capability, Client, Config, Server
from gateway.config.stores import is_redis
from gateway.config.values import AUTOMATIC

_PATIENCE_SECONDS = 60.0

_ORDER: tuple[Capability, ...] = ("read", "execute", "adhoc", "purge", "write", "admin")


def summary(config: Config) -> list[str]:
    """Return the upstream, the credentials by name and kind, and the clients with what they may do."""
    credentials = {name: f"query {c.query}" if c.query else c.kind for name, c in config.credentials.items()}
    clients = {name: "; ".join(_client(client)) for name, client in config.clients.items()}
    return [
        f"upstream: {config.upstream.url}",
        f"listens: {', '.join(map(str, config.server.listen))}, admin {config.admin.listen}",
        *_aligned("credentials", credentials),
        *_aligned("clients", clients),
    ]


def _aligned(title: str, rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in rows.items())]


def _client(client: Client) -> Iterator[str]:
    yield "can " + ", ".join(capability for capability in _ORDER if capability in client.can)
    yield "through " + ", ".join(client.credentials)
    if client.is_bound:
        yield "only " + ", and also ".join(_bound(client))
    else:
        yield f"all queries that {'its keys see' if len(client.credentials) > 1 else 'this key sees'}"
    if client.rate:
        yield f"at most {client.rate}"
    yield f"{len(client.token_sha256)} token{'' if len(client.token_sha256) == 1 else 's'}"


def _bound(client: Client) -> Iterator[str]:
    """Both bindings together are a union: what either of them allows."""
    if client.queries:
        yield "queries " + ", ".join(map(str, sorted(client.queries)))
    if client.dashboards:
        names = sorted(client.dashboards, key=lambda name: (isinstance(name, str), name))
        yield "the queries on dashboards " + ", ".join(map(str, names))


def notes(config: Config, now: float) -> list[str]:
    """Return remarks on what is valid but may not be intended; `now` is unix seconds."""
    return [*_exposed(config), *_cut_off(config), *_unused(config, now)]


def _exposed(config: Config) -> Iterator[str]:
    if (client := config.clients.get("anonymous")) and not client.token_sha256:
        yield "clients.anonymous: callers without a token are served"
    if not config.admin.listen.is_local and config.admin.token_sha256 is None:
        yield "admin.token_sha256: none, and admin.listen is open to other machines: only metrics and health are served"
    if "*" in config.server.hosts:
        yield 'server.hosts: "*" turns the Host check off, which guards against DNS rebinding'
    is_local = all(address.is_local for address in config.server.listen)
    if not is_local and config.server.hosts == Server().hosts:
        names = ", ".join(config.server.hosts)
        yield f"server.hosts: only {names}, though server.listen is open to other machines: other names get 421"
    if not is_local and config.server.tls_cert is None:
        yield "server.listen: open to other machines without TLS; put a TLS proxy in front of it"
    if is_redis(config.cache.store) and not config.redis_address.password.reveal():
        yield "cache.store: a Redis without a password; whoever can write there decides what clients get"


def _cut_off(config: Config) -> Iterator[str]:
    if config.server.max_wait >= _PATIENCE_SECONDS:
        yield f"server.max_wait: {_PATIENCE_SECONDS:g} s or more: most proxies in front of a server give up before"
    if config.server.drain_timeout <= config.server.max_wait:
        yield "server.drain_timeout: not above server.max_wait: a stop can cut off requests that wait for Redash"


def _unused(config: Config, now: float) -> Iterator[str]:
    if config.upstream.version == AUTOMATIC and all(c.kind == "query" for c in config.credentials.values()):
        yield 'upstream.version: "auto", but Redash tells its version to no query\'s own key; it counts as an old one'
    for name, client in config.clients.items():
        if client.expires is not None and client.expires <= now:
            yield f"clients.{name}.expires: has passed; its tokens are refused"
    used = {name for client in config.clients.values() for name in client.credentials}
    used |= {warm.credential for warm in config.warm}
    for name, credential in config.credentials.items():
        if name not in used and not (credential.kind == "query" and "query" in used):
            yield f"credentials.{name}: no client and no [[warm]] entry uses it"
