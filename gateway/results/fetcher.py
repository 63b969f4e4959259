"""Fetching existing results from Redash: by id in any form, or a query's latest; one fetch for all callers."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Final, Literal

import msgspec

from gateway.body import Body
from gateway.concurrency.flights import Flights
from gateway.concurrency.slots import FairSlots
from gateway.concurrency.spool import Spool
from gateway.errors import NotAcceptable, NotFound, UpstreamUnusable
from gateway.model import FIRST_GATEWAY_RESULT_ID, Clock, Definition, Entry, Key, digest
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.policy.keys import rendering_key, result_key
from gateway.redash import calls
from gateway.redash.calls import UpstreamRequest
from gateway.redash.downloads import RenderedForm, ResultForm, id_in
from gateway.redash.renderings import DateFormats
from gateway.redash.responses import parse_beginning
from gateway.results import own_renderings
from gateway.results.attribution import Claim, owner_of
from gateway.results.cache import AnyResult, ArrivingResult, ResultCache, StoredResult, arriving_result
from gateway.results.files import form_of, whole_form_of
from gateway.results.loading import load_result
from gateway.results.organisation import OrganisationReader
from gateway.upstream.protocol import Early, Upstream, UpstreamResponse, refusal

_MOMENT_SECONDS: Final = 2.0
"""For how long after Redash showed a result its id is taken for its own: a restored database takes longer."""

_NOT_KEPT: Final = "This result is larger than the gateway can keep now (cache.max_entry, cache.disk); request JSON."

_TRIES: Final = 3

Offer = Callable[[ArrivingResult], None]


class Fetch(msgspec.Struct, frozen=True):
    """The outcome of one fetch."""

    result: AnyResult
    joined: bool = False
    """Whether another caller's fetch was joined."""
    stored: bool = True
    """Whether this fetch stored it: not while it is arriving, and never for a rendering made here."""


class ResultFetcher:
    """Fetches results from Redash and stores them; waiting callers get a large one while it arrives."""

    def __init__(
        self, live: Live, upstream: Upstream, results: ResultCache, organisation: OrganisationReader, clock: Clock
    ) -> None:
        self._live = live
        self._upstream = upstream
        self._results = results
        self._organisation = organisation
        self._clock = clock
        self._flights: Flights[AnyResult] = Flights()
        # One at a time: several would only take the interpreter from each other, and from the event loop.
        self._renderings = FairSlots(
            1, timeout=live.settings.upstream.queue_timeout, busy="The gateway is busy with other large files"
        )

    async def by_id(
        self, credential: Credential, result_id: int, claims: tuple[Claim, ...], sender: Sender, *, whole: bool
    ) -> Fetch:
        """Fetch a result by its id, as JSON. It is stored for the first query in `claims` that it is proven to be of.

        `whole` waits for its end; otherwise a large result is returned while it arrives.

        Raises:
            UpstreamRefused: Redash refuses it (deleted, or not for this credential).
            NotFound: an id of the gateway's own that is no longer stored.
        """
        if result_id >= FIRST_GATEWAY_RESULT_ID:
            raise self._results.missing("This result is no longer stored; run the query again.")
        known_as = tuple((claim.definition.query_id, claim.identity) for claim in claims)
        flight = (result_key(credential.scope, result_id, "json"), known_as)
        fetch = partial(self._fetch_by_id, credential, result_id, claims, sender)
        return await self._share(flight, fetch, sender.outcome, whole=whole)

    async def latest(self, credential: Credential, definition: Definition, sender: Sender, *, whole: bool) -> Fetch:
        """Fetch a query's latest result as JSON; stored as the query's only where that is proven.

        Raises:
            UpstreamRefused: there is none (404), or it is not for this credential.
        """
        flight = ("latest", credential.scope, definition.query_id, definition.marker)
        fetch = partial(self._fetch_latest, credential, definition, sender)
        return await self._share(flight, fetch, sender.outcome, whole=whole)

    async def rendering(self, credential: Credential, of: StoredResult, form: RenderedForm, sender: Sender) -> Fetch:
        """Fetch the CSV, TSV or XLSX of exactly this result.

        Raises:
            UpstreamRefused: Redash refuses it.
            UpstreamUnusable: the response is not such a file.
        """
        if of.entry.result_id >= FIRST_GATEWAY_RESULT_ID:
            return await self._rendered(of, form, sender)
        flight = rendering_key(of.entry, form)
        return await self._share(
            flight, partial(self._fetch_rendering, credential, of.entry, form, sender), sender.outcome
        )

    async def download(
        self,
        credential: Credential,
        result_id: int,
        form: ResultForm,
        sender: Sender,
        early: Early,
    ) -> UpstreamResponse:
        """Request a result from Redash by id; below its query for a query key, the only path it may read (CONTRACT 8).

        Raises:
            UpstreamRefused: any status but 200.
        """
        return await self._get(credential, calls.result(result_id, form, credential.query_id), sender, early)

    async def aclose(self) -> None:
        """Cancel the fetches in progress."""
        await self._flights.aclose()

    async def _share(
        self,
        key: Hashable,
        call: Callable[[Offer], Awaitable[StoredResult]],
        outcome: Outcome | None = None,
        *,
        whole: bool = False,
    ) -> Fetch:
        """Let one call fetch a result for all callers; unless `whole`, they get it as soon as it is offered.

        Who joins the passage of a result that cannot be kept, and comes too late, is given the next one.
        """
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

        for _ in range(_TRIES):
            result, joined = await self._flights.share(key, fetch, outcome, until_done=whole)
            if isinstance(result, ArrivingResult) and not result.body.is_whole:  # it failed, and is requested once more
                result, _ = await self._flights.share(key, fetch, outcome, until_done=True)
            if whole or isinstance(result, ArrivingResult) or result.is_readable:
                break
        return Fetch(result, joined, isinstance(result, StoredResult) and result.body.is_kept)

    async def _fetch_by_id(
        self, credential: Credential, result_id: int, claims: tuple[Claim, ...], sender: Sender, offer: Offer
    ) -> StoredResult:
        early = partial(_offer_json, offer, credential, result_id)
        begun = self._clock.monotonic()
        response = await self.download(credential, result_id, "json", sender, early)
        head = await load_result(response.body)
        if head.id != result_id:
            response.body.give_up()
            raise UpstreamUnusable("Redash responded with another result than the requested one.")
        query_id = await owner_of(claims, head)
        return await self._results.put(credential, query_id, head, response, begun=begun, confirmed=begun)

    async def _fetch_latest(
        self, credential: Credential, definition: Definition, sender: Sender, offer: Offer
    ) -> StoredResult:
        early = partial(_offer_json, offer, credential, None)
        begun = self._clock.monotonic()
        response = await self._get(credential, calls.latest_result(definition.query_id), sender, early)
        head = await load_result(response.body)
        query_id = await owner_of([Claim(definition)], head)
        return await self._results.put(credential, query_id, head, response, begun=begun, confirmed=begun)

    async def _fetch_rendering(
        self, credential: Credential, of: Entry, form: RenderedForm, sender: Sender, offer: Offer
    ) -> StoredResult:
        """Fetch CSV, TSV or XLSX; valid for `rendered_ttl`, as its bytes depend on settings of Redash (CONTRACT 8)."""
        await self._check_unchanged(credential, of, sender)
        begun = self._clock.monotonic()
        body_id = digest(b"body", uuid.uuid4().bytes)
        entry = msgspec.structs.replace(of, body_id=body_id, runtime=0.0, born=begun, confirmed=begun)

        async def early(response: UpstreamResponse, spool: Spool) -> None:
            offer(ArrivingResult(msgspec.structs.replace(entry, form=form_of(response, form)), spool))

        response = await self.download(credential, of.result_id, form, sender, early)
        entry = msgspec.structs.replace(entry, form=await whole_form_of(response, form), size=response.body.size)
        return await self._results.put_as([rendering_key(of, form)], entry, response.body, begun)

    async def _check_unchanged(self, credential: Credential, of: Entry, sender: Sender) -> None:
        """Check that Redash has exactly this result under its id, unless it showed it a moment ago.

        Ids begin again after Redash's database was set back, and no CSV says which result it was made from.

        Raises:
            UpstreamRefused: Redash does not have it any more, or not for this credential.
            NotFound: it has another one.
        """
        if self._clock.monotonic() - of.confirmed <= _MOMENT_SECONDS:
            return
        found = await self._fetch_by_id(credential, of.result_id, (), sender, lambda _: None)
        if found.entry.identity != of.identity:
            raise NotFound("Redash now has another result under this id; run the query again.")

    async def _get(
        self, credential: Credential, request: UpstreamRequest, sender: Sender, early: Early
    ) -> UpstreamResponse:
        response = await self._upstream.send(credential, request, sender, early=early)
        if response.status != 200:
            raise refusal(response)
        return response

    async def _rendered(self, of: StoredResult, form: RenderedForm, sender: Sender) -> Fetch:
        """Make the CSV or TSV of a reduced result, whose id Redash does not know (CONTRACT 8, trap for query keys).

        It is made once for all callers, and stored as the rendering of this result in these formats.
        """
        if form == "xlsx":
            raise NotAcceptable("A query key's result cannot be made into XLSX; request csv, tsv or json.")
        formats = await self._organisation.formats(sender)
        key = rendering_key(of.entry, f"{form} {formats.date} {formats.date_time}")
        if (rendering := await self._results.get(key)) is not None:
            return Fetch(rendering, stored=False)
        began = self._clock.monotonic()
        fetch = await self._share(key, lambda _: self._render_in_turn(key, of, form, formats, sender.client))
        if sender.outcome is not None:
            sender.outcome.render_seconds += self._clock.monotonic() - began
        return Fetch(fetch.result, fetch.joined, stored=False)

    async def _render_in_turn(
        self, key: Key, source: StoredResult, form: Literal["csv", "tsv"], formats: DateFormats, client: str
    ) -> StoredResult:
        self._renderings.timeout = self._live.settings.upstream.queue_timeout
        async with self._renderings.hold(client):
            return await self._render(key, source, form, formats)

    async def _render(
        self, key: Key, source: StoredResult, form: Literal["csv", "tsv"], formats: DateFormats
    ) -> StoredResult:
        begun = self._clock.monotonic()
        content = source.content
        if not isinstance(content, Body):
            raise UpstreamUnusable(_NOT_KEPT)
        body = await own_renderings.render(content, form, formats, self._results.begin_spool)
        entry = msgspec.structs.replace(source.entry, body_id=digest(b"body", key), form=form, born=begun)
        entry = msgspec.structs.replace(entry, size=body.size)
        return await self._results.put_as([key], entry, body, begun)


async def _offer_json(
    offer: Offer, credential: Credential, result_id: int | None, response: UpstreamResponse, spool: Spool
) -> None:
    """Offer a full result (the one with that id, if given) whose day is known.

    Redash and the gateway put the day into the file name; in the JSON it stands at the end. Up to version 8 the id
    stands there, too; it is in the name of a file that Redash was asked for by the id.
    """
    head = parse_beginning(response.body.load())
    if head is None or head.reduced:
        return
    if head.id == 0 and result_id is not None and credential.query_id is None:  # else the file has the query's name
        head = msgspec.structs.replace(head, id=id_in(response.disposition))
    if result_id not in (None, head.id):
        return
    arriving = arriving_result(credential, 0, head, response, spool)
    if arriving.entry.retrieved_at:
        offer(arriving)
