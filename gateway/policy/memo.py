"""Remembering what was computed from values that do not change, by their identity: hashing them would cost more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import LRUCache

T = TypeVar("T")


class IdentityMemo(Generic[T]):
    """The newest results of a pure function of a few objects. It keeps the objects, so that no id is used twice."""

    def __init__(self, size: int) -> None:
        self._known: LRUCache[tuple[int, ...], tuple[tuple[object, ...], T]] = LRUCache(size)

    def get(self, objects: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Return what `compute` gave for these very objects, computing it the first time."""
        place = tuple(map(id, objects))
        known = self._known.get(place)
        if known is None:
            known = self._known[place] = (objects, compute())
        return known[1]
