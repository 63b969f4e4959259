"""One exchange with Redash over HTTP: exactly one key, bounded time. aiohttp's exceptions are translated here."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Final, NamedTuple

import aiohttp
import msgspec
from cachetools import LRUCache

from gateway import __version__
from gateway.body import Body
from gateway.concurrency.spool import BeginSpool
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.model import Clock
from gateway.outcome import Sender, Trace
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash.calls import UpstreamRequest
from gateway.redash.redaction import text_without_keys, without_own_keys
from gateway.upstream.availability import Silence
from gateway.upstream.causes import sentence
from gateway.upstream.checks import usable
from gateway.upstream.frames import without_frames
from gateway.upstream.kept_connections import Connection, ConnectionPool, KeptConnectionError, current, lost_race
from gateway.upstream.protocol import Early, UpstreamResponse
from gateway.upstream.reading import BodyReader, ObjectMemory
from gateway.upstream.redash_clock import RedashClock
from gateway.upstream.urls import url_of

DEADLINE_SECONDS: Final = 900.0
"""For a large result as a whole; `upstream.read_timeout` limits each wait within it, and everything else as a whole."""


class Attempt(NamedTuple):
    """One request on its way."""

    credential: Credential
    request: UpstreamRequest
    sender: Sender
    early: Early | None
    until: float = math.inf
    """By the clock of the event loop: then the response must be complete, unless it is a large result."""
    silence: Silence | None = None
    """Ended when the response begins."""
    heard: Callable[[int], None] = lambda status: None
    """Called with the status when the response begins, and again with each piece of its body."""


class HttpExchange:
    """The connections to Redash, and what is sent and read on them."""

    def __init__(self, live: Live, tls: ssl.SSLContext, clock: Clock, spool: BeginSpool) -> None:
        self._live = live
        self.tls = tls
        """Verifies Redash, from the next connection on."""
        self._clock = clock
        self._spool = spool
        self.objects = ObjectMemory(live.settings.cache.memory)
        """What lists and objects take that are on their way."""
        self._session: aiohttp.ClientSession | None = None
        self._clocks: LRUCache[str, RedashClock] = LRUCache(4)  # by URL; only a reload changes it

    @property
    def timeout(self) -> aiohttp.ClientTimeout:
        """Return the limits of single waits, as configured now."""
        upstream = self._live.settings.upstream
        return aiohttp.ClientTimeout(total=None, sock_connect=upstream.connect_timeout, sock_read=upstream.read_timeout)

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
        if self._session is not None:
            await self._session.close()

    async def send(self, attempt: Attempt, trace: Trace | None) -> UpstreamResponse:
        """Send the request once and read the response, as it is.

        Raises:
            UpstreamTimeout: it did not come in time.
            UpstreamError: the connection failed, or the request was given up.
            UpstreamUnusable: it is larger than allowed.
        """
        sent, connection = self._clock.monotonic(), Connection()
        current.set(connection)
        try:
            async with asyncio.timeout_at(attempt.until) as limit:
                if attempt.silence is not None:
                    attempt.silence.limit = limit
                return await self._exchange(attempt, trace, sent, limit)
        except TimeoutError as error:  # includes aiohttp's own timeouts
            if attempt.silence is not None and attempt.silence.is_lost:
                raise UpstreamError("Redash works again, but has lost this request.") from without_frames(error)
            raise UpstreamTimeout(sentence(error, attempt.credential.url)) from without_frames(error)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamError(sentence(error, attempt.credential.url)) from without_frames(error)
        except UpstreamError as error:  # of `_once`
            if lost_race(connection, error.__cause__, self._clock.monotonic() - sent):
                raise KeptConnectionError(error.detail) from error.__cause__
            raise

    async def _exchange(
        self, attempt: Attempt, trace: Trace | None, sent: float, limit: asyncio.Timeout
    ) -> UpstreamResponse:
        assert self._session is not None  # noqa: S101 - `open` comes first
        request = attempt.request
        async with self._session.request(
            request.method,
            url_of(attempt.credential.url, request.path, request.query),
            data=request.body,
            headers=_headers(attempt, trace),
            allow_redirects=False,
            timeout=self.timeout,
            ssl=self.tls,
        ) as raw:
            heard = partial(attempt.heard, raw.status)
            heard()
            if attempt.silence is not None:
                attempt.silence.end()
            response = self._begun(raw, attempt.credential.url, sent)
            loop = asyncio.get_running_loop()
            reader = BodyReader(self._spool, self.objects, self._live.settings, heard)
            body = await reader.read(
                raw,
                response,
                partial(usable, credential=attempt.credential, route=request.route),
                attempt.early if request.route.has_results and raw.status == 200 else None,
                lambda: limit.reschedule(loop.time() + DEADLINE_SECONDS),
            )
            return msgspec.structs.replace(response, body=body)

    def _begun(self, raw: aiohttp.ClientResponse, url: str, sent: float) -> UpstreamResponse:
        """Return what the head says, without a body."""
        date, now, wall = _date(raw.headers.get("Date")), self._clock.monotonic(), self._clock.wall()
        redash = self._clocks.setdefault(url, RedashClock())
        if date is not None and raw.status == 200:  # an error may come from a proxy
            redash.record(date, sent, now)
        return UpstreamResponse(
            status=raw.status,
            content_type=text_without_keys(raw.headers.get("Content-Type", "")),
            received=wall,
            body=Body.of(b""),
            sent=sent,
            date=date,
            ahead=redash.most_ahead(wall, now),
            location=without_own_keys(raw.headers.get("Location", "")),
            disposition=raw.headers.get("Content-Disposition", ""),
            retry_after=raw.headers.get("Retry-After", ""),
        )


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Stop aiohttp's own retries, which would not be counted: it retries all methods but POST and PATCH."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise UpstreamError(sentence(error, str(request.url.origin()))) from error


def _headers(attempt: Attempt, trace: Trace | None) -> dict[str, str]:
    headers = {
        "Authorization": f"Key {attempt.credential.key.reveal()}",
        "Accept": "*/*",
        "Accept-Encoding": "gzip",
        "User-Agent": f"redash-gateway/{__version__} ({attempt.sender.client})",
        "Via": "1.1 redash-gateway",
        "X-Request-ID": attempt.sender.request_id,
    }
    if attempt.request.body is not None:
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
    except (ValueError, OverflowError):  # a number of many digits is too large for a date
        return None
