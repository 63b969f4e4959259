"""The LRU cache of bodies in memory, and what each body counts against its limit."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from cachetools import LRUCache

from gateway.body import Body
from gateway.model import Entry, Key

BODY_OVERHEAD = 500
ENTRY_OVERHEAD = 900
"""Measured with tracemalloc: 1,250 bytes for a body with one key and a usual entry; further keys cost less."""


MAX_BODY_SHARE = 8
"""Bytes over 1/8 of the limit are not stored: they would evict too much else."""


class CachedBody(msgspec.Struct, eq=False, gc=False):
    """A body, its gzip form and all its entries.

    The garbage collector ignores it and, as they contain nothing that it tracks, its entries: with 100,000 bodies it
    would stop everything for a tenth of a second. Nothing in it may refer back to it.
    """

    body_id: bytes
    body: Body
    cost: int
    """Of the body only; `cost_of` adds the entries and the gzip form."""
    expires: float | None = None
    gzip: Body | None = None
    entries: dict[Key, Entry] = {}


def cost_of(cached: CachedBody) -> int:
    """Return the bytes that it counts against the limit."""
    gzip = cached.gzip.size if cached.gzip is not None else 0
    return cached.cost + gzip + BODY_OVERHEAD + ENTRY_OVERHEAD * len(cached.entries)


class LruCache(LRUCache[bytes, CachedBody]):
    """cachetools' LRU, which reports what it evicts."""

    def __init__(self, limit_bytes: int, on_evict: Callable[[CachedBody], None]) -> None:
        super().__init__(limit_bytes, getsizeof=cost_of)
        self._on_evict = on_evict

    def popitem(self) -> tuple[bytes, CachedBody]:
        """Evict the least recently used body."""
        body_id, cached = super().popitem()
        self._on_evict(cached)
        return body_id, cached
