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

OVERSIZE_SECONDS = 60.0
"""How long a body over the entry limit is stored: long enough for the requests that wait for it."""


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
        self._files: dict[bytes, None] = {}  # in the order in which they were stored

    def fits(self, body: Body, cost: int, keys: int) -> bool:
        """Whether a body with so many keys may be stored."""
        share = MAX_BODY_SHARE if body.path is None else 1
        return cost + BODY_OVERHEAD + ENTRY_OVERHEAD * keys <= self.maxsize // share

    def __setitem__(self, body_id: bytes, cached: CachedBody) -> None:
        super().__setitem__(body_id, cached)
        if cached.body.path is not None and body_id in self:
            self._files[body_id] = None

    def __delitem__(self, body_id: bytes) -> None:
        super().__delitem__(body_id)
        self._files.pop(body_id, None)

    def evict_file(self) -> bool:
        """Evict the body in a file that was stored first; False if there is none."""
        body_id = next(iter(self._files), None)
        if body_id is None:
            return False
        self._on_evict(self.pop(body_id))
        return True

    def popitem(self) -> tuple[bytes, CachedBody]:
        """Evict the least recently used body."""
        body_id, cached = super().popitem()
        self._on_evict(cached)
        return body_id, cached
