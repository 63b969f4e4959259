"""Metadata and writes: relayed by the route table, keys removed, cached for seconds, dropped after edits and runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import msgspec
from cachetools import LRUCache

from gateway.body import Body
from gateway.concurrency.flights import Flights
from gateway.concurrency.slots import FairSlots
from gateway.errors import (
    CredentialRejected,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnusable,
    is_denial,
)
from gateway.model import Clock, Key, Response
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext
from gateway.policy.keys import metadata_key
from gateway.redash import calls, routes
from gateway.redash.arguments import search_location
from gateway.redash.matching import Match
from gateway.redash.objects import parse_named
from gateway.redash.redaction import body_without_own_keys, without_keys
from gateway.redash.requests import Relay
from gateway.results.bindings import Bindings
from gateway.results.definitions import Definitions
from gateway.results.job_results import JobResults
from gateway.results.pauses import Pauses
from gateway.store.compression import gzip_body
from gateway.upstream.protocol import Upstream, UpstreamResponse, refusal

T = TypeVar("T")

MOST_CACHE_BYTES: Final = 32 * 10**6
LEAST_CACHE_BYTES: Final = 4 * 10**6
_OFF_LOOP_BYTES: Final = 64 * 1024
_OVERHEAD_BYTES: Final = 1_000


class MetadataEntry(msgspec.Struct, frozen=True):
    """One cached response. `requested_at` (monotonic) is when the request to Redash was sent."""

    body: Body
    content_type: str
    etag: str
    requested_at: float
    query_id: int | None
    """The one query that it shows; None for lists, dashboards and everything else that may show several."""
    location: str = ""
    gzip: Body | None = None
    status: int = 200


class Metadata:
    """The part of Redash's API that is neither results nor jobs."""

    def __init__(
        self, live: Live, upstream: Upstream, definitions: Definitions, pauses: Pauses, bindings: Bindings, clock: Clock
    ) -> None:
        self._live = live
        self._upstream = upstream
        self._definitions = definitions
        self._pauses = pauses
        self._bindings = bindings
        self._clock = clock
        limit = min(MOST_CACHE_BYTES, max(LEAST_CACHE_BYTES, live.settings.cache.memory // 8))
        self.entries: LRUCache[Key, MetadataEntry] = LRUCache(limit, getsizeof=_cost)
        self._job_results = JobResults(upstream, clock)
        self._flights: Flights[MetadataEntry] = Flights()
        self._generation = 0
        self.on_dropped: Callable[[], None] = lambda: None
        """Called when everything was dropped."""
        self.announce_write: Callable[[], Awaitable[None]] = _alone
        """Lets the gateways with the same store drop everything, too."""
        # One large body at a time: it takes many times its size while it is parsed.
        self._cleaning = FairSlots(
            1, timeout=live.settings.upstream.queue_timeout, busy="The gateway is busy with other large lists"
        )

    async def respond(self, context: RequestContext, operation: Relay) -> Response:
        """Respond to a metadata GET or a write.

        Raises:
            UpstreamRefused: any status but 2xx, as Redash gave it.
        """
        clean = context.configured.access.without_tokens(operation.arguments)
        operation = msgspec.structs.replace(operation, arguments=clean)
        if context.match.route.kind == "write":
            return await self._write(context, operation)
        if context.match.route.kind == "live":
            context.outcome.record_bypass("bypass")
            entry = await self._request(context, operation)
            return _response(entry)
        entry = await self._cached(context, operation)
        if context.match.route is routes.DASHBOARD and context.caller.is_bound:
            self._bindings.check_dashboard(context, parse_named(entry.body.load()).id)
        return _response(entry)

    async def _cached(self, context: RequestContext, operation: Relay) -> MetadataEntry:
        reveal = context.caller.settings.reveal_keys
        key = metadata_key(context.credential.scope, operation.path, operation.arguments, reveal_keys=reveal)
        entry = self.entries.get(key)
        slack = self._slack(entry)
        if entry is not None and slack >= 0:
            context.outcome.record_hit(slack, self._age(entry), 0.0)
            return entry
        flight = (key, self._generation)
        if entry is not None and -slack <= self._live.settings.cache.metadata_stale_while_revalidate:
            self._flights.start(flight, lambda: self._refresh(context, operation, key))
            context.outcome.record_stale(slack, self._age(entry), 0.0, "stale-while-revalidate")
            return entry
        if entry is not None and -slack <= self._window(context) and self._upstream.is_unavailable:
            self._flights.start(flight, lambda: self._refresh(context, operation, key))
            context.outcome.record_stale(slack, self._age(entry), 0.0, "stale-if-error")
            return entry
        context.outcome.record_miss("not_stored" if entry is None else "stale")
        refresh = partial(self._refresh, context, operation, key)
        share = partial(self._flights.share, flight, refresh, context.outcome)
        if entry is None or -slack > self._window(context):
            fresh, joined = await share()
        else:
            try:
                fresh, joined = await self._while_redash_works(context, share)
            except UpstreamError:
                context.outcome.record_stale(slack, self._age(entry), 0.0, "stale-if-error")
                return entry
        context.outcome.record_miss("not_stored" if entry is None else "stale", joined=joined, stored=True)
        return fresh

    async def _while_redash_works(self, context: RequestContext, share: Callable[[], Awaitable[T]]) -> T:
        """Wait for a new response, where an old one may be used if Redash is unavailable.

        Raises:
            UpstreamError: it is, or takes too long.
        """
        try:
            async with self._upstream.until_unavailable(), asyncio.timeout(context.until - self._clock.monotonic()):
                return await share()
        except TimeoutError:
            raise UpstreamTimeout("Redash did not answer in time.") from None

    def _window(self, context: RequestContext) -> float:
        client = context.caller.settings.stale_if_error
        return client if client is not None else self._live.settings.cache.stale_if_error

    def _age(self, entry: MetadataEntry) -> float:
        return self._clock.monotonic() - entry.requested_at

    def _slack(self, entry: MetadataEntry | None) -> float:
        return self._live.settings.cache.metadata_ttl - self._age(entry) if entry is not None else 0.0

    async def _refresh(self, context: RequestContext, operation: Relay, key: Key) -> MetadataEntry:
        generation = self._generation
        try:
            entry = await self._request(context, operation)
        except (UpstreamRefused, CredentialRejected) as error:
            self.entries.pop(key, None)
            if context.match.route is routes.QUERY and operation.query_id is not None and is_denial(error):
                # The object is what a definition check reads: one refusal is as good as the other.
                await self._definitions.refuse(operation.query_id, context.credential.scope, error)
            raise
        entry = msgspec.structs.replace(entry, gzip=await gzip_body(entry.body))
        if generation == self._generation and _cost(entry) < self.entries.maxsize // 8:
            body = msgspec.structs.replace(entry.body, share=None)  # it counts here from now on
            self.entries[key] = msgspec.structs.replace(entry, body=body)
        return entry

    async def _request(self, context: RequestContext, operation: Relay) -> MetadataEntry:
        route = context.match.route
        response = await self._upstream.send(context.credential, calls.relayed(route, operation), context.sender)
        if route.job_result:
            response = await self._job_results.of(response, context)
        redirected = route.redirects and response.status == 301
        written = route.kind == "write" and 200 < response.status < 300
        if response.status != 200 and not redirected and not written:
            raise refusal(response)
        body = await self._cleaned(context, response)
        if redirected:
            return MetadataEntry(
                body, response.content_type, "", response.sent, None, search_location(response.location)
            )
        await _off_loop(partial(_check_object, context.match, operation), body)
        etag = (await _off_loop(_digest, body))[:16]
        alone = operation.query_id if route is routes.QUERY else None
        return MetadataEntry(body, response.content_type, etag, response.sent, alone, status=response.status)

    async def _write(self, context: RequestContext, operation: Relay) -> Response:
        context.outcome.record_bypass("method")
        try:
            entry = await self._request(context, operation)
        finally:  # also when the response is lost: the write may have been done
            self.drop_all()
            if context.match.route.is_below(routes.DATA_SOURCE):
                self._pauses.drop_all()
            if operation.query_id is not None and context.match.route.has_path_of(routes.QUERY):
                await self._definitions.delete(operation.query_id)
            elif operation.query_id is not None:
                self._definitions.drop(operation.query_id)
            await self.announce_write()
        content_type = entry.content_type if entry.body.size else ""
        return Response(status=entry.status, body=entry.body, content_type=content_type)

    async def _cleaned(self, context: RequestContext, response: UpstreamResponse) -> Body:
        if not response.body.size:
            return response.body
        shown = context.caller.settings.reveal_keys or not context.match.route.keys
        clean = body_without_own_keys if shown else without_keys
        if response.body.size <= _OFF_LOOP_BYTES:
            return response.body.with_data(clean(response.body.load()))
        self._cleaning.timeout = self._live.settings.upstream.queue_timeout
        async with self._cleaning.hold(context.caller.name):
            return response.body.with_data(await asyncio.to_thread(lambda: clean(response.body.load())))

    def drop_all(self) -> None:
        """Drop everything: a write was made, here or by another gateway, which may affect any object and list."""
        self._generation += 1
        self.entries.clear()
        self.on_dropped()

    def drop_object(self, query_id: int) -> None:
        """Drop a query's object in every scope: Redash refuses the query to one of them."""
        for key in [key for key, entry in self.entries.items() if entry.query_id == query_id]:
            del self.entries[key]

    def drop_query(self, query_id: int) -> None:
        """Drop what a run changes: the query's object, and all that shows several (lists contain `retrieved_at`)."""
        self._generation += 1
        for key in [key for key, entry in self.entries.items() if entry.query_id in (query_id, None)]:
            del self.entries[key]

    async def aclose(self) -> None:
        """Cancel the requests in progress."""
        await self._flights.aclose()


async def _alone() -> None:
    """Nobody shares the store."""


async def _off_loop(work: Callable[[Body], T], body: Body) -> T:
    """Do `work` in a thread, if the body is large."""
    return work(body) if body.size <= _OFF_LOOP_BYTES else await asyncio.to_thread(work, body)


def _check_object(match: Match, operation: Relay, body: Body) -> None:
    """Refuse what is not the requested object: a proxy or a cache before Redash may have another one.

    Raises:
        UpstreamUnusable: no body, or an object with another id than the one in the path.
    """
    if match.route.method == "GET" and not body.size:
        raise UpstreamUnusable("Redash's response has no body.")
    named = match.parts.get("dashboard", "") if match.route is routes.DASHBOARD else ""
    by_slug = any(name == "legacy" for name, _ in operation.arguments)  # then the path has no id (CONTRACT 13)
    wanted = int(named) if named.isdecimal() and not by_slug else None
    wanted = operation.query_id if match.route is routes.QUERY else wanted
    if wanted is None:
        return
    found = parse_named(body.load())
    if found.id != wanted and found.slug != named:  # Redash 8 and 9 take a number for a slug
        raise UpstreamUnusable("Redash's response is another object than the requested one.")


def _digest(body: Body) -> str:
    return hashlib.sha256(body.load()).hexdigest()


def _cost(entry: MetadataEntry) -> int:
    return entry.body.size + (entry.gzip.size if entry.gzip is not None else 0) + _OVERHEAD_BYTES


def _response(entry: MetadataEntry) -> Response:
    return Response(
        status=301 if entry.location else 200,
        body=entry.body,
        gzip=entry.gzip,
        content_type=entry.content_type,
        etag=entry.etag,
        location=entry.location,
    )
