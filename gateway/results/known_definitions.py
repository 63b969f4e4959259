"""The table of known definitions, bounded in bytes, and which are invalidated. No I/O and no clock."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.concurrency.marks import Marks
from gateway.model import Definition
from gateway.redash.footprint import footprint

_OVERHEAD_BYTES: Final = 500

Place = tuple[int, str]
"""A query and a scope."""


class _Known(msgspec.Struct):
    definition: Definition
    size: int
    valid: bool


class KnownDefinitions:
    """Definitions by query and scope. Beyond the bound, the least recently used are dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._bytes = 0
        self._by_place: dict[Place, _Known] = {}
        self._scopes: dict[int, set[str]] = {}
        self._drops = 0
        self._generations: Marks[int] = Marks(0)

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._by_place)

    def get(self, place: Place) -> Definition | None:
        """Return the definition, also if it is invalidated."""
        known = self._by_place.pop(place, None)
        if known is None:
            return None
        self._by_place[place] = known  # at the end
        return known.definition

    def name_of(self, query_id: int) -> str:
        """Return the query's name as it was read last, "" if it is not known; does not count as a use."""
        for scope in self._scopes.get(query_id, ()):
            return self._by_place[query_id, scope].definition.name
        return ""

    def is_valid(self, place: Place) -> bool:
        """Whether it may be used before it is read again: it is known, and was not invalidated."""
        known = self._by_place.get(place)
        return known is not None and known.valid

    def put(self, scope: str, definition: Definition, *, valid: bool) -> None:
        """Add or replace one, unless it has no room at all. An invalid one must be read again before it is used."""
        place = definition.query_id, scope
        self.pop_one(place)
        size = footprint(definition) + _OVERHEAD_BYTES
        if size > self.limit_bytes:
            return
        self._bytes += size
        self._by_place[place] = _Known(definition, size, valid)
        self._scopes.setdefault(definition.query_id, set()).add(scope)
        while self._bytes > self.limit_bytes:
            self.pop_one(next(iter(self._by_place)))

    def pop(self, query_id: int) -> None:
        """Remove a query's definitions in every scope."""
        for scope in list(self._scopes.get(query_id, ())):
            self.pop_one((query_id, scope))

    def pop_one(self, place: Place) -> None:
        """Remove one definition."""
        query_id, scope = place
        known = self._by_place.pop(place, None)
        if known is None:
            return
        self._bytes -= known.size
        self._scopes[query_id].discard(scope)
        if not self._scopes[query_id]:
            del self._scopes[query_id]

    def drop(self, query_id: int) -> None:
        """Invalidate a query's definitions in every scope, and what is being read now."""
        for scope in self._scopes.get(query_id, ()):
            self._by_place[query_id, scope].valid = False
        self._drops += 1
        self._generations.set(query_id, self._drops)

    def generation(self, query_id: int) -> float:
        """Return a number that changes with `drop`: what was requested before it must not serve callers after it."""
        return self._generations.get(query_id)
