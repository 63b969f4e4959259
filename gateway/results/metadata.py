"""Metadata and writes: relayed by the route table, cleaned of keys, kept for seconds, dropped by edits and runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from cachetools import LRUCache

from gateway import config
from gateway.concurrency.flights import Flights
from gateway.errors import UpstreamError, UpstreamRefused
from gateway.model import Body, Clock, Key, Response
from gateway.policy.access import Credential
from gateway.policy.context import RequestContext
from gateway.policy.plan import metadata_key
from gateway.redash.answers import read_id
from gateway.redash.redaction import without_keys
from gateway.redash.requests import Relay, read_arguments, write_arguments
from gateway.results.bindings import DASHBOARD_ROUTE, Bindings
from gateway.results.definitions import Definitions
from gateway.store.forms import gzip_form
from gateway.upstream.request import Upstream, UpstreamRequest, UpstreamResponse

T = TypeVar("T")

EDIT_ROUTE: Final = "/api/queries/{query_id}"
SEARCH_ROUTE: Final = "/api/queries/search"
KEPT_BYTES: Final = 32 * 10**6
_OFF_LOOP_BYTES: Final = 64 * 1024
_OVERHEAD_BYTES: Final = 1_000


class Kept(msgspec.Struct, frozen=True):
    """One answer that is kept. `asked_at` is when its question left, monotonic."""

    body: Body
    content_type: str
    etag: str
    asked_at: float
    query_id: int | None
    """The one query that it is about; None for lists, dashboards and all else that may show several."""
    location: str = ""
    gzip: Body | None = None


class Metadata:
    """Everything of Redash's API that is no result and no job."""

    def __init__(
        self,
        settings: config.Config,
        upstream: Upstream,
        definitions: Definitions,
        bindings: Bindings,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self._upstream = upstream
        self._definitions = definitions
        self._bindings = bindings
        self._clock = clock
        self._kept: LRUCache[Key, Kept] = LRUCache(KEPT_BYTES, getsizeof=_cost)
        self._flights: Flights[Kept] = Flights()
        self._generation = 0

    async def respond(self, context: RequestContext, credential: Credential, operation: Relay) -> Response:
        """Answer a metadata GET or a write.

        Raises:
            UpstreamRefused: any status but 2xx, as Redash gave it.
        """
        if context.match.route.kind == "write":
            return await self._write(context, credential, operation)
        if context.match.route.kind == "live":
            context.outcome.went("bypass")
            kept = await self._ask(context, credential, operation)
            return _shown(kept)
        kept = await self._read(context, credential, operation)
        if context.match.route.template == DASHBOARD_ROUTE and context.caller.is_bound:
            self._bindings.check_dashboard(context.caller, read_id(kept.body.load()))
        return _shown(kept)

    async def _read(self, context: RequestContext, credential: Credential, operation: Relay) -> Kept:
        reveal = context.caller.settings.reveal_keys
        key = metadata_key(credential.scope, operation.path, operation.arguments, reveal_keys=reveal)
        kept = self._kept.get(key)
        slack = self._slack(kept)
        if kept is not None and slack >= 0:
            context.outcome.hit(slack, self._age(kept), 0.0)
            return kept
        flight = (key, self._generation)
        if kept is not None and -slack <= self.settings.cache.metadata_stale_while_revalidate:
            self._flights.start(flight, lambda: self._refresh(context, credential, operation, key))
            context.outcome.stale(slack, self._age(kept), 0.0, "stale-while-revalidate")
            return kept
        context.outcome.went("uri-miss" if kept is None else "stale")
        try:
            fresh, joined = await self._flights.share(
                flight, lambda: self._refresh(context, credential, operation, key)
            )
        except UpstreamError as error:
            return self._stale_if_error(context, kept, slack, error)
        context.outcome.went("uri-miss" if kept is None else "stale", joined=joined, stored=True)
        return fresh

    def _stale_if_error(self, context: RequestContext, kept: Kept | None, slack: float, error: UpstreamError) -> Kept:
        """Show what is kept because Redash is away, or raise the error."""
        client = context.caller.settings.stale_if_error
        window = client if client is not None else self.settings.cache.stale_if_error
        if kept is None or -slack > window:
            raise error
        context.outcome.stale(slack, self._age(kept), 0.0, "stale-if-error")
        return kept

    def _age(self, kept: Kept) -> float:
        return self._clock.monotonic() - kept.asked_at

    def _slack(self, kept: Kept | None) -> float:
        return self.settings.cache.metadata_ttl - self._age(kept) if kept is not None else 0.0

    async def _refresh(self, context: RequestContext, credential: Credential, operation: Relay, key: Key) -> Kept:
        generation = self._generation
        try:
            kept = await self._ask(context, credential, operation)
        except UpstreamRefused:
            self._kept.pop(key, None)
            raise
        kept = msgspec.structs.replace(kept, gzip=await gzip_form(kept.body))
        if generation == self._generation and _cost(kept) < KEPT_BYTES // 8:
            self._kept[key] = kept
        return kept

    async def _ask(self, context: RequestContext, credential: Credential, operation: Relay) -> Kept:
        route = context.match.route
        call = UpstreamRequest(
            method=route.method,
            path=operation.path,
            route=route.template,
            query=write_arguments(operation.arguments),
            body=operation.body,
        )
        response = await self._upstream.send(credential, call, context.sender)
        body = await self._cleaned(context, response)
        if route.template == SEARCH_ROUTE and response.status == 301:
            return Kept(body, response.content_type, "", response.sent, None, _search_location(response.location))
        if response.status != 200:
            raise UpstreamRefused(response.status, body, response.content_type)
        etag = (await _off_loop(_digest, body))[:16]
        alone = operation.query_id if route.template == EDIT_ROUTE else None
        return Kept(body, response.content_type, etag, response.sent, alone)

    async def _write(self, context: RequestContext, credential: Credential, operation: Relay) -> Response:
        context.outcome.went("method")
        try:
            kept = await self._ask(context, credential, operation)
        finally:  # also when the answer is lost: the write may have been done
            self.drop_all()
            if operation.query_id is not None and context.match.route.template == EDIT_ROUTE:
                await self._definitions.forget(operation.query_id)
            elif operation.query_id is not None:
                self._definitions.drop(operation.query_id)
        return Response(body=kept.body, content_type=kept.content_type)

    async def _cleaned(self, context: RequestContext, response: UpstreamResponse) -> Body:
        if context.caller.settings.reveal_keys or not context.match.route.keys:
            return response.body
        return Body.of(await _off_loop(_without_keys, response.body))

    def drop_all(self) -> None:
        """Forget everything: a write has been made, which may show in any object and list."""
        self._generation += 1
        self._kept.clear()

    def drop_query(self, query_id: int) -> None:
        """Forget what a run changes: the query's object, and whatever shows several (lists carry `retrieved_at`)."""
        self._generation += 1
        for key in [key for key, kept in self._kept.items() if kept.query_id in (query_id, None)]:
            del self._kept[key]

    async def aclose(self) -> None:
        """End the questions that are under way."""
        await self._flights.aclose()


async def _off_loop(work: Callable[[Body], T], body: Body) -> T:
    """Do it in a thread, if the body is large."""
    return work(body) if body.size <= _OFF_LOOP_BYTES else await asyncio.to_thread(work, body)


def _digest(body: Body) -> str:
    return hashlib.sha256(body.load()).hexdigest()


def _without_keys(body: Body) -> bytes:
    return without_keys(body.load())


def _cost(kept: Kept) -> int:
    return kept.body.size + (kept.gzip.size if kept.gzip is not None else 0) + _OVERHEAD_BYTES


def _shown(kept: Kept) -> Response:
    return Response(
        status=301 if kept.location else 200,
        body=kept.body,
        gzip=kept.gzip,
        content_type=kept.content_type,
        etag=kept.etag,
        location=kept.location,
    )


def _search_location(location: str) -> str:
    """Make the one redirect of Redash's API our own: the old search sends to the list (CONTRACT 5)."""
    arguments = read_arguments(location.partition("?")[2])
    return f"/api/queries?{write_arguments(tuple((n, v) for n, v in arguments if n != 'org_slug'))}"
