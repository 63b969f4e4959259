"""Purges of queries, data sources and tags: what is stored is deleted, what is under way is not stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from gateway.errors import Forbidden
from gateway.executions.flights import Executions
from gateway.redash.purges import Purge
from gateway.results.cache import ResultCache
from gateway.results.definitions import Definitions

events = logging.getLogger("gateway.events")

Place = tuple[str | None, int | None]
"""Scope and query; None: all."""


class Purged(msgspec.Struct, frozen=True):
    """How many entries a purge has deleted, of how many queries; and what whoever asked for it should know."""

    entries: int
    queries: int
    notes: list[str] = []


class _Found(msgspec.Struct):
    """The places that a purge covers, and of how many queries it is not known whether it does."""

    places: set[Place]
    unknown: int = 0
    unlisted: bool = False

    def notes(self) -> list[str]:
        """Say what was purged because nobody knows better."""
        texts = []
        if self.unknown:
            texts.append(f"of {self.unknown} of these queries the gateway knows neither data source nor tags")
        if self.unlisted:
            texts.append("the store cannot be read now, so everything that these credentials have there is purged")
        return texts


class Purging:
    """Deletes results where whoever loads data, or an operator, says that they are out of date."""

    def __init__(self, executions: Executions, definitions: Definitions, results: ResultCache) -> None:
        self._executions = executions
        self._definitions = definitions
        self._results = results

    async def purge(self, what: Purge, scopes: Iterable[str], allowed: frozenset[int] | None = None) -> Purged:
        """Purge in these scopes; `allowed` are the queries that a bound client may use, None for all.

        What a query's source and tags are, the definitions say that were read last. Where there is none, the query is
        purged: too much is safe, too little is not.

        Raises:
            Forbidden: the query is not among those that the client may use.
        """
        scopes = sorted(scopes)
        if what.query is not None:
            if allowed is not None and what.query not in allowed:
                raise Forbidden(f"Query {what.query} is not among those of this client.")
            found = _Found({(scope, what.query) for scope in scopes})
        else:
            if allowed is None:
                self._results.note_new_data(scopes, what)
            found = await self._covered(what, scopes, allowed)
        entries = sum([await self._delete(*place) for place in sorted(found.places, key=str)])
        await self._results.record_new_data()
        return Purged(entries, len({query for _, query in found.places}), found.notes())

    async def _covered(self, what: Purge, scopes: list[str], allowed: frozenset[int] | None) -> _Found:
        found = _Found(set())
        for scope in scopes:
            stored = await self._results.queries(scope)
            if stored is None:
                found.unlisted = True
                found.places |= {(scope, None)} if allowed is None else {(scope, query) for query in allowed}
                continue
            running = {e.plan.query_id for e in self._executions.running if e.plan.credential.scope == scope}
            for query in (stored | running) & (allowed if allowed is not None else stored | running):
                await self._look_at(found, what, scope, query)
        return found

    async def _look_at(self, found: _Found, what: Purge, scope: str, query: int) -> None:
        """Add the query, if the purge covers it, or if that is not known. Free SQL has no tags."""
        definition = await self._definitions.remembered(query, scope) if query else None
        if what.covers(definition) if definition is not None else query or what.data_source is not None:
            found.places.add((scope, query))
            found.unknown += definition is None

    async def delete(self, scope: str | None, query_id: int | None) -> int:
        """Delete what is stored of a scope and query (None: of all); return how many entries there were."""
        number = await self._delete(scope, query_id)
        await self._results.record_new_data()
        return number

    async def _delete(self, scope: str | None, query_id: int | None) -> int:
        if query_id is not None:
            self._definitions.drop(query_id)
        await self._executions.purge(scope=scope, query_id=query_id)
        number = await self._results.purge(scope=scope, query_id=query_id)
        events.info("purged", extra={"fields": {"query": "all" if query_id is None else query_id, "entries": number}})
        return number
