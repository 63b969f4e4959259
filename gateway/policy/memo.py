"""A memo for functions of immutable objects, by object identity: hashing the objects would cost more."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class IdentityMemo(Generic[T]):
    """Results of a pure function of a few objects, kept while these live; it does not keep them alive."""

    def __init__(self, size: int) -> None:
        self._size = size
        # Objects may die in any thread: a plain dict removes an item in one step.
        self._known: dict[tuple[int, ...], tuple[list[weakref.ref[object]], T]] = {}

    def get(self, objects: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Return what `compute` returned for these same objects, computing it the first time."""
        place = tuple(map(id, objects))
        known = self._known.get(place)
        if known is not None:
            return known[1]
        if len(self._known) >= self._size:
            self._known.clear()
        value = compute()

        def remove(_: object) -> None:
            self._known.pop(place, None)

        # After its last reference is gone, an object's id may be used for another.
        self._known[place] = ([weakref.ref(item, remove) for item in objects if item is not None], value)
        return value
