"""The only HTTP client: sends each request with exactly one key; translates aiohttp's exceptions into ours."""

from __future__ import annotations

import asyncio
import ssl
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Final, NamedTuple

import aiohttp
import msgspec

from gateway import __version__
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
    without_frames,
)
from gateway.model import Body, Clock
from gateway.outcome import Observer, Sender, Trace, UpstreamCall
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash.calls import UpstreamRequest
from gateway.redash.redaction import text_without_keys, without_own_keys
from gateway.upstream.canary import Canary
from gateway.upstream.checks import usable
from gateway.upstream.kept_connections import Connection, ConnectionPool, KeptConnectionError, current, lost_race
from gateway.upstream.protocol import Early, UpstreamResponse
from gateway.upstream.reading import BodyReader
from gateway.upstream.urls import url_of

DEADLINE_SECONDS: Final = 900.0
"""For one exchange as a whole; `upstream.read_timeout` limits each wait within it."""

PATIENCE_SECONDS: Final = 10.0
"""How long one request waits in all while Redash limits the rate of requests (429 with `Retry-After`)."""

_CONNECTION_LOST: Final = "Redash cannot be reached, or it closed the connection before the end of its response."


class _Call(NamedTuple):
    """The arguments of one `send`."""

    credential: Credential
    request: UpstreamRequest
    sender: Sender
    early: Early | None


class HttpUpstream:
    """Redash over HTTP, with one connection pool, a limit of concurrent requests and a circuit breaker."""

    def __init__(
        self,
        live: Live,
        tls: ssl.SSLContext,
        clock: Clock,
        observer: Observer,
        spool: BeginSpool,
    ) -> None:
        self._live = live
        self._tls = tls
        self._clock = clock
        self._observer = observer
        self._spool = spool
        settings = live.settings.upstream
        self.slots = FairSlots(settings.max_requests, timeout=settings.queue_timeout)
        self.breaker = Breaker(settings.breaker_failures, settings.breaker_reset, clock.monotonic)
        self._canary = Canary(self._ask_canary, clock)
        self._session: aiohttp.ClientSession | None = None
        self._configuration_changed()
        live.on_change.append(self._configuration_changed)

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Verify Redash by another context from the next connection on."""
        self._tls = tls

    def _configuration_changed(self) -> None:
        """Take over the settings; requests that are under way end under the old ones."""
        settings = self._live.settings.upstream
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout, sock_read=settings.read_timeout
        )
        self.slots.size, self.slots.timeout = settings.max_requests, settings.queue_timeout
        self.breaker.failures, self.breaker.reset = settings.breaker_failures, settings.breaker_reset

    async def open(self) -> None:
        """Create the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=ConnectionPool(),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_once,),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._canary.aclose()
        if self._session is not None:
            await self._session.close()

    async def send(
        self, credential: Credential, request: UpstreamRequest, sender: Sender, *, early: Early | None = None
    ) -> UpstreamResponse:
        """Send one request; see `Upstream`."""
        async with self.slots.hold(sender.client):
            self.breaker.check()
            try:
                response = await self._send_patiently(_Call(credential, request, sender, early))
            except UpstreamError:
                self.breaker.failed()
                raise
            except (UpstreamUnusable, UpstreamBusy, CredentialRejected):
                self.breaker.succeeded()  # Redash is reachable, whatever it says
                raise
            else:
                self.breaker.succeeded()
            finally:
                self._observer.record_breaker(self.breaker.is_open)
            return response

    async def _send_patiently(self, call: _Call) -> UpstreamResponse:
        """Send it again when Redash limits the rate of requests and says that it is for a moment only."""
        waited = 0.0
        while True:
            try:
                return await self._send_twice(call)
            except UpstreamBusy as busy:
                pause = busy.retry_after or 0.0
                waited += pause
                if not 0 < waited <= PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(pause)

    async def _send_twice(self, call: _Call) -> UpstreamResponse:
        try:
            return await self._judged(call)
        except (UpstreamTimeout, UpstreamUnhealthy):
            raise
        except UpstreamError as error:
            if not _may_repeat(call.request, error):
                raise
            return await self._judged(call)

    async def _judged(self, call: _Call) -> UpstreamResponse:
        response = await self._timed(call)
        if response.status == 200:
            self._canary.worked(call.credential)
        elif response.status == 500 and await self._canary.fails(call.credential, call.sender):
            raise UpstreamUnhealthy("Redash fails every request (500): its own database or Redis is unavailable.")
        return response

    async def _ask_canary(self, credential: Credential, request: UpstreamRequest, sender: Sender) -> UpstreamResponse:
        return await self._timed(_Call(credential, request, sender, None))

    async def _timed(self, call: _Call) -> UpstreamResponse:
        credential, request, sender, _ = call
        started = self._clock.monotonic()
        trace = self._observer.begin_span(sender.trace)
        status, accepted, failure = 0, True, ""
        try:
            response = await self._exchange(call, trace)
            status = response.status
            return usable(response, credential, request.route)
        except CredentialRejected:
            accepted = False
            raise
        except UpstreamError as error:
            failure = error.reason
            raise
        finally:
            seconds = self._clock.monotonic() - started
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
                    started=started,
                    trace=trace,
                )
            )

    async def _exchange(self, call: _Call, trace: Trace | None) -> UpstreamResponse:
        assert self._session is not None  # noqa: S101 - `open` comes first
        request, sent, connection = call.request, self._clock.monotonic(), Connection()
        current.set(connection)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                async with self._session.request(
                    request.method,
                    url_of(call.credential.url, request.path, request.query),
                    data=request.body,
                    headers=_headers(call, trace),
                    allow_redirects=False,
                    timeout=self._timeout,
                    ssl=self._tls,
                ) as raw:
                    response = UpstreamResponse(
                        status=raw.status,
                        content_type=text_without_keys(raw.headers.get("Content-Type", "")),
                        received=self._clock.wall(),
                        body=Body.of(b""),
                        sent=sent,
                        date=_date(raw.headers.get("Date")),
                        location=without_own_keys(raw.headers.get("Location", "")),
                        disposition=raw.headers.get("Content-Disposition", ""),
                        retry_after=raw.headers.get("Retry-After", ""),
                    )
                    settings = self._live.settings
                    reader = BodyReader(self._spool, settings.cache.max_entry, settings.upstream.read_timeout)
                    early = call.early if request.route.has_results and raw.status == 200 else None
                    check = partial(usable, credential=call.credential, route=request.route)
                    body = await reader.read(raw, response, check, early)
                    return msgspec.structs.replace(response, body=body)
        except TimeoutError as error:  # includes aiohttp's own timeouts
            raise UpstreamTimeout("Redash did not answer in time.") from without_frames(error)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamError(_CONNECTION_LOST) from without_frames(error)
        except UpstreamError as error:  # of `_once`
            if lost_race(connection, error.__cause__, self._clock.monotonic() - sent):
                raise KeptConnectionError(_CONNECTION_LOST) from error.__cause__
            raise


def _may_repeat(request: UpstreamRequest, error: UpstreamError) -> bool:
    """Whether a request that failed may be sent once more: a POST may have started an execution or changed something.

    A second POST of a saved query does little harm: Redash joins it to the run that the first one may have started.
    """
    if request.method == "GET" or isinstance(error.__cause__, aiohttp.ClientConnectorError):
        return True
    return isinstance(error, KeptConnectionError) and request.route.kind == "execute"


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Stop aiohttp's own retries, which would not be counted: it retries all methods but POST and PATCH."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise UpstreamError(_CONNECTION_LOST) from error


def _headers(call: _Call, trace: Trace | None) -> dict[str, str]:
    headers = {
        "Authorization": f"Key {call.credential.key.reveal()}",
        "Accept": "*/*",
        "Accept-Encoding": "gzip",
        "User-Agent": f"redash-gateway/{__version__} ({call.sender.client})",
        "Via": "1.1 redash-gateway",
        "X-Request-ID": call.sender.request_id,
    }
    if call.request.body is not None:
        headers["Content-Type"] = "application/json"
    if trace is not None:
        headers["traceparent"] = trace.header
        if trace.state:
            headers["tracestate"] = trace.state
    return headers


@lru_cache(maxsize=4)
def _date(value: str | None) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp() if value else None
    except ValueError:
        return None
