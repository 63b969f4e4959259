"""The fast path: cached responses, found by what a request means and written before aiohttp sees the request."""

from __future__ import annotations

from typing import Final

from gateway.http.addresses import TrustedProxies
from gateway.http.head import last_part
from gateway.http.request_id import next_request_id, usable_request_id
from gateway.http.request_key import END_OF_HEAD, WHOLE, RequestReader
from gateway.http.response_cache import ResponseCache
from gateway.http.sending import LARGEST_AT_ONCE, Transport, write
from gateway.telemetry.tracing import trace_context

SENT: Final = -3
SENT_LAST: Final = -4
"""The response was written, and the connection is to be closed after it."""


class FastPath:
    """Responds to requests whose responses are cached."""

    def __init__(self, cache: ResponseCache, proxies: TrustedProxies, *, each: bool = False) -> None:
        """`each`: record every hit on its own (with tracing, each is a span) instead of in batches once a second."""
        self._cache = cache
        self._each = each
        self.proxies = proxies
        """As configured now."""
        self.request = RequestReader(cache.limit_bytes // 8)
        """The request that was read last, by whichever connection."""

    def respond(self, data: bytes, transport: Transport | None, peer: str) -> int:
        """Read a request, and write its response, if that is cached and small, and there is a `transport` to write to.

        `peer` is the address from which it came.

        Returns:
            SENT, SENT_LAST, or what `RequestReader.read` returns: then aiohttp must get the data.
        """
        request = self.request
        found = request.read(data)
        if found != WHOLE or transport is None or (cached := self._cache.get(request.key)) is None:
            return found
        body = cached.body.data
        if body is None or len(body) > LARGEST_AT_ONCE or (self._each and request.traces is not None):
            return found
        quota = None
        if cached.meter is not None and (quota := cached.meter.take()) is None:
            return found  # the normal path responds with 429 and Retry-After
        given = request.request_id
        request_id = next_request_id() if given is None else usable_request_id(given.decode("utf-8", "replace"))
        if cached.line is not None and self.proxies.any:
            peer = self.proxies.caller_in(peer, data[: data.find(END_OF_HEAD)])
        if self._each:
            self._cache.record_one(cached, request_id, peer)
        else:
            traced = cached.line is not None and request.traces is not None
            self._cache.record_fast(cached, request_id, peer, _trace_id(request.traces or []) if traced else "")
        write(transport, cached.head + last_part(request_id, quota), body)
        if not request.is_remembered:
            request.remember(data)
        return SENT if request.keeps_open else SENT_LAST


def _trace_id(values: list[bytes]) -> str:
    trace = trace_context([value.decode("utf-8", "replace") for value in values])
    return "" if trace is None else trace.trace_id
