"""The fast path: cached responses, looked up by the exact bytes of a request and written without parsing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import Final

from gateway.http.admission_filter import AdmissionFilter
from gateway.http.head import last_part
from gateway.http.request_id import next_request_id
from gateway.http.response_cache import LONGEST_REQUEST, CachedResponse, ResponseCache
from gateway.http.sending import LARGEST_AT_ONCE, Transport, write

_REQUEST_OVERHEAD_BYTES: Final = 300


class FastPath:
    """The bytes of requests whose responses are cached."""

    def __init__(self, cache: ResponseCache, *, each: bool = False) -> None:
        """`each`: record every hit on its own (with tracing, each is a span) instead of in batches once a second."""
        self._cache = cache
        self._by_bytes: dict[bytes, CachedResponse] = {}
        self._heads: Counter[bytes] = Counter()  # of requests whose body arrived in a segment of its own
        self._filter = AdmissionFilter()
        self._each = each
        cache.on_drop = self._dropped

    def respond(self, request: bytes, transport: Transport) -> bool:
        """Write the response, if the request is known and its response still valid. Returns whether it was written."""
        cached = self._by_bytes.get(request)
        if cached is None or not self._cache.is_good(cached):
            return False
        quota = None
        if cached.meter is not None and (quota := cached.meter.take()) is None:
            return False  # the normal path responds with 429 and Retry-After
        request_id = next_request_id()
        if self._each:
            self._cache.record_one(cached, request_id)
        else:
            self._cache.record_fast(cached, request_id)
        write(transport, cached.head + last_part(request_id, quota), cached.body.data or b"")
        return True

    def expects_body(self, head: bytes) -> bool:
        """Whether this is the head of a known request whose body will come in the next segment."""
        return head in self._heads

    def learn(self, segments: tuple[bytes, ...], cached: CachedResponse | None) -> None:
        """Note the bytes of a request with this response; from the second time on the request is known by them."""
        request = b"".join(segments)
        if not self._filter.admits(request) or cached is None or request in self._by_bytes:
            return
        if not self._cache.has(cached):  # dropped while it was sent: a reload, a run, an edit, a purge
            return
        if cached.body.data is None or cached.body.size > LARGEST_AT_ONCE or not _may_be_known(request):
            return
        self._by_bytes[request] = cached
        cached.requests.append(segments)
        if len(segments) == 2:
            self._heads[segments[0]] += 1
        self._cache.grow(cached, len(request) + _REQUEST_OVERHEAD_BYTES)

    def _dropped(self, segments: tuple[bytes, ...]) -> None:
        self._by_bytes.pop(b"".join(segments), None)
        if len(segments) == 2:
            self._heads[segments[0]] -= 1
            if self._heads[segments[0]] <= 0:
                del self._heads[segments[0]]


def is_unique(headers: Container[str]) -> bool:
    """Whether such requests never take the fast path; most of them are unique and must not fill the filter."""
    return "Connection" in headers or "traceparent" in headers or "X-Request-ID" in headers


_NEVER: Final = (b"\r\nconnection:", b"\r\nexpect:", b"\r\nupgrade:", b"\r\ntraceparent:", b"\r\nx-request-id:")


def _may_be_known(request: bytes) -> bool:
    """Whether equal bytes always mean an equal response over a connection that stays open."""
    if len(request) > LONGEST_REQUEST:
        return False
    head = request[: request.find(b"\r\n\r\n") + 2].lower()
    return b" http/1.1\r\n" in head and not any(name in head for name in _NEVER)
