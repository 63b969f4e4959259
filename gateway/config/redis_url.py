"""How `cache.store` names a Redis: one server, or the Sentinels that know it. Pure; no message shows a password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.config import values
from gateway.secret import Secret

SERVER: Final = "redis://HOST:PORT/DB"
SENTINELS: Final = "redis+sentinel://HOST1:26379,HOST2:26379/MASTER"

_DATABASE = re.compile(r"(/([0-9]{1,5})?)?")
_MASTER = re.compile(r"/([A-Za-z0-9][A-Za-z0-9._-]{0,99})(/([0-9]{1,5})?)?", re.ASCII)
_SERVER_PORT = 6379
_SENTINEL_PORT = 26379


NO_PASSWORD: Final = Secret("")


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is. `hosts` are its one server or, if there is a `master`, the Sentinels that know it."""

    hosts: tuple[tuple[str, int], ...]
    tls: bool
    master: str = ""
    database: int = 0
    username: str = ""
    password: Secret = NO_PASSWORD

    def __repr__(self) -> str:
        return f"RedisAddress({self})"

    def __str__(self) -> str:
        hosts = ",".join(str(values.Listen(host=host, port=port)) for host, port in self.hosts)
        place = f"{self.master}/{self.database}" if self.master else str(self.database)
        return f"redis{'s' if self.tls else ''}{'+sentinel' if self.master else ''}://{hosts}/{place}"


def redis_address(given: str) -> RedisAddress:
    """Parse the URL of a Redis. A ValueError says what to write instead."""
    scheme, _, rest = given.partition(":")
    kind = scheme.lower()
    if re.search(r"[\s?#]", given):
        raise ValueError("has a character that must be percent-encoded in a password, or an argument, which none takes")
    if not rest.startswith("//"):
        raise ValueError(f'is not a URL; write "{SENTINELS if "sentinel" in kind else SERVER}"')
    login, _, place = rest.removeprefix("//").rpartition("@")
    names, slash, path = place.partition("/")
    parse = _sentinels if kind.endswith("+sentinel") else _server
    return _logged_in(parse(names, slash + path, tls=kind.startswith("rediss")), login)


def _server(name: str, path: str, *, tls: bool) -> RedisAddress:
    if "," in name:
        raise ValueError(f'names several servers, which is for Sentinels: write "{SENTINELS}"')
    found = _DATABASE.fullmatch(path)
    if found is None:
        raise ValueError(f'has a path that is not the number of a database; write "{SERVER}"')
    return RedisAddress(hosts=(_host(name, _SERVER_PORT),), tls=tls, database=int(found[2] or 0))


def _sentinels(names: str, path: str, *, tls: bool) -> RedisAddress:
    found = _MASTER.fullmatch(path)
    if found is None:
        raise ValueError(f'lacks the name by which the Sentinels know the master; write "{SENTINELS}"')
    hosts = tuple(_host(name, _SENTINEL_PORT) for name in names.split(","))
    return RedisAddress(hosts=hosts, tls=tls, master=found[1], database=int(found[3] or 0))


def _host(name: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{name}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:  # its text quotes the URL
        host = ""
    if not values.is_host(host):
        raise ValueError(f'has a host or port that cannot be read; write "{SERVER}"')
    return host, port


def _logged_in(address: RedisAddress, login: str) -> RedisAddress:
    username, _, password = (unquote(part) for part in login.partition(":"))
    return msgspec.structs.replace(address, username=username, password=Secret(password))
