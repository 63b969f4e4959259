"""Fetching results that Redash has: one by its id in any form, a query's latest; each once for all who ask."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Final, Literal

import msgspec

from gateway.concurrency.flights import Flights
from gateway.concurrency.spool import Spool
from gateway.errors import NotFound, UpstreamUnusable
from gateway.model import FIRST_GATEWAY_RESULT_ID, Body, Clock, Definition, Entry, digest
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.plan import result_key
from gateway.redash.answers import read_beginning
from gateway.redash.renderings import render_csv, render_tsv
from gateway.redash.requests import ResultForm
from gateway.results.cache import Found, Results, Shown, day_in, early_entry, read_result
from gateway.upstream.request import Early, Upstream, UpstreamRequest, UpstreamResponse, refusal

NESTED_ROUTE: Final = "/api/queries/{query_id}/results/{result_id}.{form}"
FLAT_ROUTE: Final = "/api/query_results/{result_id}.{form}"
LATEST_ROUTE: Final = "/api/queries/{query_id}/results.{form}"

Offer = Callable[[Entry, Spool], None]
RenderedForm = Literal["csv", "tsv", "xlsx"]


class Fetching:
    """Asks Redash for results and keeps them; those who wait for a large one have it while it arrives."""

    def __init__(self, upstream: Upstream, results: Results, clock: Clock) -> None:
        self._upstream = upstream
        self._results = results
        self._clock = clock
        self._flights: Flights[Shown] = Flights()

    async def by_id(
        self,
        credential: Credential,
        result_id: int,
        form: ResultForm,
        nested: Definition | None,
        sender: Sender,
    ) -> tuple[Shown, bool, bool]:
        """Fetch a result by its id; below the path of query `nested` if there is one.

        Returns entry and bytes, whether this caller joined another's fetch, and whether it was fetched at all (a
        rendering of what is stored is not).

        Raises:
            UpstreamRefused: Redash does not give it (gone, or not for this credential).
            NotFound: an id of the gateway's own that is no longer stored.
        """
        if result_id >= FIRST_GATEWAY_RESULT_ID:
            return await self._rendered(credential, result_id, form), False, False
        flight = (result_key(credential.scope, result_id, form), nested.query_id if nested else None)
        fetch = self._fetch_json if form == "json" else partial(self._fetch_rendering, form)
        shown, joined = await self._share(flight, partial(fetch, credential, result_id, nested, sender))
        return shown, joined, True

    async def latest(self, credential: Credential, query_id: int, sender: Sender) -> tuple[Shown, bool]:
        """Ask Redash for a query's latest result as JSON; returns it and whether another caller's question brought it.

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
        """Ask Redash for a result by id: below its query for a query key, which may read no other way (CONTRACT 8).

        Raises:
            UpstreamRefused: any status but 200.
        """
        if query_id is not None:
            path, route = f"/api/queries/{query_id}/results/{result_id}.{form}", NESTED_ROUTE
        else:
            path, route = f"/api/query_results/{result_id}.{form}", FLAT_ROUTE
        return await self._get(credential, UpstreamRequest(method="GET", path=path, route=route, early=early), sender)

    async def aclose(self) -> None:
        """End the fetches that are under way."""
        await self._flights.aclose()

    async def _share(self, key: Hashable, call: Callable[[Offer], Awaitable[Found]]) -> tuple[Shown, bool]:
        """Let one call bring a result for all who ask; what it offers is theirs already."""
        offered: list[Spool] = []

        def offer(entry: Entry, spool: Spool) -> None:
            offered.append(spool)
            self._flights.offer(key, (entry, spool))

        async def bring() -> Found:
            try:
                return await call(offer)
            except BaseException:
                for spool in offered:
                    spool.fail()
                raise
            finally:
                offered.clear()

        shown, joined = await self._flights.share(key, bring)
        if isinstance(shown[1], Spool) and shown[1].failed:  # what broke off is being asked for a second time
            shown, _ = await self._flights.share(key, bring, until_done=True)
        return shown, joined

    async def _fetch_json(
        self, credential: Credential, result_id: int, nested: Definition | None, sender: Sender, offer: Offer
    ) -> Found:
        early = partial(_offer_json, offer, credential, result_id)
        begun = self._clock.monotonic()
        path_id = nested.query_id if nested is not None else None
        response = await self.download(credential, result_id, "json", path_id, sender, early)
        head = await read_result(response.body)
        if head.id != result_id:
            response.body.give_up()
            raise UpstreamUnusable("Redash answered with another result than the one asked for.")
        # To a user Redash shows any result below any query's path (CONTRACT 20.9); only its hash says whose it is.
        own = nested is not None and (credential.is_query_key or head.query_hash == nested.query_hash)
        query_id = nested.query_id if nested is not None and own else 0
        return await self._results.keep(credential, query_id, head, response, begun=begun, confirmed=begun)

    async def _fetch_latest(self, credential: Credential, query_id: int, sender: Sender, offer: Offer) -> Found:
        early = partial(_offer_json, offer, credential, None)
        call = UpstreamRequest(
            method="GET", path=f"/api/queries/{query_id}/results.json", route=LATEST_ROUTE, early=early
        )
        begun = self._clock.monotonic()
        response = await self._get(credential, call, sender)
        head = await read_result(response.body)
        return await self._results.keep(credential, query_id, head, response, begun=begun, confirmed=begun)

    async def _fetch_rendering(
        self,
        form: RenderedForm,
        credential: Credential,
        result_id: int,
        nested: Definition | None,
        sender: Sender,
        offer: Offer,
    ) -> Found:
        """Fetch CSV, TSV or XLSX; kept for `rendered_ttl`, as its bytes depend on settings of Redash (CONTRACT 8)."""
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
            offer(_dated(entry, response), spool)

        response = await self.download(credential, result_id, form, query_id, sender, early)
        entry = msgspec.structs.replace(_dated(entry, response), size=response.body.size)
        key = result_key(credential.scope, result_id, form)
        return await self._results.keep_as([key], entry, response.body, begun)

    async def _get(self, credential: Credential, call: UpstreamRequest, sender: Sender) -> UpstreamResponse:
        response = await self._upstream.send(credential, call, sender)
        if response.status != 200:
            raise refusal(response)
        return response

    async def _rendered(self, credential: Credential, result_id: int, form: ResultForm) -> Found:
        """Make a CSV of a reduced answer, whose id Redash does not know (CONTRACT 8, trap for query keys)."""
        found = await self._results.find(result_key(credential.scope, result_id, "json"))
        if found is None:
            raise NotFound("This result is no longer stored; run the query again.")
        entry, body = found
        if form == "json":
            return found
        data = await asyncio.to_thread(_rendering, body, render_csv if form == "csv" else render_tsv)
        return entry, Body.of(data)


async def _offer_json(
    offer: Offer, credential: Credential, result_id: int | None, response: UpstreamResponse, spool: Spool
) -> None:
    """Offer a full result (the one of that id, if it is asked for) whose day is known.

    Redash's name of the file has the day, ours shall have it, too, and in the JSON it stands at the end.
    """
    head = read_beginning(response.body.load())
    if head is None or head.reduced or result_id not in (None, head.id):
        return
    entry = early_entry(credential, 0, head, response)
    if entry.retrieved_at:
        offer(entry, spool)


def _dated(entry: Entry, response: UpstreamResponse) -> Entry:
    return msgspec.structs.replace(entry, retrieved_at=day_in(response.disposition))


def _rendering(body: Body, render: Callable[[Mapping[str, object]], bytes]) -> bytes:
    return render(json.loads(body.load())["query_result"]["data"])
