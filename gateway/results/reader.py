"""Answering GETs of results: a query's latest, one by its id, and the file forms of what is stored."""

from __future__ import annotations

import contextlib
import math
from typing import Final

from gateway import config
from gateway.errors import Forbidden, NotAcceptable, NotFound
from gateway.model import FIRST_GATEWAY_RESULT_ID, Body, Clock, Definition, Entry, Response
from gateway.policy.access import Access, Credential
from gateway.policy.context import RequestContext
from gateway.policy.plan import result_key
from gateway.redash.downloads import CONTENT_TYPES, content_disposition
from gateway.redash.requests import ReadLatest, ReadResult, ResultForm
from gateway.results.cache import Found, Results, Shown, rendering_expired
from gateway.results.definitions import Definitions
from gateway.results.fetcher import Fetching
from gateway.store import Ledger

_FOR_A_YEAR: Final = "private, max-age=31557600"
"""Redash's own Cache-Control for results by id (CONTRACT 4)."""


class ResultReader:
    """Reads what has been run before; never runs anything."""

    def __init__(
        self,
        settings: config.Config,
        definitions: Definitions,
        results: Results,
        fetching: Fetching,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self._definitions = definitions
        self._results = results
        self._fetching = fetching
        self._ledger = ledger
        self._clock = clock

    async def latest(self, context: RequestContext, credential: Credential, operation: ReadLatest) -> Response:
        """Answer with the result that the query's `latest_query_data_id` names.

        Raises:
            UpstreamRefused: there is none, or it is not for this credential.
        """
        definition = await self._know(context, credential, operation.query_id)
        result_id = definition.latest_result_id
        found = await self._stored(credential, result_id, operation.form) if result_id is not None else None
        if found is not None and _shows_latest(credential, definition, found[0]):
            return self._hit(context, found, operation.form, definition.name, credential, definition)
        if operation.form == "json" or result_id is None:
            return await self._ask_latest(context, credential, definition, operation.form)
        return await self._fetch(context, credential, result_id, operation.form, definition)

    async def _ask_latest(
        self, context: RequestContext, credential: Credential, definition: Definition, form: ResultForm
    ) -> Response:
        context.outcome.record_forward("uri-miss")
        shown, joined = await self._fetching.latest(credential, definition.query_id, context.sender)
        stored = isinstance(shown[1], Body)
        context.outcome.record_forward("uri-miss", joined=joined, stored=stored)
        if form != "json":
            return await self._fetch(context, credential, shown[0].result_id, form, definition)
        context.outcome.age = shown[0].age(self._clock.monotonic()) if stored else None
        return _file(context, shown, form, definition.name)

    async def by_id(
        self, context: RequestContext, access: Access, operation: ReadResult, allowed: frozenset[int] | None
    ) -> Response:
        """Answer with one result; `allowed` are the queries that a bound client may use, None for all.

        Raises:
            NotFound: an id that this client may not know of.
            UpstreamRefused: Redash does not give it.
        """
        credential, query_id = await self._owner(context, access, operation, allowed)
        definition = await self._know(context, credential, query_id) if query_id is not None else None
        found = await self._stored(credential, operation.result_id, operation.form)
        if found is not None and (definition is not None or self._seen_lately(found[0])):
            name = definition.name if definition is not None and operation.query_id is not None else None
            return self._hit(context, found, operation.form, name, credential, definition)
        nested = definition if operation.query_id is not None else None
        return await self._fetch(context, credential, operation.result_id, operation.form, nested)

    def _seen_lately(self, entry: Entry) -> bool:
        """Whether Redash has shown a result that belongs to no query not longer ago than a definition may be old."""
        return self._clock.monotonic() - entry.confirmed <= self.settings.cache.definition_check

    async def _owner(
        self, context: RequestContext, access: Access, operation: ReadResult, allowed: frozenset[int] | None
    ) -> tuple[Credential, int | None]:
        """Find out which credential's scope the id belongs to, and for which query it was seen there."""
        credential = None
        with contextlib.suppress(Forbidden):
            credential = access.credential(context.caller, context.match)
        scopes = access.scopes(context.caller)
        for scope in sorted(scopes, key=lambda scope: credential is None or scope != credential.scope):
            seen = await self._ledger.queries_of_result(scope, operation.result_id)
            seen = seen if allowed is None else seen & allowed
            owner = access.of_scope(scope)
            if owner is not None and seen and (operation.query_id is None or operation.query_id in seen):
                return owner, (operation.query_id or min(seen)) or None
        if credential is None or operation.result_id >= FIRST_GATEWAY_RESULT_ID or allowed is not None:
            raise NotFound("This client knows of no such result.")
        return credential, operation.query_id

    async def rendered(
        self, context: RequestContext, credential: Credential, shown: Shown, form: ResultForm, definition: Definition
    ) -> Response:
        """Answer with the given result in the form that was asked for, stored or made now."""
        if form == "json":
            return _file(context, shown, form, definition.name)
        result_id = shown[0].result_id
        ready: Shown | None = await self._stored(credential, result_id, form)
        if ready is None:
            nested = definition if credential.is_query_key else None
            ready = (await self._fetching.by_id(credential, result_id, form, nested, context.sender))[0]
        return _file(context, ready, form, definition.name)

    async def _know(self, context: RequestContext, credential: Credential, query_id: int) -> Definition:
        return await self._definitions.know(credential, query_id, context.sender, self.settings.cache)

    async def _stored(self, credential: Credential, result_id: int, form: ResultForm) -> Found | None:
        found = await self._results.find(result_key(credential.scope, result_id, form))
        if found is None or form == "json":
            return found
        return None if rendering_expired(found[0], self._clock.monotonic(), self.settings.cache) else found

    async def _fetch(
        self,
        context: RequestContext,
        credential: Credential,
        result_id: int,
        form: ResultForm,
        nested: Definition | None,
    ) -> Response:
        """Fetch it from Redash; below its query's path where the request had one (a query key has no other way)."""
        if form == "xlsx" and result_id >= FIRST_GATEWAY_RESULT_ID:
            raise NotAcceptable("A query key's answer cannot be made into XLSX; ask for csv, tsv or json.")
        context.outcome.record_forward("uri-miss")
        shown, joined, fetched = await self._fetching.by_id(credential, result_id, form, nested, context.sender)
        context.outcome.record_forward("uri-miss", joined=joined, stored=fetched and isinstance(shown[1], Body))
        return _file(context, shown, form, nested.name if nested is not None else None)

    def _hit(
        self,
        context: RequestContext,
        found: Found,
        form: ResultForm,
        name: str | None,
        credential: Credential,
        definition: Definition | None,
    ) -> Response:
        entry = found[0]
        age = entry.age(self._clock.monotonic()) if form == "json" else self._clock.monotonic() - entry.born
        context.outcome.record_hit(math.inf, age, entry.runtime)
        context.outcome.ttl = None if form == "json" else self.settings.cache.rendered_ttl - age
        response = _file(context, found, form, name)
        now = self._clock.monotonic()
        until = math.inf if context.outcome.ttl is None else now + context.outcome.ttl
        if definition is None:
            until = min(until, entry.confirmed + self.settings.cache.definition_check)
        else:
            cache = self.settings.cache
            until = min(until, self._definitions.unquestioned_until(definition, credential.scope, cache))
        key = result_key(credential.scope, entry.result_id, form)
        query_id = entry.query_id if definition is None else definition.query_id
        response.ticket = context.ticket(key, entry, query_id, until, self._clock.wall(), now)
        return response


def _shows_latest(credential: Credential, definition: Definition, entry: Entry) -> bool:
    """Whether Redash would show it: to a query key only while the hashes match (CONTRACT 8)."""
    if not credential.is_query_key:
        return True
    # CSV, TSV and XLSX carry no hash: there the definition must be the one under which Redash gave them.
    return entry.query_hash == definition.query_hash if entry.form == "full" else entry.marker == definition.marker


def _file(context: RequestContext, shown: Shown, form: ResultForm, name: str | None) -> Response:
    entry, body = shown
    return Response(
        body=body,
        entry=entry if isinstance(body, Body) else None,
        content_type=CONTENT_TYPES[form],
        disposition=content_disposition(name or str(entry.result_id), entry.retrieved_at, form),
        cache_control=_FOR_A_YEAR if context.match.route.kind == "result" else "private, no-cache",
        etag=entry.body_id.hex()[:16],  # another rendering has another id: its bytes may differ (CONTRACT 8)
    )
