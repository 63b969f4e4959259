"""Opens store, ledger and leases that `cache.store` names; `gateway/config/stores.py` says how schemes are written."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway import needs_extra
from gateway.concurrency.space import Space
from gateway.config import Redis, RedisAddress, is_redis, split_store
from gateway.errors import StoreError
from gateway.model import Clock
from gateway.store import temporary
from gateway.store.layered import LayeredStore
from gateway.store.local_leases import LocalLeases
from gateway.store.memory import MemoryStore
from gateway.store.memory_ledger import MemoryLedger
from gateway.store.protocols import FrontStore, Leases, Ledger
from gateway.store.sharing import Sharing
from gateway.store.sqlite import ownership
from gateway.store.sqlite.ledger import SqliteLedger
from gateway.store.sqlite.store import SqliteStore
from gateway.store.temporary import TemporaryFiles

if TYPE_CHECKING:
    from gateway.store.redis.server import RedisOptions

LEDGER_SHARE: Final = 16
"""Executions may take 1/16 of `cache.disk` beside the results, and so may jobs."""

Opened = tuple[FrontStore, Ledger, Leases]


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a store needs besides its place."""

    memory_bytes: int
    disk_bytes: int
    max_entry_bytes: int
    clock: Clock
    lock_wait_seconds: float
    address: RedisAddress | None = None
    """Of the Redis that `cache.store` names, with user and password."""
    redis: Redis = Redis()
    name: str = ""
    """Of this gateway, for those with which it shares the store."""
    upstream_url: str = ""


def _front(options: StoreOptions) -> MemoryStore:
    # Twice: files that are stored, and those that arrive.
    windows = Space(options.memory_bytes // 8)
    files = TemporaryFiles(2 * options.memory_bytes, options.max_entry_bytes, windows, options.clock)
    return MemoryStore(options.memory_bytes, options.clock, max_entry_bytes=options.max_entry_bytes, temporary=files)


def _memory(_place: str, options: StoreOptions) -> Opened:
    return _front(options), MemoryLedger(options.clock), LocalLeases()


def _sqlite(place: str, options: StoreOptions) -> Opened:
    front = MemoryStore(options.memory_bytes, options.clock, max_entry_bytes=options.max_entry_bytes)
    backing = SqliteStore(
        Path(place),
        disk_bytes=options.disk_bytes,
        max_entry_bytes=options.max_entry_bytes,
        clock=options.clock,
        lock_wait_seconds=options.lock_wait_seconds,
        memory_bytes=options.memory_bytes,
    )
    ledger = SqliteLedger(
        backing.database, backing.writer, options.clock, limit_bytes=options.disk_bytes // LEDGER_SHARE
    )
    backing.sweepers += [front.sweep, ledger.sweep]
    return LayeredStore(front, backing), ledger, LocalLeases()


def _redis(_place: str, options: StoreOptions) -> Opened:
    from gateway.store.redis.leases import RedisLeases  # noqa: PLC0415 - only with the extra
    from gateway.store.redis.ledger import RedisLedger  # noqa: PLC0415
    from gateway.store.redis.link import Link  # noqa: PLC0415
    from gateway.store.redis.store import RedisStore  # noqa: PLC0415

    clock = options.clock
    link = Link(_redis_options(options), clock)
    limits = {"disk_bytes": options.disk_bytes, "max_entry_bytes": options.max_entry_bytes}
    store = RedisStore(link, _front(options), clock=clock, **limits)
    ledger = RedisLedger(link, clock, limit_bytes=options.disk_bytes // LEDGER_SHARE)
    store.sweepers.append(ledger.sweep)
    return store, ledger, RedisLeases(link, clock)


def _redis_options(options: StoreOptions) -> RedisOptions:
    from gateway.store.redis.server import RedisOptions  # noqa: PLC0415

    assert options.address is not None  # noqa: S101 - the configuration has it for these schemes
    return RedisOptions(
        address=options.address,
        prefix=options.redis.prefix,
        ca_file=options.redis.ca_file,
        name=options.name,
        upstream_url=options.upstream_url,
        login_keys=_login_keys(options.address, options.redis),
    )


def _login_keys(address: RedisAddress, table: Redis) -> str:
    """Return where user and password of Redis are written, or where to write them."""
    user = "cache.store" if address.username and table.username is None else "redis.username"
    if table.password_env is not None or (table.password_file is None and not address.password.reveal()):
        return f"{user} and redis.password_env"
    if table.password_file is not None:
        return f"{user} and redis.password_file"
    return "cache.store"


OPENERS: Final[Mapping[str, Callable[[str, StoreOptions], Opened]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "rediss": _redis,
    "redis+sentinel": _redis,
    "rediss+sentinel": _redis,
}


def refusal(spec: str) -> str | None:
    """Return what is wrong with the place that `cache.store` names, or what is not installed for it; None also if it
    cannot be read: opening says so."""
    scheme, place = split_store(spec)
    if is_redis(spec) and importlib.util.find_spec("redis") is None:
        return f"a Redis {needs_extra('redis')}"
    if scheme != "sqlite":
        return None
    try:
        return ownership.refusal(Path(place))
    except OSError:
        return None


def obstacle(spec: str) -> str | None:
    """Return what keeps this process from opening the store on this machine, and what to do; None if nothing does."""
    scheme, place = split_store(spec)
    path = Path(place)
    if scheme != "sqlite":
        return None
    if not path.parent.is_dir():
        return f"the directory {path.parent} is missing; make it, for the user that runs the gateway"
    for each, mode in ((path.parent, os.W_OK | os.X_OK), (path, os.W_OK), (Path(f"{path}.bodies"), os.W_OK | os.X_OK)):
        if each.exists() and not os.access(each, mode):
            return f"this user may not write to {each}; give it to the user that runs the gateway (chown)"
    return None


def remark(spec: str, memory_bytes: int, max_entry_bytes: int) -> str | None:
    """Return what the store lacks on this machine, though it works without it; None if it is complete."""
    scheme, _ = split_store(spec)
    if scheme == "sqlite":
        return None
    if (why := temporary.directory_refusal()) is not None:
        return f"no temporary directory, so results over 256 KB will be passed on, but not cached ({why})"
    if max_entry_bytes > memory_bytes:
        return (
            f"results may be as large as cache.max_entry, but all large results on this machine, also those that "
            f"arrive, have {2 * memory_bytes / 1e6:g} MB (twice cache.memory): those that find no room are passed on, "
            "but not cached; let cache.memory be at least cache.max_entry"
        )
    return None


def sharing(store: object) -> Sharing | None:
    """Return how gateways with this store speak with each other; None if it belongs to one alone."""
    link = getattr(store, "link", None)
    if link is None:
        return None
    from gateway.store.redis.sharing import RedisSharing  # noqa: PLC0415 - only with the extra

    return RedisSharing(link)


class Examined(NamedTuple):
    """What is to be said of a server that stores for us, and what must be changed there; one line each."""

    notes: list[str]
    mistakes: list[str]


async def examine(spec: str, options: StoreOptions) -> Examined:
    """Try the server that `cache.store` names, if it names one."""
    if not is_redis(spec):
        return Examined([], [])
    from gateway.store.redis.examine import examine as examine_redis  # noqa: PLC0415 - only with the extra

    return Examined(*await examine_redis(_redis_options(options), options.disk_bytes))


def open_store(spec: str, options: StoreOptions) -> Opened:
    """Make store, ledger and leases of `cache.store`; the store's `open` and `close` serve all. Raises StoreError."""
    try:
        scheme, place = split_store(spec)
    except ValueError as error:
        raise StoreError(f"cache.store {error}") from None
    return OPENERS[scheme](place, options)
