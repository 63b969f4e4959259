"""Decides which responses are worth caching: those that are requested more than once."""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

MOST_SEEN: Final = 16_384


class AdmissionFilter:
    """Remembers by hash what it has seen: a response is cached only from the second request on."""

    def __init__(self) -> None:
        self._seen: LRUCache[int, bool] = LRUCache(MOST_SEEN)

    def admits(self, thing: object) -> bool:
        """Note it; returns whether it was seen before (or, once in 2**64, another thing with the same hash)."""
        hashed = hash(thing)
        if hashed in self._seen:
            return True
        self._seen[hashed] = True
        return False
