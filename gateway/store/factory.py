"""Opens the store and ledger that `cache.store` names. `gateway/config/stores.py` says how each scheme is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from gateway.concurrency.space import Space
from gateway.config import split_store
from gateway.errors import StoreError
from gateway.model import Clock
from gateway.store import temporary
from gateway.store.layered import LayeredStore
from gateway.store.memory import MemoryStore
from gateway.store.memory_ledger import MemoryLedger
from gateway.store.sqlite import ownership
from gateway.store.sqlite.ledger import SqliteLedger
from gateway.store.sqlite.store import SqliteStore
from gateway.store.temporary import TemporaryFiles

LEDGER_SHARE: Final = 16
"""Executions may take 1/16 of `cache.disk` beside the results, and so may jobs."""

Opened = tuple[MemoryStore | LayeredStore, MemoryLedger | SqliteLedger]


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a store needs besides its place."""

    memory_bytes: int
    disk_bytes: int
    max_entry_bytes: int
    clock: Clock
    lock_wait_seconds: float


def _memory(_place: str, options: StoreOptions) -> Opened:
    # Twice: files that are stored, and those that arrive.
    windows = Space(options.memory_bytes // 8)
    files = TemporaryFiles(2 * options.memory_bytes, options.max_entry_bytes, windows, options.clock)
    memory = MemoryStore(options.memory_bytes, options.clock, max_entry_bytes=options.max_entry_bytes, temporary=files)
    return memory, MemoryLedger(options.clock)


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
    return LayeredStore(front, backing), ledger


def _redis(_place: str, _options: StoreOptions) -> Opened:
    raise StoreError("a Redis store is not available in this version; use sqlite:PATH or memory:")


OPENERS: Final[Mapping[str, Callable[[str, StoreOptions], Opened]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "rediss": _redis,
}


def refusal(spec: str) -> str | None:
    """Return what is wrong with the place that `cache.store` names; None also if it cannot be read: opening says so."""
    scheme, place = split_store(spec)
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


def remark(spec: str) -> str | None:
    """Return what the store lacks on this machine, though it works without it; None if it is complete."""
    scheme, _ = split_store(spec)
    if scheme == "memory" and (why := temporary.directory_refusal()) is not None:
        return f"no temporary directory, so results over 256 KB will be passed on, but not cached ({why})"
    return None


def open_store(spec: str, options: StoreOptions) -> Opened:
    """Make the store and ledger of `cache.store`; the store's `open` and `close` serve both. Raises StoreError."""
    try:
        scheme, place = split_store(spec)
    except ValueError as error:
        raise StoreError(f"cache.store {error}") from None
    return OPENERS[scheme](place, options)
