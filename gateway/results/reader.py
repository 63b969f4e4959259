"""Reads existing results: a query's latest, one by its id, and their file forms; never runs a query."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway.errors import NotAcceptable, NotFound
from gateway.model import FIRST_GATEWAY_RESULT_ID, Clock, Definition, Entry, Response
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext
from gateway.policy.keys import result_key
from gateway.redash.downloads import CONTENT_TYPES, content_disposition
from gateway.redash.parameters import check_others
from gateway.redash.requests import ReadLatest, ReadResult, ResultForm
from gateway.results.cache import AnyResult, ResultCache, StoredResult, rendering_expired
from gateway.results.definitions import Definitions
from gateway.results.fetcher import ResultFetcher
from gateway.store import Ledger

_FOR_A_YEAR: Final = "private, max-age=31557600"
"""Redash's own Cache-Control for results by id (CONTRACT 4)."""


class Owner(msgspec.Struct, frozen=True):
    """The credential in whose scope a result id was seen, and its query there; None for no saved query."""

    credential: Credential
    query_id: int | None


class ResultReader:
    """Responds to GETs of results."""

    def __init__(
        self,
        live: Live,
        definitions: Definitions,
        results: ResultCache,
        fetcher: ResultFetcher,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self._live = live
        self._definitions = definitions
        self._results = results
        self._fetcher = fetcher
        self._ledger = ledger
        self._clock = clock

    async def latest(self, context: RequestContext, operation: ReadLatest) -> Response:
        """Respond with the result that the query's `latest_query_data_id` names.

        Raises:
            UpstreamRefused: there is none, or this credential may not read it.
            BadRequest: an argument is meant for a parameter, but does not have its name.
        """
        credential = context.credential
        definition = await self._definitions.get(credential, operation.query_id, context.sender)
        check_others(definition, operation.others)
        result_id = definition.latest_result_id
        stored = await self._stored(credential, result_id, operation.form) if result_id is not None else None
        if stored is not None and _shows_latest(credential, definition, stored.entry):
            return self._hit(context, stored, operation.form, definition.name, credential, definition)
        if operation.form == "json" or result_id is None:
            return await self._fetch_latest(context, credential, definition, operation.form)
        return await self._fetch(context, credential, result_id, operation.form, definition)

    async def _fetch_latest(
        self, context: RequestContext, credential: Credential, definition: Definition, form: ResultForm
    ) -> Response:
        context.outcome.record_forward("uri-miss")
        fetch = await self._fetcher.latest(credential, definition.query_id, context.sender)
        context.outcome.record_forward("uri-miss", joined=fetch.joined, stored=fetch.stored)
        entry = fetch.result.entry
        if form != "json":
            return await self._fetch(context, credential, entry.result_id, form, definition)
        context.outcome.age = entry.age(self._clock.monotonic()) if fetch.stored else None
        return _file(context, fetch.result, form, definition.name)

    async def by_id(self, context: RequestContext, operation: ReadResult, allowed: frozenset[int] | None) -> Response:
        """Respond with one result; `allowed` are the queries that a bound client may use, None for all.

        Raises:
            NotFound: an id that this client may not read.
            UpstreamRefused: Redash refuses it.
        """
        owner = await self._owner(context, operation, allowed)
        credential, definition = owner.credential, None
        if owner.query_id is not None:
            definition = await self._definitions.get(credential, owner.query_id, context.sender)
        nested = definition if operation.query_id is not None else None
        stored = await self._stored(credential, operation.result_id, operation.form)
        if stored is not None and (definition is not None or self._seen_lately(stored.entry)):
            name = nested.name if nested is not None else None
            return self._hit(context, stored, operation.form, name, credential, definition)
        return await self._fetch(context, credential, operation.result_id, operation.form, nested)

    def _seen_lately(self, entry: Entry) -> bool:
        """Whether Redash showed a result without a query recently: within the age that a definition may have."""
        return self._clock.monotonic() - entry.confirmed <= self._live.settings.cache.definition_check

    async def _owner(self, context: RequestContext, operation: ReadResult, allowed: frozenset[int] | None) -> Owner:
        """Return the credential in whose scope the id was seen, and the query that it was seen for there."""
        access, credential = context.configured.access, context.chosen
        scopes = access.scopes(context.caller)
        for scope in sorted(scopes, key=lambda scope: credential is None or scope != credential.scope):
            seen = await self._ledger.queries_of_result(scope, operation.result_id)
            seen = seen if allowed is None else seen & allowed
            owner = access.of_scope(scope)
            if owner is not None and seen and (operation.query_id is None or operation.query_id in seen):
                return Owner(owner, (operation.query_id or min(seen)) or None)
        if credential is None or operation.result_id >= FIRST_GATEWAY_RESULT_ID or allowed is not None:
            raise NotFound("There is no such result for this client.")
        return Owner(credential, operation.query_id)

    async def of_run(
        self, context: RequestContext, credential: Credential, result_id: int, definition: Definition
    ) -> AnyResult:
        """Return the result that a run has brought, stored or fetched once more.

        Raises:
            UpstreamRefused, NotFound: neither the store nor Redash has it any more.
        """
        stored = await self._stored(credential, result_id, "json")
        if stored is not None:
            return stored
        nested = definition if credential.is_query_key else None
        return (await self._fetcher.by_id(credential, result_id, "json", nested, context.sender)).result

    async def rendered(
        self,
        context: RequestContext,
        credential: Credential,
        result: AnyResult,
        form: ResultForm,
        definition: Definition,
    ) -> Response:
        """Respond with the given result in the form that was requested, stored or made now."""
        if form == "json":
            return _file(context, result, form, definition.name)
        result_id = result.entry.result_id
        ready: AnyResult | None = await self._stored(credential, result_id, form)
        if ready is None:
            nested = definition if credential.is_query_key else None
            ready = (await self._fetcher.by_id(credential, result_id, form, nested, context.sender)).result
        return _file(context, ready, form, definition.name)

    async def _stored(self, credential: Credential, result_id: int, form: ResultForm) -> StoredResult | None:
        stored = await self._results.get(result_key(credential.scope, result_id, form))
        if stored is None or form == "json":
            return stored
        expired = rendering_expired(stored.entry, self._clock.monotonic(), self._live.settings.cache)
        return None if expired else stored

    async def _fetch(
        self,
        context: RequestContext,
        credential: Credential,
        result_id: int,
        form: ResultForm,
        nested: Definition | None,
    ) -> Response:
        """Fetch it from Redash; below its query's path where the request had one (a query key has no other path)."""
        if form == "xlsx" and result_id >= FIRST_GATEWAY_RESULT_ID:
            raise NotAcceptable("A query key's result cannot be made into XLSX; request csv, tsv or json.")
        context.outcome.record_forward("uri-miss")
        fetch = await self._fetcher.by_id(credential, result_id, form, nested, context.sender)
        context.outcome.record_forward("uri-miss", joined=fetch.joined, stored=fetch.stored)
        return _file(context, fetch.result, form, nested.name if nested is not None else None)

    def _hit(
        self,
        context: RequestContext,
        stored: StoredResult,
        form: ResultForm,
        name: str | None,
        credential: Credential,
        definition: Definition | None,
    ) -> Response:
        entry, cache, now = stored.entry, self._live.settings.cache, self._clock.monotonic()
        age = entry.age(now) if form == "json" else now - entry.born
        context.outcome.record_hit(math.inf, age, entry.runtime)
        context.outcome.ttl = None if form == "json" else cache.rendered_ttl - age
        response = _file(context, stored, form, name)
        until = math.inf if context.outcome.ttl is None else now + context.outcome.ttl
        if definition is None:
            query_id, checked = entry.query_id, entry.confirmed + cache.definition_check
        else:
            query_id, checked = definition.query_id, self._definitions.good_until(definition, credential.scope)
        key = result_key(credential.scope, entry.result_id, form)
        response.reuse = context.reuse(key, entry, query_id, min(until, checked), self._clock.wall(), now)
        return response


def _shows_latest(credential: Credential, definition: Definition, entry: Entry) -> bool:
    """Whether Redash would show it: to a query key only while the hashes match (CONTRACT 8)."""
    if not credential.is_query_key:
        return True
    # CSV, TSV and XLSX contain no hash: the definition must be the same as when Redash made them.
    return entry.query_hash == definition.query_hash if entry.form == "full" else entry.marker == definition.marker


def _file(context: RequestContext, result: AnyResult, form: ResultForm, name: str | None) -> Response:
    entry = result.entry
    return Response(
        body=result.body,
        entry=entry if isinstance(result, StoredResult) else None,
        content_type=CONTENT_TYPES[form],
        disposition=content_disposition(name or str(entry.result_id), entry.retrieved_at, form),
        cache_control=_FOR_A_YEAR if context.match.route.kind == "result" else "private, no-cache",
        etag=entry.body_id.hex()[:16],  # each rendering has its own id: its bytes may differ (CONTRACT 8)
    )
