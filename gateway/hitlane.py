"""The hit lane: answers that are known by the exact bytes of their request, written before any parsing.

Whoever registers says until when the answer may be given and what it depends on; the lane itself decides nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Final, Protocol

import msgspec
from cachetools import LRUCache

from gateway.model import Clock, Entry, Key, Ticket
from gateway.outcome import Outcome, Teller

MOST_BYTES: Final = 64 * 10**6
"""Requests and bodies together; bodies are most often the very bytes that the store holds in memory, too."""

MOST_SEEN: Final = 16_384
LONGEST_REQUEST: Final = 16 * 1024
LARGEST_BODY: Final = 1 << 20
_OVERHEAD_BYTES: Final = 2_000
_SECONDS: Final = 0.00001
"""What an answer of the lane takes (bench); measuring each would cost a tenth of it."""

_JOINED_BYTES: Final = 64 * 1024
"""Up to here head and body leave in one piece; beyond, copying them together costs more than a second write."""


class Peeking(Protocol):
    """A store that tells at once what its memory holds."""

    def peek(self, key: Key) -> Entry | None:
        """Return the entry in memory, and count it as used."""


class Writer(Protocol):
    """What the lane needs of a transport."""

    def write(self, data: bytes) -> None:
        """Send it, or keep it until it can be sent."""


class LaneAnswer:
    """One answer, ready to be sent but for date, age and request id."""

    __slots__ = ("after", "before", "body", "count", "head", "outcome", "second", "size", "ticket")

    def __init__(self, ticket: Ticket, head: list[tuple[str, str]], body: bytes, outcome: Outcome, size: int) -> None:
        self.ticket = ticket
        self.head = head
        self.body = body
        self.outcome = outcome
        self.second = -1
        self.before = b""
        self.after = b""
        self.size = size
        self.count = 0  # given since the head was made, not told yet


class HitLane:
    """A small table of requests whose answers are known."""

    def __init__(self, store: Peeking, teller: Teller, clock: Clock) -> None:
        self._peek = store.peek
        self._teller = teller
        self._monotonic = clock.monotonic
        self._wall = clock.wall
        self._answers: dict[bytes, LaneAnswer] = {}
        self._heads: set[bytes] = set()  # of requests whose body came in a segment of its own
        self._bytes = 0
        self._seen: LRUCache[int, bool] = LRUCache(MOST_SEEN)
        self.generation = 0
        """Moves with everything that is forgotten: an answer that was judged before is not taken over after it."""
        self.each = False
        """Tell every hit at once (the access log wants a line for each), not in sums once a second."""

    def answer(self, request: bytes, transport: Writer) -> bool:
        """Answer the request if it is known and its answer is still good. Returns whether it was answered."""
        known = self._answers.get(request)
        if known is None:
            return False
        now = self._monotonic()
        ticket = known.ticket
        if now >= ticket.good_until or self._peek(ticket.key) is not ticket.entry:
            self._drop(request, known)
            return False
        if int(now) != known.second:
            self._make_head(known, now)
        known.count += 1
        request_id = next_request_id()
        if self.each:
            self._flush(known, request_id)
        head = known.before + request_id.encode() + known.after
        if len(known.body) <= _JOINED_BYTES:
            transport.write(head + known.body)
        else:
            transport.write(head)
            transport.write(known.body)
        return True

    def expects_body(self, head: bytes) -> bool:
        """Whether this is the head of a known request whose body will come in the next segment."""
        return head in self._heads

    def register(
        self, segments: tuple[bytes, ...], ticket: Ticket, head: list[tuple[str, str]], body: bytes, outcome: Outcome
    ) -> None:
        """Take over an answer that the ordinary way has just given from memory, on the second sighting."""
        request = b"".join(segments)
        if len(body) > LARGEST_BODY or not _may_be_known(request):
            return
        sighting = hash(request)  # two requests of one hash: the second is taken over on its first sighting
        if sighting not in self._seen:
            self._seen[sighting] = True
            return
        if (older := self._answers.get(request)) is not None:
            self._drop(request, older)
        size = len(request) + len(body) + _OVERHEAD_BYTES
        while self._answers and self._bytes + size > MOST_BYTES:
            oldest = next(iter(self._answers))
            self._drop(oldest, self._answers[oldest])
        self._answers[request] = LaneAnswer(
            ticket, head, body, msgspec.structs.replace(outcome, duration=_SECONDS, trace=None, steps=[]), size
        )
        self._bytes += size
        if len(segments) == 2:
            self._heads.add(segments[0])

    def _make_head(self, known: LaneAnswer, now: float) -> None:
        """Make the head for this second: `Date`, `Age` and the `ttl` of Cache-Status move, nothing else does."""
        self._flush(known)
        outcome, ticket = known.outcome, known.ticket
        if outcome.age is not None:
            aged = ticket.entry.age(now) - outcome.age
            outcome.age += aged
            outcome.ttl = outcome.ttl - aged if outcome.ttl is not None else None
        moving = {"Age": str(int(outcome.age or 0)), "Cache-Status": outcome.cache_status() or ""}
        lines = [f"HTTP/1.1 {outcome.status} {'OK' if outcome.status == 200 else 'Not Modified'}"]
        lines += [f"{name}: {moving.get(name, value)}" for name, value in known.head if name != "Date"]
        lines += [f"Date: {formatdate(self._wall(), usegmt=True)}", "", ""]
        before, mark, after = "\r\n".join(lines).partition("X-Request-ID: ")
        known.before = (before + mark).encode()
        known.after = after[after.index("\r\n") :].encode()
        known.second = int(now)

    def _flush(self, known: LaneAnswer, request_id: str = "") -> None:
        """Tell what has been given since the last time, under one record: age and duration are the same for all."""
        if known.count:
            outcome = known.outcome
            if request_id:
                outcome = msgspec.structs.replace(outcome, request_id=request_id)
            self._teller.request(outcome, known.count)
            known.count = 0

    def _drop(self, request: bytes, known: LaneAnswer) -> None:
        self._flush(known)
        del self._answers[request]
        self._bytes -= known.size
        if not self._answers:
            self._heads.clear()

    def flush(self) -> None:
        """Tell everything that has been given; the scrape asks for it."""
        for known in self._answers.values():
            self._flush(known)

    def forget_query(self, query_id: int) -> None:
        """Forget the answers of one query: it was run, edited, purged or barred."""
        self._forget(lambda known: known.ticket.query_id == query_id)

    def clear(self) -> None:
        """Forget everything: another configuration is in force, or everything was purged."""
        self._forget(lambda known: True)

    def _forget(self, concerned: Callable[[LaneAnswer], bool]) -> None:
        self.generation += 1
        gone: Iterable[tuple[bytes, LaneAnswer]] = [(r, k) for r, k in self._answers.items() if concerned(k)]
        for request, known in gone:
            self._drop(request, known)


_NEVER: Final = (b"\r\nconnection:", b"\r\nexpect:", b"\r\nupgrade:", b"\r\ntraceparent:", b"\r\nx-request-id:")


def _may_be_known(request: bytes) -> bool:
    """Whether equal bytes always want an equal answer over a connection that stays open."""
    if len(request) > LONGEST_REQUEST:
        return False
    head = request[: request.find(b"\r\n\r\n") + 2].lower()
    return b" http/1.1\r\n" in head and not any(name in head for name in _NEVER)


_prefix = os.urandom(8).hex()
_numbers = itertools.count(1)


def next_request_id() -> str:
    """Return an id that no other request has: 16 random digits of the process, 16 of a counter."""
    return f"{_prefix}{next(_numbers):016x}"
