"""The hit lane: known answers, found by the exact bytes of their request and written before any parsing."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import Final

from gateway.http.head import last_part
from gateway.http.response_cache import LONGEST_REQUEST, AdmissionFilter, Known, ResponseCache
from gateway.http.sending import LARGEST_AT_ONCE, Transport, write

_TEXT_OVERHEAD_BYTES: Final = 300


class FastPath:
    """The bytes of requests whose answers are known."""

    def __init__(self, answers: ResponseCache, *, each: bool = False) -> None:
        """`each`: tell of every hit on its own (with tracing each is a span), not in sums once a second."""
        self._answers = answers
        self._by_text: dict[bytes, Known] = {}
        self._heads: Counter[bytes] = Counter()  # of requests whose body came in a segment of its own
        self._seen = AdmissionFilter()
        self._each = each
        answers.on_gone = self._gone

    def respond(self, request: bytes, transport: Transport) -> bool:
        """Answer the request if it is known and its answer is still good. Returns whether it was answered."""
        known = self._by_text.get(request)
        if known is None or not self._answers.is_good(known):
            return False
        quota = None
        if known.meter is not None and (quota := known.meter.take()) is None:
            return False  # the ordinary way says when to come again
        request_id = next_request_id()
        if self._each:
            self._answers.record_one(known, request_id)
        else:
            self._answers.record_fast(known, request_id)
        write(transport, known.head + last_part(request_id, quota), known.body.data or b"")
        return True

    def expects_body(self, head: bytes) -> bool:
        """Whether this is the head of a known request whose body will come in the next segment."""
        return head in self._heads

    def learn(self, segments: tuple[bytes, ...], known: Known | None) -> None:
        """Note how a request came to which this is the answer; from the second time on it is known by its bytes."""
        text = b"".join(segments)
        if not self._seen.again(text) or known is None or text in self._by_text:
            return
        if not self._answers.has(known):  # forgotten while it was sent: a reload, a run, an edit, a purge
            return
        if known.body.data is None or known.body.size > LARGEST_AT_ONCE or not _may_be_known(text):
            return
        self._by_text[text] = known
        known.texts.append(segments)
        if len(segments) == 2:
            self._heads[segments[0]] += 1
        self._answers.grow(known, len(text) + _TEXT_OVERHEAD_BYTES)

    def _gone(self, segments: tuple[bytes, ...]) -> None:
        self._by_text.pop(b"".join(segments), None)
        if len(segments) == 2:
            self._heads[segments[0]] -= 1
            if self._heads[segments[0]] <= 0:
                del self._heads[segments[0]]


_NEVER: Final = (b"\r\nconnection:", b"\r\nexpect:", b"\r\nupgrade:", b"\r\ntraceparent:", b"\r\nx-request-id:")


def _may_be_known(request: bytes) -> bool:
    """Whether equal bytes always want an equal answer over a connection that stays open."""
    if len(request) > LONGEST_REQUEST:
        return False
    head = request[: request.find(b"\r\n\r\n") + 2].lower()
    return b" http/1.1\r\n" in head and not any(name in head for name in _NEVER)


_format = os.urandom(8).hex() + "%016x"
_next_number = itertools.count(1).__next__


def next_request_id() -> str:
    """Return an id that no other request has: 16 random digits of the process, 16 of a counter."""
    return _format % _next_number()
