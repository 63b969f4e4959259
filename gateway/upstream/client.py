"""Sends requests to Redash: in fair turns, again where that does no harm, and not while Redash does not work."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import aiohttp

from gateway.concurrency.allowance import Allowance
from gateway.concurrency.breaker import Breaker
from gateway.concurrency.slots import FairSlots
from gateway.concurrency.spool import BeginSpool
from gateway.errors import (
    CredentialRejected,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnhealthy,
    UpstreamUnusable,
)
from gateway.model import Clock
from gateway.outcome import Observer, Sender, UpstreamCall
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash.calls import UpstreamRequest
from gateway.upstream.availability import Availability
from gateway.upstream.canary import Canary, HasWorked
from gateway.upstream.checks import usable
from gateway.upstream.exchange import Attempt, HttpExchange
from gateway.upstream.kept_connections import KeptConnectionError
from gateway.upstream.protocol import Early, UpstreamResponse

PATIENCE_SECONDS: Final = 10.0
"""How long one request waits in all while Redash limits the rate of requests (429 with `Retry-After`)."""

_EVERY_REQUEST: Final = "Redash fails every request (500): its own database or Redis is unavailable."

_Judge = Callable[[Attempt, int], Awaitable[None]]


class HttpUpstream:
    """Redash over HTTP, with one connection pool, a limit of concurrent requests and a circuit breaker."""

    def __init__(
        self,
        live: Live,
        tls: ssl.SSLContext,
        clock: Clock,
        observer: Observer,
        spool: BeginSpool,
        has_worked: HasWorked,
    ) -> None:
        self._live = live
        self._clock = clock
        self._observer = observer
        settings = live.settings.upstream
        self.breaker = Breaker(settings.breaker_failures, settings.breaker_reset, clock.monotonic)
        self._exchange = HttpExchange(live, tls, clock, spool)
        self._canary = Canary(self._ask_canary, live, has_worked, clock)
        self._availability = Availability(self.breaker, self._canary, observer)
        self.is_stuck_since = self._availability.is_stuck_since
        self.slots = FairSlots(settings.max_requests, timeout=settings.queue_timeout, is_stuck=self.is_stuck_since)
        live.on_change.append(self._configuration_changed)

    @property
    def objects(self) -> Allowance:
        """The memory of lists and objects that are on their way."""
        return self._exchange.objects.allowance

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Verify Redash by another context from the next connection on."""
        self._exchange.tls = tls

    def _configuration_changed(self) -> None:
        """Take over the settings; requests that are under way end under the old ones."""
        settings = self._live.settings.upstream
        self.slots.size, self.slots.timeout = settings.max_requests, settings.queue_timeout
        self.breaker.failures, self.breaker.reset = settings.breaker_failures, settings.breaker_reset

    async def open(self) -> None:
        """Create the connection pool."""
        await self._exchange.open()

    async def close(self) -> None:
        """Close every connection."""
        await self._availability.aclose()
        await self._exchange.close()

    @property
    def is_unavailable(self) -> bool:
        """Whether Redash is known not to work; see `Upstream`."""
        return self.breaker.is_tripped

    def until_unavailable(self) -> AbstractAsyncContextManager[None]:
        """Let what is awaited within end when Redash is known not to work; see `Upstream`."""
        return self._availability.until_unavailable()

    async def send(
        self, credential: Credential, request: UpstreamRequest, sender: Sender, *, early: Early | None = None
    ) -> UpstreamResponse:
        """Send one request; see `Upstream`."""
        self.breaker.refuse_if_open()
        await self._take_slot(credential, sender)
        try:
            self.breaker.check()
            return await self._observed(Attempt(credential, request, sender, early))
        finally:
            self.slots.release()

    async def _take_slot(self, credential: Credential, sender: Sender) -> None:
        """Take a slot, in turn. A queue in which nothing moves because Redash hangs is an outage.

        Raises:
            As `FairSlots.hold`.
            BreakerOpen: Redash came not to work.
        """
        if self.slots.free():
            await self.slots.acquire(sender.client)
            return
        try:
            async with self.until_unavailable():
                await self.slots.acquire(sender.client)
        except UpstreamTimeout as error:
            self._availability.failed(credential, error.detail)
            raise

    async def _observed(self, attempt: Attempt) -> UpstreamResponse:
        """Let the breaker learn how it ends."""
        try:
            response = await self._send_patiently(attempt)
        except UpstreamError as error:
            self._availability.failed(attempt.credential, error.detail)
            raise
        except (UpstreamUnusable, UpstreamBusy, CredentialRejected):
            self._availability.succeeded()  # Redash is reachable, whatever it says
            raise
        self._availability.succeeded()
        return response

    async def _send_patiently(self, attempt: Attempt) -> UpstreamResponse:
        """Send it again when Redash limits the rate of requests and says that it is for a moment only."""
        waited = 0.0
        while True:
            try:
                return await self._send_twice(attempt)
            except UpstreamBusy as busy:
                pause = busy.retry_after or 0.0
                waited += pause
                if not 0 < waited <= PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(pause)

    async def _send_twice(self, attempt: Attempt) -> UpstreamResponse:
        attempt = attempt._replace(until=self._deadline())  # one for both: others may wait for this response
        try:
            return await self._judged(attempt)
        except (UpstreamTimeout, UpstreamUnhealthy):
            raise
        except UpstreamError as error:
            if not _may_repeat(attempt.request, error):
                raise
            return await self._judged(attempt)

    async def _judged(self, attempt: Attempt) -> UpstreamResponse:
        silence = self._availability.listen(attempt.credential, attempt.sender)
        try:
            return await self._timed(attempt._replace(silence=silence, heard=self._availability.heard), self._judge)
        finally:
            silence.end()

    async def _judge(self, attempt: Attempt, status: int) -> None:
        """Learn from a response whether Redash works.

        Raises:
            UpstreamUnhealthy: it is a 500, and Redash gives that to every request.
        """
        if status == 200:
            self._canary.worked(attempt.credential)
        elif status == 500 and await self._canary.shares_failure(attempt.credential, attempt.sender):
            raise UpstreamUnhealthy(_EVERY_REQUEST)

    async def _ask_canary(self, credential: Credential, request: UpstreamRequest, sender: Sender) -> UpstreamResponse:
        return await self._timed(Attempt(credential, request, sender, None, self._deadline()), _judge_canary)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._live.settings.upstream.read_timeout

    async def _timed(self, attempt: Attempt, judge: _Judge) -> UpstreamResponse:
        """Send a request once, and record it with what `judge` says of its status."""
        credential, request, sender = attempt.credential, attempt.request, attempt.sender
        started = self._clock.monotonic()
        trace = self._observer.begin_span(sender.trace)
        status, accepted, failure, detail, ended = 0, True, "", "", None
        try:
            response = await self._exchange.send(attempt, trace)
            status, ended = response.status, self._clock.monotonic()
            response = usable(response, credential, request.route)
            await judge(attempt, status)
            return response
        except CredentialRejected:
            accepted = False
            raise
        except UpstreamError as error:
            if attempt.silence is None or not attempt.silence.is_lost:  # else Redash works again
                failure, detail = error.reason, error.detail
            raise
        finally:
            seconds = (self._clock.monotonic() if ended is None else ended) - started
            if sender.outcome is not None:
                sender.outcome.upstream_seconds += seconds
            self._observer.record_upstream(
                UpstreamCall(
                    route=request.route.template,
                    status=status,
                    seconds=seconds,
                    credential=credential.name,
                    accepted=accepted,
                    method=request.method,
                    failure=failure,
                    detail=detail,
                    started=started,
                    trace=trace,
                )
            )


async def _judge_canary(attempt: Attempt, status: int) -> None:
    """Raise UpstreamUnhealthy for a 500 to the canary. A deleted query gives its key 500, too (CONTRACT 2)."""
    if status == 500 and not attempt.credential.is_query_key:
        raise UpstreamUnhealthy(_EVERY_REQUEST)


def _may_repeat(request: UpstreamRequest, error: UpstreamError) -> bool:
    """Whether a request that failed may be sent once more: a POST may have started an execution or changed something.

    A second POST of a saved query does little harm: Redash joins it to the run that the first one may have started.
    """
    if request.method == "GET" or isinstance(error.__cause__, aiohttp.ClientConnectorError):
        return True
    return isinstance(error, KeptConnectionError) and request.route.kind == "execute"
