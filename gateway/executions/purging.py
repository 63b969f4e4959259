"""Purges of queries, data sources and tags: what is stored is deleted, what is under way is not stored."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from gateway.errors import Forbidden
from gateway.executions.flights import Executions
from gateway.redash.purges import NewData, Purge
from gateway.results.cache import ResultCache
from gateway.results.definitions import Definitions

events = logging.getLogger("gateway.events")

Place = tuple[str | None, int | None]
"""Scope and query; None: all."""


async def _nobody(_: Sequence[NewData]) -> None:
    """There is no other gateway."""


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
        self.on_new_data: Callable[[Sequence[NewData]], Awaitable[None]] = _nobody

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
            await self._note([(scope, what) for scope in scopes])
            found = _Found({(scope, what.query) for scope in scopes})
        elif allowed is None:
            await self._note([(scope, what) for scope in scopes])
            found = await self._covered(what, dict.fromkeys(scopes))
        else:
            own = {scope: await self._own(what, scope, allowed) for scope in scopes}
            await self._note([(scope, Purge(query=query)) for scope in scopes for query in sorted(own[scope])])
            found = await self._covered(what, own)
        entries = sum([await self._delete(*place) for place in sorted(found.places, key=str)])
        return Purged(entries, len({query for _, query in found.places}), found.notes())

    async def _own(self, what: Purge, scope: str, allowed: frozenset[int]) -> set[int]:
        """Return which queries of a bound client the purge covers, also if nothing is stored: Redash may have rows."""
        return {query for query in allowed if await self._covers(what, scope, query) is not False}

    async def _note(self, new_data: Sequence[NewData]) -> None:
        """Take no older rows of Redash from now on, also after a restart, and on the other gateways."""
        for scope, what in new_data:
            self._results.note_new_data(scope, what)
        await self._results.record_new_data()
        await self.on_new_data(new_data)

    async def _covered(self, what: Purge, allowed: Mapping[str, set[int] | None]) -> _Found:
        """Find what is stored or under way in these scopes, of the queries that are allowed there (None: of all)."""
        found = _Found(set())
        for scope, own in allowed.items():
            stored = await self._results.queries(scope)
            if stored is None:
                found.unlisted = True
                found.places |= {(scope, None)} if own is None else {(scope, query) for query in own}
                continue
            running = {e.plan.query_id for e in self._executions.running if e.plan.credential.scope == scope}
            for query in stored | running if own is None else (stored | running) & own:
                await self._look_at(found, what, scope, query)
        return found

    async def _look_at(self, found: _Found, what: Purge, scope: str, query: int) -> None:
        """Add the query, if the purge covers it, or if that is not known."""
        covers = await self._covers(what, scope, query)
        if covers is not False:
            found.places.add((scope, query))
            found.unknown += covers is None

    async def _covers(self, what: Purge, scope: str, query: int) -> bool | None:
        """Say whether a purge covers a query, None if that is not known. Free SQL has no tags."""
        definition = await self._definitions.remembered(query, scope) if query else None
        if definition is not None:
            return what.covers(definition)
        return None if query or what.data_source is not None else False

    async def delete(self, scope: str | None, query_id: int | None) -> int:
        """Purge a scope and query (None: all) for an operator; return how many entries there were."""
        await self._note([(scope, Purge(query=query_id))])
        return await self._delete(scope, query_id)

    async def _delete(self, scope: str | None, query_id: int | None) -> int:
        if query_id is not None:
            self._definitions.drop(query_id)
        await self._executions.purge(scope=scope, query_id=query_id)
        number = await self._results.purge(scope=scope, query_id=query_id)
        events.info("purged", extra={"fields": {"query": "all" if query_id is None else query_id, "entries": number}})
        return number
