"""Makes a store and its ledger from `cache.store` of the configuration."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import StoreError
from gateway.model import Clock
from gateway.store.layered import LayeredStore
from gateway.store.memory import MemoryStore
from gateway.store.memory_ledger import MemoryLedger
from gateway.store.sqlite.ledger import SqliteLedger
from gateway.store.sqlite.store import SqliteStore


def open_store(
    spec: str,
    *,
    memory_bytes: int,
    disk_bytes: int,
    max_entry_bytes: int,
    clock: Clock,
    lock_wait_seconds: float,
) -> tuple[MemoryStore | LayeredStore, MemoryLedger | SqliteLedger]:
    """Make store and ledger for `memory:` or `sqlite:PATH`; the store's `open` and `close` serve both.

    Raises StoreError for anything else.
    """
    kind, _, rest = spec.partition(":")
    if kind == "memory" and not rest:
        memory = MemoryStore(memory_bytes, clock, max_entry_bytes=max_entry_bytes, spool=True)
        return memory, MemoryLedger(clock)
    if kind == "sqlite" and rest:
        front = MemoryStore(memory_bytes, clock, max_entry_bytes=max_entry_bytes)
        backing = SqliteStore(
            Path(rest),
            disk_bytes=disk_bytes,
            max_entry_bytes=max_entry_bytes,
            clock=clock,
            lock_wait_seconds=lock_wait_seconds,
        )
        lasting = SqliteLedger(backing.database, backing.writer, clock)
        backing.sweepers += [front.sweep, lasting.sweep]
        return LayeredStore(front, backing), lasting
    if kind in ("redis", "rediss"):
        raise StoreError("a Redis store is not available in this version; use sqlite:PATH or memory:")
    raise StoreError(f"unknown kind of store {kind!r}: it is memory:, sqlite:PATH or redis://…")
