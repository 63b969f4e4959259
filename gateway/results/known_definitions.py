"""The table of known definitions, bounded in bytes and in number, and which are invalidated. No I/O and no clock."""

from __future__ import annotations

from typing import Final

from gateway.model import Definition
from gateway.redash.footprint import footprint

MOST_KNOWN: Final = 10_000
_OVERHEAD_BYTES: Final = 500

Place = tuple[int, str]
"""A query and a scope."""


class KnownDefinitions:
    """Definitions by query and scope. Beyond the bounds, the queries that were read longest ago are dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._by_query: dict[int, dict[str, tuple[Definition, int]]] = {}
        self._invalidated: set[Place] = set()
        self._generations: dict[int, int] = {}
        self._last_generation = self._oldest_generation = 0

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._by_query)

    def get(self, place: Place) -> Definition | None:
        """Return the definition, also if it is invalidated."""
        known = self._by_query.get(place[0], {}).get(place[1])
        return known[0] if known is not None else None

    def put(self, scope: str, definition: Definition) -> None:
        """Add or replace one; whether it is invalidated stays as it is."""
        scopes = self._by_query.pop(definition.query_id, {})
        size = footprint(definition) + _OVERHEAD_BYTES
        self._bytes += size - (scopes[scope][1] if scope in scopes else 0)
        scopes[scope] = definition, size
        self._by_query[definition.query_id] = scopes  # at the end
        while len(self._by_query) > 1 and (self._bytes > self._limit or len(self._by_query) > MOST_KNOWN):
            self.pop(next(iter(self._by_query)))

    def pop(self, query_id: int) -> None:
        """Remove a query's definitions in every scope."""
        for scope in list(self._by_query.get(query_id, {})):
            self.pop_one((query_id, scope))

    def pop_one(self, place: Place) -> None:
        """Remove one definition."""
        query_id, scope = place
        self._invalidated.discard(place)
        scopes = self._by_query.get(query_id, {})
        if scope in scopes:
            self._bytes -= scopes.pop(scope)[1]
            if not scopes:
                del self._by_query[query_id]

    def is_invalidated(self, place: Place) -> bool:
        """Whether it must be read again before it is used."""
        return place in self._invalidated

    def invalidate(self, place: Place) -> None:
        """Let it be read again before it is used."""
        self._invalidated.add(place)

    def validate(self, place: Place) -> None:
        """Let it be used: it was just read."""
        self._invalidated.discard(place)

    def drop(self, query_id: int) -> None:
        """Invalidate a query's definitions in every scope, and what is being read now."""
        self._invalidated.update((query_id, scope) for scope in self._by_query.get(query_id, {}))
        self._last_generation += 1
        if len(self._generations) >= MOST_KNOWN:  # callers can name any number of queries
            self._generations.clear()
            self._oldest_generation = self._last_generation
        self._generations[query_id] = self._last_generation

    def generation(self, query_id: int) -> int:
        """Return a number that changes with `drop`: what was requested before it must not serve callers after it."""
        return self._generations.get(query_id, self._oldest_generation)
