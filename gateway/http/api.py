"""The API listener: one exchange from the request to the recorded outcome. aiohttp's server ends here."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiohttp import hdrs, web

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
from gateway.model import Body, Clock, Response
from gateway.outcome import Observer, Outcome
from gateway.pipeline import Pipeline
from gateway.policy.access import Access
from gateway.policy.configured import Live
from gateway.policy.quotas import Quotas
from gateway.store.compression import Compressor
from gateway.telemetry.tracing import incoming

log = logging.getLogger("gateway.http")


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
        self._fast_path = fast_path if fast_path_is_possible() else None
        self._draining = False
        self._server: Server | None = None
        self._open: dict[asyncio.Task[None], Outcome] = {}
        self._bodies = Bodies(lambda: live.settings.cache.memory)

    def server(self, most_connections: int) -> Server:
        """Return the server to run on a socket; it has at most so many connections open."""
        if self._fast_path is None:
            log.warning("the fast path is off; every request takes the normal path")
        self._server = Server(self.handle, self._refused, self._fast_path, limit=ConnectionLimit(most_connections))
        return self._server

    def _refused(self, status: int) -> None:
        """Record a request that is not valid HTTP, too long or incomplete."""
        reason = {414: "uri_too_long", 431: "headers_too_large", 499: "", 503: "unavailable"}.get(status, "bad_request")
        now = self._clock.monotonic()
        self._observer.record_request(Outcome(request_id="-", status=status, reason=reason, started=now))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to one request, and record its outcome once: when the response was sent or the caller has left."""
        outcome = Outcome(request_id=request_id(request.headers), started=self._clock.monotonic(), status=499)
        task = request.task  # the connection's, which has one request at a time
        self._open[task] = outcome
        repeated: CachedResponse | None = None
        try:
            generation = self._cache.generation
            response, key = await self._respond(request, outcome)
            if isinstance(response, CachedResponse):
                repeated = response
                await send(request, repeated.head + last_part(outcome.request_id, outcome.quota), repeated.body)
                return KEPT if stays_open(request) else CLOSED
            await self._send(request, response, outcome, key, generation)
            return KEPT if stays_open(request) and not response.closes else CLOSED
        except GatewayError as error:  # the body failed while it was passed on to the caller
            outcome.status, outcome.reason = error.status, error.reason
            raise ConnectionAbortedError("the response broke off") from error
        except BaseException:  # the caller has left, or its request was cancelled here
            if repeated is not None:
                repeated.repeat(outcome)
            outcome.status, repeated = 499, None
            raise
        finally:
            self._bodies.release(task)
            del self._open[task], task  # the task holds the error, its traceback holds this frame and the body
            outcome.duration = self._clock.monotonic() - outcome.started
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
            head = read_head(request, server.hosts)
            if is_preflight(request):
                return Response(status=204, body=NOTHING, content_type=""), ()
            context = self._pipeline.admit(head, outcome)
            body = await read_body(request, server.max_request_body, self._bodies)
            key = request_key(request, body)
            if not self._draining and (cached := self._cache.get(key)) is not None:
                return cached, key
            try:
                response = await self._pipeline.respond(context, body)
                response = await negotiate(request, response, self._compressor, gzip=head.accepts_gzip)
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
        origins = self._live.settings.server.cors_origins
        fixed = await send_response(request, response, outcome, origins=origins, wall=self._clock.wall())
        body = response.body
        if response.reuse is None or not key or response.closes or not isinstance(body, Body):
            return
        if self._cache.generation == generation:
            body = NOTHING if request.method == hdrs.METH_HEAD else body
            self._cache.put(key, response.reuse, fixed, body, outcome, self._quotas.of(outcome.client))

    async def drain(self, seconds: float) -> None:
        """Let the requests in progress finish within `seconds`; cancel the rest."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # Connections do not signal that they are done.
                while self._open or (self._server is not None and self._server.begin_to_close()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for task in list(self._open):
            task.cancel()

    def cut_off(self, access: Access, now: float) -> None:
        """Cancel every request in progress whose token the new configuration does not admit."""
        for task, outcome in list(self._open.items()):
            if outcome.client != "-" and not access.still_admits(outcome.client, outcome.token_sha256, now):
                task.cancel()
