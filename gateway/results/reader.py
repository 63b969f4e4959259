"""Reads existing results: a query's latest, one by its id, and their file forms; never runs a query."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import msgspec

from gateway.errors import NotAcceptable, UpstreamRefused
from gateway.model import FIRST_GATEWAY_RESULT_ID, Clock, Definition, Entry, Key, Response
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext
from gateway.policy.keys import rendering_key, result_key
from gateway.redash.downloads import RenderedForm
from gateway.redash.parameters import check_others
from gateway.redash.readings import Reading, file_of_redash, is_made_here
from gateway.redash.requests import ReadLatest, ReadResult
from gateway.results.attribution import Claim, ResultOwner
from gateway.results.cache import AnyResult, ResultCache, StoredResult, rendering_expired
from gateway.results.definitions import Definitions
from gateway.results.fetcher import ResultFetcher
from gateway.results.forms.making import ResultForms
from gateway.results.result_response import result_response
from gateway.store import Ledger

_FOREIGN: Final = "Redash's response is not proven to be a result of this client's queries; run the query again."
_OTHER: Final = "Redash now has another result under the id of this run; run the query again."


class Voucher(msgspec.Struct, frozen=True):
    """Why a stored result may be shown: a definition in force allows it, or Redash showed it a moment ago."""

    query_id: int
    until: float
    """Monotonic."""


class ResultReader:
    """Responds to GETs of results."""

    def __init__(
        self,
        live: Live,
        definitions: Definitions,
        results: ResultCache,
        fetcher: ResultFetcher,
        forms: ResultForms,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self._live = live
        self._definitions = definitions
        self._results = results
        self._fetcher = fetcher
        self._forms = forms
        self._ledger = ledger
        self._clock = clock

    async def latest(self, context: RequestContext, operation: ReadLatest) -> Response:
        """Respond with the result that the query's `latest_query_data_id` names.

        Raises:
            UpstreamRefused: there is none, or it is not for this credential.
            NotFound: the client is bound, and the result is not proven to be the query's.
            BadRequest: an argument is meant for a parameter, but does not have its name.
        """
        credential, outcome = context.credential, context.outcome
        definition = await self._definitions.get(credential, operation.query_id, context.sender)
        check_others(definition, operation.others)
        stored = await self.stored_latest(credential, definition)
        if stored is not None:
            voucher = Voucher(definition.query_id, self._definitions.good_until(definition, credential.scope))
            return await self._show(context, credential, stored, operation, definition.name, voucher)
        latest = result_key(credential.scope, definition.latest_result_id or 0, "json")
        why = self._results.absence(latest, credential.scope, definition.query_id, definition.marker)
        outcome.record_miss(why)
        whole = _needs_all(operation) or context.caller.is_bound
        fetch = await self._fetcher.latest(credential, definition, context.sender, whole=whole)
        outcome.record_miss(why, joined=fetch.joined, stored=fetch.stored)
        entry = fetch.result.entry
        if context.caller.is_bound and entry.query_id != definition.query_id:
            raise self._results.missing(_FOREIGN)
        outcome.age = entry.age(self._clock.monotonic()) if fetch.stored and not _needs_all(operation) else None
        return await self._show(context, credential, fetch.result, operation, definition.name)

    async def stored_latest(self, credential: Credential, definition: Definition) -> StoredResult | None:
        """Return the latest result if it is stored and known to be the query's: its id alone proves nothing."""
        if definition.latest_result_id is None:
            return None
        stored = await self._results.get(result_key(credential.scope, definition.latest_result_id, "json"))
        if stored is None:
            return None
        entry = stored.entry
        if credential.is_query_key and (not entry.query_hash or entry.query_hash != definition.query_hash):
            return None  # Redash shows it to a query key only while the hashes match (CONTRACT 8)
        if not self._is_of_source(entry, definition):
            return None
        if entry.query_id != definition.query_id:
            known = await self._ledger.queries_of_result(credential.scope, entry.result_id)
            return stored if known.get(definition.query_id) == entry.identity else None
        return stored

    async def by_id(self, context: RequestContext, operation: ReadResult, allowed: frozenset[int] | None) -> Response:
        """Respond with one result; `allowed` are the queries that a bound client may use, None for all.

        The query in the path gives the file its name. It proves nothing: to a user Redash shows any result below it
        (CONTRACT 20.9).

        Raises:
            NotFound: an id that this client may not read. As everywhere here, ServiceUnavailable if nobody knows now.
            UpstreamRefused: Redash refuses it.
        """
        result_id = operation.result_id
        if operation.form == "xlsx" and result_id >= FIRST_GATEWAY_RESULT_ID:
            raise NotAcceptable("A query key's result cannot be made into XLSX; request csv, tsv or json.")
        known = await self._known(context, operation, allowed)
        credential, path = known.credential, None
        if operation.query_id is not None:
            path = await self._definitions.get(credential, operation.query_id, context.sender)
        name = path.name if path is not None else None
        key = result_key(credential.scope, result_id, "json")
        stored = await self._results.get(key)
        voucher = await self._voucher(context, known, stored.entry) if stored is not None else None
        if stored is not None and voucher is not None:
            if path is not None:
                until = min(voucher.until, self._definitions.good_until(path, credential.scope))
                voucher = Voucher(voucher.query_id, until)
            return await self._show(context, credential, stored, operation, name, voucher)
        claims = await self._claims(context, known, path)
        why = self._results.absence(key, credential.scope, operation.query_id or 0)
        context.outcome.record_miss(why)
        whole = _needs_all(operation) or allowed is not None
        fetch = await self._fetcher.by_id(credential, result_id, claims, context.sender, whole=whole)
        context.outcome.record_miss(why, joined=fetch.joined, stored=fetch.stored)
        if allowed is not None and fetch.result.entry.query_id not in allowed:
            raise self._results.missing(_FOREIGN)
        return await self._show(context, credential, fetch.result, operation, name)

    async def _known(
        self, context: RequestContext, operation: ReadResult, allowed: frozenset[int] | None
    ) -> ResultOwner:
        """Return the credential in whose scope the id was seen, and the queries that it was seen for there."""
        access, chosen = context.configured.access, context.chosen
        scopes = access.scopes(context.caller)
        for scope in sorted(scopes, key=lambda scope: chosen is None or scope != chosen.scope):
            seen = await self._ledger.queries_of_result(scope, operation.result_id)
            seen = {query_id: i for query_id, i in seen.items() if allowed is None or query_id in allowed}
            credential = access.of_scope(scope)
            if credential is not None and seen and operation.query_id in (None, *seen):
                return ResultOwner(credential, seen)
        if chosen is None or operation.result_id >= FIRST_GATEWAY_RESULT_ID or allowed is not None:
            raise self._results.missing("There is no such result for this client.")
        return ResultOwner(chosen, await self._ledger.queries_of_result(chosen.scope, operation.result_id))

    async def _voucher(self, context: RequestContext, known: ResultOwner, entry: Entry) -> Voucher | None:
        """Return what vouches for a stored result; None where it must be requested from Redash.

        In Redash the source of the *result* decides (CONTRACT 2): a definition vouches only for results of its source.

        Raises:
            UpstreamRefused: Redash refuses every query that it is known to belong to.
        """
        queries = [query_id for query_id, identity in known.queries.items() if query_id and identity == entry.identity]
        refused: UpstreamRefused | None = None
        for query_id in sorted(queries):
            try:
                definition = await self._definitions.get(known.credential, query_id, context.sender)
            except UpstreamRefused as error:
                refused = error.copy()
                continue
            if definition.data_source_id == entry.data_source_id:
                return Voucher(query_id, self._definitions.good_until(definition, known.credential.scope))
        if refused is not None:
            raise refused.copy()
        if self._seen_lately(entry) and (queries or not context.caller.is_bound):
            return Voucher(entry.query_id, entry.confirmed + self._live.settings.cache.definition_check)
        return None

    def _is_of_source(self, entry: Entry, definition: Definition) -> bool:
        """Whether the right to the query is one to its result: in Redash the source of the result decides."""
        return entry.data_source_id == definition.data_source_id or self._seen_lately(entry)

    def _seen_lately(self, entry: Entry) -> bool:
        """Whether Redash showed exactly this result recently: within the age that a definition may have."""
        return self._clock.monotonic() - entry.confirmed <= self._live.settings.cache.definition_check

    async def _claims(self, context: RequestContext, known: ResultOwner, path: Definition | None) -> tuple[Claim, ...]:
        """Return the queries that the result may belong to; the one in the path first."""
        claims = [Claim(path, known.queries.get(path.query_id, b""))] if path is not None else []
        for query_id, identity in sorted(known.queries.items()):
            if query_id and (path is None or query_id != path.query_id):
                with suppress(UpstreamRefused):  # Redash says itself whether it shows the result
                    definition = await self._definitions.get(known.credential, query_id, context.sender)
                    claims.append(Claim(definition, identity))
        return tuple(claims)

    async def of_run(
        self, context: RequestContext, credential: Credential, result_id: int, definition: Definition
    ) -> AnyResult:
        """Return the result of a run, from the store or fetched again.

        Raises:
            UpstreamRefused, NotFound: neither the store nor Redash has it any more.
        """
        known = await self._ledger.queries_of_result(credential.scope, result_id)
        identity = known.get(definition.query_id, b"")
        stored = await self._results.get(result_key(credential.scope, result_id, "json"))
        if stored is not None and stored.entry.identity == identity and self._is_of_source(stored.entry, definition):
            return stored
        claims = (Claim(definition, identity),)
        fetch = await self._fetcher.by_id(credential, result_id, claims, context.sender, whole=True)
        if fetch.result.entry.query_id != definition.query_id:
            raise self._results.missing(_OTHER)
        return fetch.result

    async def rendered(
        self,
        context: RequestContext,
        credential: Credential,
        result: AnyResult,
        reading: Reading,
        definition: Definition,
    ) -> Response:
        """Respond with the given result in the form that was requested, stored or made now."""
        file = file_of_redash(reading)
        if is_made_here(reading):
            result, _ = await self._forms.make(result, reading, context.sender, context.until)
        elif file is not None and isinstance(result, StoredResult):
            result = (
                await self._rendering(credential, result, file)
                or (await self._fetcher.rendering(credential, result, file, context.sender)).result
            )
        return result_response(context, result, reading, definition.name)

    async def _rendering(self, credential: Credential, of: StoredResult, form: RenderedForm) -> StoredResult | None:
        """Return the stored CSV, TSV or XLSX of exactly this result, unless it is too old to be used."""
        stored = await self._results.get(rendering_key(of.entry, form))
        if stored is None or rendering_expired(stored.entry, self._clock.monotonic(), self._live.settings.cache):
            return None
        return stored

    async def _show(
        self,
        context: RequestContext,
        credential: Credential,
        result: AnyResult,
        reading: Reading,
        name: str | None,
        voucher: Voucher | None = None,
    ) -> Response:
        """Respond with the result in the requested form; it is a hit where a voucher allows it."""
        shown, file = result, file_of_redash(reading)
        key = result_key(result.entry.scope, result.entry.result_id, "json")
        if is_made_here(reading):
            shown, key = await self._forms.make(result, reading, context.sender, context.until)
        elif file is not None and isinstance(result, StoredResult):
            key = rendering_key(result.entry, file)
            stored = await self._rendering(credential, result, file)
            if stored is None:
                voucher = None
            shown = stored or await self._fetched(context, credential, result, file)
        response = result_response(context, shown, reading, name)
        if voucher is not None and isinstance(shown, StoredResult):
            self._note_hit(context, response, key, shown.entry, voucher, lasts=file is None)
        return response

    async def _fetched(
        self, context: RequestContext, credential: Credential, result: StoredResult, file: RenderedForm
    ) -> AnyResult:
        """Fetch a file from Redash: a miss, though the result itself is stored."""
        why = self._results.absence(rendering_key(result.entry, file), credential.scope, result.entry.query_id)
        why = "stale" if why == "unproven" else why  # it is there, but too old
        context.outcome.record_miss(why)
        fetch = await self._fetcher.rendering(credential, result, file, context.sender)
        context.outcome.record_miss(why, joined=fetch.joined, stored=fetch.stored)
        return fetch.result

    def _note_hit(
        self, context: RequestContext, response: Response, key: Key, entry: Entry, voucher: Voucher, *, lasts: bool
    ) -> None:
        """Record a hit, and that its response may be reused. `lasts`: the bytes depend on the result alone."""
        now = self._clock.monotonic()
        age = entry.age(now) if lasts else now - entry.born
        context.outcome.record_hit(math.inf, age, entry.runtime)
        context.outcome.ttl = None if lasts else self._live.settings.cache.rendered_ttl - age
        until = voucher.until if lasts else min(voucher.until, now + (context.outcome.ttl or 0.0))
        response.reuse = context.reuse(key, entry, voucher.query_id, until, self._clock.wall(), now)


def _needs_all(reading: Reading) -> bool:
    """Whether the response cannot begin while the result is still arriving."""
    return reading.form != "json" or is_made_here(reading)
