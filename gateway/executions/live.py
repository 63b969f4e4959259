"""Live results: a GET that waits for a newer one, and a stream of events. Nothing here runs a query.

Whoever's run brought the result: it is found in the store, after the rights of this caller were judged again.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

import msgspec

from gateway.body import Events
from gateway.concurrency.watchers import Watch, Watchers
from gateway.errors import BadRequest, GatewayError, ServiceUnavailable
from gateway.model import Clock, Definition, Entry, Response
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext
from gateway.policy.plan import plan_for
from gateway.redash.parameters import check_others
from gateway.redash.requests import ReadLatest, ReadParameterised
from gateway.redash.responses import parse_time
from gateway.results.bindings import Bindings
from gateway.results.cache import StoredResult
from gateway.results.parts import ResultParts

HEARTBEAT_SECONDS: Final = 15.0
"""Proxies cut connections that are silent for long."""

_QUICKEST_LOOK: Final = 1.0
_HELLO: Final = b"retry: 2000\n\n"
_STILL_HERE: Final = b": still here\n\n"

Read = ReadLatest | ReadParameterised


class _Newest(msgspec.Struct, frozen=True):
    result: StoredResult
    definition: Definition

    @property
    def id(self) -> str:
        """Return what distinguishes it from every other result: the tag of its JSON."""
        return tag_of(self.result.entry)

    def event(self) -> bytes:
        """Return the event that tells of it."""
        entry = self.result.entry
        data = {
            "query_id": self.definition.query_id,
            "id": entry.result_id,
            "retrieved_at": entry.retrieved_at,
            "etag": f'"{self.id}"',
        }
        return f"id: {self.id}\ndata: {msgspec.json.encode(data).decode()}\n\n".encode()

    def is_after(self, last: Entry | None) -> bool:
        """Whether it is another result than the last one, and not an older one that came back."""
        entry = self.result.entry
        if last is None:
            return True
        if (entry.result_id, entry.identity) == (last.result_id, last.identity):
            return False
        return parse_time(entry.retrieved_at) >= parse_time(last.retrieved_at)


def tag_of(entry: Entry) -> str:
    """Return the ETag of a stored body, without quotes."""
    return entry.body_id.hex()[:16]


class LiveResults:
    """Tells callers of newer results."""

    def __init__(self, live: Live, results: ResultParts, clock: Clock) -> None:
        self._live = live
        self._results = results
        self._bindings: Bindings = results.bindings
        self._clock = clock
        self.watchers = Watchers(self._period)
        results.cache.on_stored = self.watchers.note
        live.on_change.append(self.watchers.note_all)

    def _period(self) -> float:
        """Return how often watchers look when nothing happens, so that a definition is read when it is due."""
        check = self._live.settings.cache.definition_check
        return max(_QUICKEST_LOOK, min(HEARTBEAT_SECONDS, check / 2))

    async def hold(self, context: RequestContext, operation: Read, response: Response) -> Response:
        """Respond later with a newer result, where the caller has this one and sends `Prefer: wait=N`.

        Raises:
            GatewayError: the rights of the caller have ended.
        """
        given, entry = context.request.headers.get("If-None-Match", ""), response.entry
        held = response.status == 200 and entry is not None and response.etag and response.etag in given
        if context.wait is None or context.request.method != "GET" or not held:
            return response
        until, began = context.until_run(context.wait), self._clock.monotonic()
        response.reuse, response.waited, response.retry_after = None, context.wait, 1.0
        if not self._has_room():
            return response
        newest = None
        try:
            with self.watchers.watching(operation.query_id) as watch:
                while (left := until - self._clock.monotonic()) > 0 and not self.watchers.closed:
                    found = await self._newest(context, operation, watch, entry)
                    if found is not None and found.is_after(entry):
                        newest = found
                        break
                    await watch.wait(left)
        finally:
            context.outcome.held_seconds = self._clock.monotonic() - began
        return response if newest is None else await self._respond(context, operation, newest)

    async def _respond(self, context: RequestContext, operation: Read, newest: _Newest) -> Response:
        entry = newest.result.entry
        context.outcome.record_hit(0.0, entry.age(self._clock.monotonic()), entry.runtime)
        context.outcome.ttl = None
        reader, credential = self._results.reader, context.credential
        response = await reader.rendered(context, credential, newest.result, operation, newest.definition)
        response.waited = context.wait
        return response

    async def events(self, context: RequestContext, operation: Read) -> Response:
        """Respond with a stream of events: the newest result, unless the caller has it, and then each newer one.

        Raises:
            GatewayError: the caller may not read this query; or too many watch.
        """
        if context.request.is_http_1_0:
            raise BadRequest("A stream of events needs HTTP/1.1.")
        if not self._has_room():
            raise ServiceUnavailable(
                "As many requests wait for newer results as server.max_watchers allows.", retry_after=5
            )
        await self._newest(context, operation, None, None)  # refused here, it has its status
        source = self._stream(context, operation)
        return Response(body=Events(source), content_type="text/event-stream", cache_control="no-store")

    async def _stream(self, context: RequestContext, operation: Read) -> AsyncGenerator[bytes, None]:
        yield _HELLO
        last, known, sent_at = None, context.request.headers.get("Last-Event-ID", ""), self._clock.monotonic()
        with suppress(GatewayError), self.watchers.watching(operation.query_id) as watch:
            while not self.watchers.closed:
                newest = await self._newest(context, operation, watch, last)
                if newest is not None and newest.is_after(last):
                    if last is not None or newest.id != known:
                        sent_at = self._clock.monotonic()
                        yield newest.event()
                    last = newest.result.entry
                elif self._clock.monotonic() - sent_at >= HEARTBEAT_SECONDS - 1:
                    sent_at = self._clock.monotonic()
                    yield _STILL_HERE
                await watch.wait(math.inf)

    async def _newest(
        self, context: RequestContext, operation: Read, watch: Watch | None, last: Entry | None
    ) -> _Newest | None:
        """Judge the rights of the caller, and return what is stored now; None without a result.

        Raises:
            GatewayError: the caller may not have it any more.
        """
        context.check_continues(self._live.configured, self._clock.wall())
        await self._bindings.check(context, operation)
        definitions, results = self._results.definitions, self._results.cache
        if isinstance(operation, ReadLatest):
            definition = await definitions.get(context.credential, operation.query_id, context.sender)
            check_others(definition, operation.others)
            return await self._latest(context, definition, last)
        found, run = await definitions.of(context, operation)
        plan = plan_for(context, operation, run, found)
        if watch is not None:
            self.watchers.follow(watch, plan.key)
        stored = await results.get(plan.key)
        if stored is None or found is None or stored.entry.marker != plan.marker:
            return None
        return _Newest(stored, found)

    async def _latest(self, context: RequestContext, definition: Definition, last: Entry | None) -> _Newest | None:
        """Return the result that Redash names as the latest; it is read from there, unless it is stored or known."""
        if definition.latest_result_id is None:
            return None
        if last is not None and last.result_id == definition.latest_result_id:
            return None
        stored = await self._results.reader.stored_latest(context.credential, definition)
        if stored is None:
            fetch = await self._results.fetcher.latest(context.credential, definition, context.sender, whole=True)
            stored = fetch.result if isinstance(fetch.result, StoredResult) else None
        if stored is None or (context.caller.is_bound and stored.entry.query_id != definition.query_id):
            return None
        return _Newest(stored, definition)

    def _has_room(self) -> bool:
        return self.watchers.count < self._live.settings.server.max_watchers
