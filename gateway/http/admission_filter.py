"""Which responses are worth keeping: those that are requested more than once."""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

MOST_SEEN: Final = 16_384


class AdmissionFilter:
    """What has been seen before, by its hash: a response is kept only from the second request on."""

    def __init__(self) -> None:
        self._seen: LRUCache[int, bool] = LRUCache(MOST_SEEN)

    def admits(self, thing: object) -> bool:
        """Note it; returns whether it was seen before (or, once in 2**64, another of the same hash)."""
        seen = hash(thing)
        if seen in self._seen:
            return True
        self._seen[seen] = True
        return False
