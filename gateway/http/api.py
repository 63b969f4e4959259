"""The API listener: one exchange from the request to the recorded outcome. aiohttp's server ends here."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from aiohttp import hdrs, web

from gateway.body import Body, Events, Part
from gateway.errors import GatewayError
from gateway.http.bodies import Bodies
from gateway.http.connection_limit import ConnectionLimit
from gateway.http.fast_path import FastPath
from gateway.http.handler import stays_open
from gateway.http.head import last_part
from gateway.http.request import is_preflight, read_body, read_head
from gateway.http.request_id import request_id
from gateway.http.request_key import RequestKey, request_key
from gateway.http.response import NOTHING, error_response, negotiate, send_response
from gateway.http.response_cache import CachedResponse, ResponseCache
from gateway.http.sending import CLOSED, KEPT, send
from gateway.http.server import Server, fast_path_is_possible
from gateway.model import Clock, Response
from gateway.outcome import Observer, Outcome
from gateway.pipeline import Pipeline
from gateway.policy.access import Access
from gateway.policy.configured import Live
from gateway.policy.quotas import Quotas
from gateway.store.compression import Compressor
from gateway.telemetry.tracing import incoming

log = logging.getLogger("gateway.http")

TICK_SECONDS: Final = 0.01
_CALLER_HAS_LEFT: Final = (ConnectionError, TimeoutError)


class Api:
    """Responds to every request of the API listener."""

    def __init__(
        self,
        pipeline: Pipeline,
        live: Live,
        quotas: Quotas,
        *,
        observer: Observer,
        clock: Clock,
        cache: ResponseCache,
        fast_path: FastPath,
        compressor: Compressor,
    ) -> None:
        self._pipeline = pipeline
        self._live = live
        self._quotas = quotas
        self._observer = observer
        self._clock = clock
        self._cache = cache
        self._compressor = compressor
        self._fast_path = fast_path
        self._draining = self._drained = False
        self._drained_until = math.inf  # in the time of the event loop
        self._server: Server | None = None
        self._most_connections = 0
        self._open: dict[asyncio.Task[None], Outcome] = {}
        # Those whose response is complete and only has to be sent, with the handlers of their connections.
        self._sending: dict[asyncio.Task[None], object] = {}
        self._bodies = Bodies(lambda: live.settings.cache.memory)

    def server(self, most_connections: int) -> Server:
        """Return the server to run on a socket; it has at most so many connections open."""
        fast_path = self._fast_path if fast_path_is_possible() else None
        if fast_path is None:
            log.warning("the fast path is off; every request takes the normal path")
        self._most_connections = most_connections
        limit = ConnectionLimit(most_connections)
        self._server = Server(self.handle, self._refused, fast_path, limit=limit, idle_seconds=self._idle_seconds)
        return self._server

    def _idle_seconds(self) -> float:
        return self._live.settings.server.idle_timeout

    def _refused(self, status: int, peer: str) -> None:
        """Record a request from this address that is not valid HTTP, too long or incomplete."""
        reason = {414: "uri_too_long", 431: "headers_too_large", 499: "", 503: "unavailable"}.get(status, "bad_request")
        now = self._clock.monotonic()
        outcome = Outcome(request_id="-", address=peer, status=status, reason=reason, started=now)
        self._observer.record_request(outcome)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to one request, and record its outcome once: when the response was sent or the caller has left."""
        if self._drained:
            raise ConnectionAbortedError("the gateway is stopping; callers repeat this over another connection")
        outcome = Outcome(request_id=request_id(request.headers), started=self._clock.monotonic(), status=499)
        outcome.address = self._fast_path.proxies.caller_of(request)
        task = request.task  # the connection's, which has one request at a time
        self._open[task] = outcome
        repeated: CachedResponse | None = None
        try:
            generation = self._cache.generation
            response, key = await self._respond(request, outcome)
            if isinstance(response, CachedResponse):
                repeated = response
                self._sending[task] = request.protocol
                await send(request, repeated.head + last_part(outcome.request_id, outcome.quota), repeated.body)
                return KEPT if stays_open(request) else CLOSED
            await self._send(request, response, outcome, key, generation)
            return KEPT if stays_open(request) and not response.closes else CLOSED
        except GatewayError as error:  # the body failed while it was passed on to the caller
            outcome.status, outcome.reason = error.status, error.reason
            raise ConnectionAbortedError("the response broke off") from error
        except BaseException as error:
            if repeated is not None:
                repeated.repeat(outcome)
            left = isinstance(error, _CALLER_HAS_LEFT) or not isinstance(error, Exception)  # or was cancelled here
            # A stream has no other end than this: its caller got what it came for.
            outcome.status, repeated = (outcome.status if outcome.streams else 499) if left else 500, None
            outcome.reason = outcome.reason if left else GatewayError.reason
            raise
        finally:
            self._bodies.release(task)
            self._sending.pop(task, None)
            del self._open[task], task  # the task holds the error, its traceback holds this frame and the body
            taken = self._clock.monotonic() - outcome.started
            if outcome.streams:  # how long somebody has listened is not the time of a response
                outcome.held_seconds = taken - outcome.duration
            outcome.duration = taken - outcome.held_seconds
            if repeated is not None:
                self._cache.record(repeated, outcome)
            else:
                self._pipeline.record(outcome)

    async def _respond(
        self, request: web.BaseRequest, outcome: Outcome
    ) -> tuple[Response | CachedResponse, RequestKey]:
        """Return the response, or a valid cached one, and its request key; the key is () where none was made."""
        server = self._live.settings.server
        outcome.trace = self._observer.begin_span(incoming(request.headers))
        try:
            head = read_head(request, server.hosts, server.path_prefix)
            if is_preflight(request):
                return Response(status=204, body=NOTHING, content_type=""), ()
            context = await self._pipeline.admit(head, outcome)
            body = await read_body(request, server.max_request_body, self._bodies)
            key = request_key(request, body)
            if not self._draining and (cached := self._cache.get(key)) is not None:
                return cached, key
            try:
                response = await self._pipeline.respond(context, body)
                began = self._clock.monotonic()
                response = await negotiate(request, response, self._compressor, gzip=head.accepts_gzip)
                if isinstance(response.body, Body):  # else this was a wait for its first bytes
                    outcome.render_seconds += self._clock.monotonic() - began
            except GatewayError:  # which may hold Redash's text
                context.check_delivery(self._live.configured)
                raise
            context.check_delivery(self._live.configured)
            return response, key
        except GatewayError as error:
            return error_response(error, outcome), ()
        except ConnectionError:  # of the caller: it left before its body was requested
            raise
        except Exception:
            log.exception("internal error, request %s", outcome.request_id)
            fault = GatewayError("Internal error of the gateway; its log says more.")
            return error_response(fault, outcome), ()

    async def _send(
        self, request: web.BaseRequest, response: Response, outcome: Outcome, key: RequestKey, generation: int
    ) -> None:
        """Send a response; cache it under its request key, if it is a hit that may be reused.

        `generation` is the cache's generation from before the response was made: a reload, a run or an edit since then
        may have changed what the right response is.
        """
        # If the end of this message is uncertain, so is the beginning of the next: close the connection.
        response.closes = self._draining or (outcome.route == "none" and response.status in (400, 431))
        if isinstance(response.body, Body | Part):
            self._sending[request.task] = request.protocol
        origins = self._live.settings.server.cors_origins
        outcome.duration = self._clock.monotonic() - outcome.started - outcome.held_seconds  # so far, for Server-Timing
        outcome.streams = isinstance(response.body, Events)
        try:
            fixed = await send_response(request, response, outcome, origins=origins, wall=self._clock.wall())
        except GatewayError as error:
            if request.writer.output_size:  # the caller has a part of it: only closing the connection signals that
                raise
            failed = error_response(error, outcome)
            await send_response(request, failed, outcome, origins=origins, wall=self._clock.wall())
            return
        body = response.body
        if response.reuse is None or not key or response.closes or not isinstance(body, Body):
            return
        if self._cache.generation == generation:
            body = NOTHING if request.method == hdrs.METH_HEAD else body
            self._cache.put(key, response.reuse, fixed, body, outcome, self._quotas.of(outcome.client))

    @property
    def connections(self) -> tuple[int, int]:
        """The number of open connections, and how many there may be."""
        if self._server is None:
            return 0, 0
        return len(self._server.connections), self._most_connections

    @property
    def requests_in_progress(self) -> int:
        """The number of requests whose responses are not sent yet."""
        return len(self._open)

    @property
    def bytes_of_bodies(self) -> int:
        """What the bodies of requests in progress take in memory; `cache.memory` is their limit."""
        return self._bodies.taken

    def begin_to_drain(self) -> None:
        """From now on, close each connection after its response."""
        self._draining = True

    async def drain(self, seconds: float) -> int:
        """Let every request in progress come so far that its response only has to be sent; cancel the rest.

        This and `finish` take at most so many seconds together. Returns how many requests were cancelled.
        """
        self.begin_to_drain()
        self._drained_until = min(self._drained_until, asyncio.get_running_loop().time() + seconds)
        await asyncio.sleep(TICK_SECONDS)  # what was accepted just now becomes a connection
        # Connections do not signal that they are done.
        while self._is_unanswered() and self._may_go_on():  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)
        self._drained = True
        unanswered = self._open.keys() - self._sending.keys()
        for task in unanswered:
            task.cancel()
        return len(unanswered)

    async def finish(self) -> int:
        """Let what is left be sent in the rest of the time. Returns how many responses were cut off."""
        while self._is_connected() and self._may_go_on():  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)
        unsent = list(self._open)
        for task in unsent:
            task.cancel()
        return len(unsent)

    def hurry(self) -> None:
        """Let `drain` and `finish` end at once."""
        self._drained_until = -math.inf

    def _may_go_on(self) -> bool:
        return asyncio.get_running_loop().time() < self._drained_until

    def _is_unanswered(self) -> bool:
        """Close idle connections; return whether there is a request in progress whose response is not complete."""
        busy = self._server is not None and self._server.begin_to_close(set(self._sending.values()))
        return busy or not self._open.keys() <= self._sending.keys()

    def _is_connected(self) -> bool:
        """Close idle connections; return whether something has still to be sent over one."""
        if self._server is None:
            return False
        self._server.begin_to_close(())
        return bool(self._server.connections)

    def cut_off(self, access: Access, now: float) -> None:
        """Cancel every request in progress whose token the new configuration does not admit."""
        for task, outcome in list(self._open.items()):
            if outcome.client != "-" and not access.still_admits(outcome.client, outcome.token_sha256, now):
                task.cancel()
