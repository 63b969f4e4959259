"""The least-recently-used order of bodies in memory and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable

from cachetools import LRUCache

from gateway.model import Body, Entry, Key

BODY_OVERHEAD = 500
ENTRY_OVERHEAD = 900
"""Of entries of usual length tracemalloc counts 1,250 bytes for a body with one key; further keys cost less."""


class CachedBody:
    """A body and every entry that leads to it."""

    __slots__ = ("body", "body_id", "cost", "entries", "expires", "gzip")

    def __init__(self, body_id: bytes, body: Body, cost: int) -> None:
        self.body_id = body_id
        self.body = body
        self.cost = cost  # of the body; what entries add is counted when it is put into the cache
        self.expires: float | None = None
        self.gzip: Body | None = None
        self.entries: dict[Key, Entry] = {}


def cost_of(held: CachedBody) -> int:
    """What it counts against the limit."""
    gzip = held.gzip.size if held.gzip is not None else 0
    return held.cost + gzip + BODY_OVERHEAD + ENTRY_OVERHEAD * len(held.entries)


class LruCache(LRUCache[bytes, CachedBody]):
    """cachetools' LRU, which tells whom it has pushed out."""

    def __init__(self, limit_bytes: int, pushed_out: Callable[[CachedBody], None]) -> None:
        super().__init__(limit_bytes, getsizeof=cost_of)
        self._pushed_out = pushed_out

    def popitem(self) -> tuple[bytes, CachedBody]:
        """Remove the least recently used."""
        body_id, held = super().popitem()
        self._pushed_out(held)
        return body_id, held
