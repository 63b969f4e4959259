"""Fetching existing results from Redash: by id in any form, or a query's latest; one fetch for all callers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Literal

import msgspec

from gateway.concurrency.flights import Flights
from gateway.concurrency.spool import Spool
from gateway.errors import NotFound, UpstreamUnusable
from gateway.model import FIRST_GATEWAY_RESULT_ID, Body, Clock, Definition, Entry, digest
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.keys import result_key
from gateway.redash import calls
from gateway.redash.calls import UpstreamRequest
from gateway.redash.renderings import DateFormats, render_csv, render_tsv
from gateway.redash.requests import ResultForm
from gateway.redash.responses import parse_beginning
from gateway.results.cache import (
    AnyResult,
    ArrivingResult,
    ResultCache,
    StoredResult,
    arriving_result,
    day_in,
    load_result,
)
from gateway.results.date_formats import OrganisationFormats
from gateway.upstream.protocol import Early, Upstream, UpstreamResponse, refusal

Offer = Callable[[ArrivingResult], None]
RenderedForm = Literal["csv", "tsv", "xlsx"]


class Fetch(msgspec.Struct, frozen=True):
    """The outcome of one fetch."""

    result: AnyResult
    joined: bool = False
    """Whether another caller's fetch was joined."""
    stored: bool = True
    """Whether this fetch stored it: not while it is arriving, and never for a rendering made here."""


class ResultFetcher:
    """Fetches results from Redash and stores them; waiting callers get a large one while it arrives."""

    def __init__(self, upstream: Upstream, results: ResultCache, formats: OrganisationFormats, clock: Clock) -> None:
        self._upstream = upstream
        self._results = results
        self._formats = formats
        self._clock = clock
        self._flights: Flights[AnyResult] = Flights()

    async def by_id(
        self, credential: Credential, result_id: int, form: ResultForm, nested: Definition | None, sender: Sender
    ) -> Fetch:
        """Fetch a result by its id; below the path of the query `nested`, if given.

        Raises:
            UpstreamRefused: Redash refuses it (deleted, or not for this credential).
            NotFound: an id of the gateway's own that is no longer stored.
        """
        if result_id >= FIRST_GATEWAY_RESULT_ID:
            return Fetch(await self._rendered(credential, result_id, form, sender), stored=False)
        flight = (result_key(credential.scope, result_id, form), nested.query_id if nested else None)
        fetch = self._fetch_json if form == "json" else partial(self._fetch_rendering, form)
        return await self._share(flight, partial(fetch, credential, result_id, nested, sender))

    async def latest(self, credential: Credential, query_id: int, sender: Sender) -> Fetch:
        """Fetch a query's latest result as JSON.

        Raises:
            UpstreamRefused: there is none (404), or it is not for this credential.
        """
        flight = ("latest", credential.scope, query_id)
        return await self._share(flight, partial(self._fetch_latest, credential, query_id, sender))

    async def download(
        self,
        credential: Credential,
        result_id: int,
        form: ResultForm,
        query_id: int | None,
        sender: Sender,
        early: Early,
    ) -> UpstreamResponse:
        """Request a result from Redash by id; below its query for a query key, the only path it may read (CONTRACT 8).

        Raises:
            UpstreamRefused: any status but 200.
        """
        return await self._get(credential, calls.result(result_id, form, query_id), sender, early)

    async def aclose(self) -> None:
        """Cancel the fetches in progress."""
        await self._flights.aclose()

    async def _share(self, key: Hashable, call: Callable[[Offer], Awaitable[StoredResult]]) -> Fetch:
        """Let one call fetch a result for all callers; they get an arriving result as soon as it is offered."""
        offered: list[Spool] = []

        def offer(arriving: ArrivingResult) -> None:
            offered.append(arriving.body)
            self._flights.offer(key, arriving)

        async def fetch() -> StoredResult:
            try:
                return await call(offer)
            except BaseException:
                for spool in offered:
                    spool.fail()
                raise
            finally:
                offered.clear()

        result, joined = await self._flights.share(key, fetch)
        if isinstance(result, ArrivingResult) and result.body.failed:  # a second request for it is in progress
            result, _ = await self._flights.share(key, fetch, until_done=True)
        return Fetch(result, joined, isinstance(result, StoredResult))

    async def _fetch_json(
        self, credential: Credential, result_id: int, nested: Definition | None, sender: Sender, offer: Offer
    ) -> StoredResult:
        early = partial(_offer_json, offer, credential, result_id)
        begun = self._clock.monotonic()
        path_id = nested.query_id if nested is not None else None
        response = await self.download(credential, result_id, "json", path_id, sender, early)
        head = await load_result(response.body)
        if head.id != result_id:
            response.body.give_up()
            raise UpstreamUnusable("Redash responded with another result than the requested one.")
        # To a user Redash shows any result below any query's path (CONTRACT 20.9); only the hash shows its query.
        own = nested is not None and (credential.is_query_key or head.query_hash == nested.query_hash)
        query_id = nested.query_id if nested is not None and own else 0
        return await self._results.put(credential, query_id, head, response, begun=begun, confirmed=begun)

    async def _fetch_latest(self, credential: Credential, query_id: int, sender: Sender, offer: Offer) -> StoredResult:
        early = partial(_offer_json, offer, credential, None)
        begun = self._clock.monotonic()
        response = await self._get(credential, calls.latest_result(query_id), sender, early)
        head = await load_result(response.body)
        return await self._results.put(credential, query_id, head, response, begun=begun, confirmed=begun)

    async def _fetch_rendering(
        self,
        form: RenderedForm,
        credential: Credential,
        result_id: int,
        nested: Definition | None,
        sender: Sender,
        offer: Offer,
    ) -> StoredResult:
        """Fetch CSV, TSV or XLSX; valid for `rendered_ttl`, as its bytes depend on settings of Redash (CONTRACT 8)."""
        begun = self._clock.monotonic()
        query_id = nested.query_id if nested is not None else None
        entry = Entry(
            body_id=digest(b"body", uuid.uuid4().bytes),
            scope=credential.scope,
            query_id=query_id or 0,
            result_id=result_id,
            form=form,
            marker=nested.marker if nested is not None else "",
            born=begun,
            confirmed=begun,
        )

        async def early(response: UpstreamResponse, spool: Spool) -> None:
            offer(ArrivingResult(_dated(entry, response), spool))

        response = await self.download(credential, result_id, form, query_id, sender, early)
        entry = msgspec.structs.replace(_dated(entry, response), size=response.body.size)
        key = result_key(credential.scope, result_id, form)
        return await self._results.put_as([key], entry, response.body, begun)

    async def _get(
        self, credential: Credential, request: UpstreamRequest, sender: Sender, early: Early
    ) -> UpstreamResponse:
        response = await self._upstream.send(credential, request, sender, early=early)
        if response.status != 200:
            raise refusal(response)
        return response

    async def _rendered(self, credential: Credential, result_id: int, form: ResultForm, sender: Sender) -> StoredResult:
        """Make a CSV of a reduced result, whose id Redash does not know (CONTRACT 8, trap for query keys)."""
        stored = await self._results.get(result_key(credential.scope, result_id, "json"))
        if stored is None:
            raise NotFound("This result is no longer stored; run the query again.")
        if form == "json":
            return stored
        formats = await self._formats.get(sender)
        data = await asyncio.to_thread(_rendering, stored.body, render_csv if form == "csv" else render_tsv, formats)
        return StoredResult(stored.entry, Body.of(data))


async def _offer_json(
    offer: Offer, credential: Credential, result_id: int | None, response: UpstreamResponse, spool: Spool
) -> None:
    """Offer a full result (the one with that id, if given) whose day is known.

    Redash and the gateway put the day into the file name; in the JSON it stands at the end.
    """
    head = parse_beginning(response.body.load())
    if head is None or head.reduced or result_id not in (None, head.id):
        return
    arriving = arriving_result(credential, 0, head, response, spool)
    if arriving.entry.retrieved_at:
        offer(arriving)


def _dated(entry: Entry, response: UpstreamResponse) -> Entry:
    return msgspec.structs.replace(entry, retrieved_at=day_in(response.disposition))


def _rendering(body: Body, render: Callable[[Mapping[str, object], DateFormats], bytes], formats: DateFormats) -> bytes:
    try:
        return render(json.loads(body.load())["query_result"]["data"], formats)
    except RecursionError:  # of a body so large that only its ends were parsed before
        raise UpstreamUnusable("Redash's result is nested too deeply.") from None
