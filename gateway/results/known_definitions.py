"""The definitions that are in memory, bounded in bytes, and which of them are out of date."""

from __future__ import annotations

import msgspec

from gateway.model import Definition
from gateway.redash.footprint import footprint

Place = tuple[int, str]
"""A query and a scope."""

_OVERHEAD_BYTES = 500


class _Known(msgspec.Struct):
    definition: Definition
    size: int
    valid: bool = True


class KnownDefinitions:
    """Definitions by query and scope; the least recently used are dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._by_place: dict[Place, _Known] = {}
        self._scopes: dict[int, set[str]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._by_place)

    def get(self, place: Place) -> Definition | None:
        """Return the definition, valid or not."""
        known = self._by_place.pop(place, None)
        if known is None:
            return None
        self._by_place[place] = known  # now the most recently used
        return known.definition

    def is_valid(self, place: Place) -> bool:
        """Whether it is known, and was not invalidated since."""
        known = self._by_place.get(place)
        return known is not None and known.valid

    def put(self, place: Place, definition: Definition, *, valid: bool) -> None:
        """Remember a definition, if there is room for it; drop others where it needs their room."""
        self.delete(place)
        known = _Known(definition, _OVERHEAD_BYTES + footprint(definition), valid)
        if known.size > self._limit:
            return
        self._by_place[place] = known
        self._scopes.setdefault(place[0], set()).add(place[1])
        self.bytes += known.size
        while self.bytes > self._limit:
            self.delete(next(iter(self._by_place)))

    def delete(self, place: Place) -> None:
        """Delete one."""
        known = self._by_place.pop(place, None)
        if known is None:
            return
        self.bytes -= known.size
        scopes = self._scopes[place[0]]
        scopes.discard(place[1])
        if not scopes:
            del self._scopes[place[0]]

    def delete_query(self, query_id: int) -> None:
        """Delete those of one query in every scope."""
        for scope in list(self._scopes.get(query_id, ())):
            self.delete((query_id, scope))

    def invalidate(self, query_id: int) -> None:
        """Mark those of one query as out of date, in every scope."""
        for scope in self._scopes.get(query_id, ()):
            self._by_place[query_id, scope].valid = False
