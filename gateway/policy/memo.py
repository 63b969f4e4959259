"""A memo for functions of immutable objects, by object identity: hashing the objects would cost more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import LRUCache

T = TypeVar("T")


class IdentityMemo(Generic[T]):
    """The newest results of a pure function of a few objects. It holds the objects, so that no id is used twice."""

    def __init__(self, size: int) -> None:
        self._computed: LRUCache[tuple[int, ...], tuple[tuple[object, ...], T]] = LRUCache(size)

    def get(self, objects: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Return what `compute` returned for these same objects, computing it the first time."""
        ids = tuple(map(id, objects))
        computed = self._computed.get(ids)
        if computed is None:
            computed = self._computed[ids] = (objects, compute())
        return computed[1]
