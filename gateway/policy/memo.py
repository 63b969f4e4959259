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
        known = self._known.get(tuple(map(id, objects)))
        return known[1] if known is not None else self._compute(objects, compute)

    def _compute(self, objects: tuple[object, ...], compute: Callable[[], T]) -> T:
        place = tuple(map(id, objects))
        if len(self._known) >= self._size:
            self._known.clear()
        value = compute()

        def forget(_: object) -> None:
            self._known.pop(place, None)

        # With its last reference an object's id may become another's.
        self._known[place] = ([weakref.ref(item, forget) for item in objects if item is not None], value)
        return value
