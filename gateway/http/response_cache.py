"""Answers that can be given again as they are: what a hit depends on, its bytes, and what is told of it.

Whoever registers says until when the answer may be given and what it depends on (`Ticket`); here nothing is decided.
They are found by what a request means (this table) and by its very bytes (`hitlane.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from cachetools import LRUCache

from gateway.http.head import moving_part
from gateway.model import Body, Clock, Entry, Key, Ticket
from gateway.outcome import LineParts, Observer, Outcome, OutcomeBatch
from gateway.policy.quotas import Meter

FAST_PATH_SECONDS: Final = 0.00001
"""What an answer of the hit lane takes (bench); measuring each would cost a tenth of it."""

RECORD_SECONDS: Final = 1.0
MOST_AT_ONCE: Final = 100
SOON_SECONDS: Final = 0.02
"""Of what has been given is told once a second: so many answers at once, a millisecond's work, then the next."""

MOST_DURATIONS: Final = 1_000
"""So many requests of one answer are told of together at the most."""

LONGEST_REQUEST: Final = 16 * 1024
"""Who sends more is not known again: the table is for many."""

MOST_SEEN: Final = 16_384
_OVERHEAD_BYTES: Final = 3_000

Meaning = tuple[object, ...]
"""Everything in a request that its answer depends on; equal ones get equal answers, but for the moving fields."""


def length_of(meaning: Meaning) -> int:
    """Return how long the texts in it are together."""
    return sum(len(part) for part in meaning if isinstance(part, str | bytes))


class Peeking(Protocol):
    """A store that tells at once what its memory holds."""

    def peek(self, key: Key) -> Entry | None:
        """Return the entry in memory, and count it as used."""

    def holds(self, key: Key, entry: Entry) -> bool:
        """Whether `peek` would return this very entry."""


class Known:
    """One answer, ready to be sent but for date, age and request id."""

    __slots__ = (
        "body",
        "by_lane",
        "durations",
        "fixed",
        "head",
        "line",
        "meaning",
        "meter",
        "outcome",
        "size",
        "texts",
        "ticket",
        "until",
    )

    def __init__(
        self, meaning: Meaning, ticket: Ticket, fixed: bytes, body: Body, outcome: Outcome, meter: Meter | None
    ) -> None:
        self.meaning = meaning
        self.ticket = ticket
        self.fixed = fixed
        self.body = body
        self.outcome = msgspec.structs.replace(
            outcome,
            duration=FAST_PATH_SECONDS,
            upstream_seconds=0.0,
            execution_id="",
            trace=None,
            steps=[],
            quota=None,
        )
        self.meter = meter
        """Of a client with a rate: each answer takes of it."""
        self.head = b""  # all but the last part
        self.until = -math.inf  # when the head must be made anew
        self.line: LineParts | None = None  # of this second, where there is an access log
        self.by_lane = 0  # given by the lane since the head was made, not told yet
        self.durations: list[float] = []  # of those that were given otherwise
        self.texts: list[tuple[bytes, ...]] = []  # requests by whose bytes the lane knows it, in their segments
        bytes_of_body = len(body.data) if body.data is not None else 0
        self.size = length_of(meaning) + len(fixed) + bytes_of_body + _OVERHEAD_BYTES

    def repeat(self, outcome: Outcome) -> None:
        """Note in the outcome of another request what this answer is."""
        told = self.outcome
        outcome.query_id, outcome.status = told.query_id, told.status
        outcome.cache, outcome.ttl, outcome.age = told.cache, told.ttl, told.age
        outcome.saved_runtime, outcome.saves_run = told.saved_runtime, told.saves_run


class AdmissionFilter:
    """What has been seen before, by its hash: only from the second time on is something worth being kept."""

    def __init__(self) -> None:
        self._seen: LRUCache[int, bool] = LRUCache(MOST_SEEN)

    def again(self, thing: object) -> bool:
        """Note it; returns whether it was seen before (or, once in 2**64, another of the same hash)."""
        sighting = hash(thing)
        if sighting in self._seen:
            return True
        self._seen[sighting] = True
        return False


class ResponseCache:
    """A table of answers, bounded by bytes; most of their bodies are the very bytes that the store holds, too."""

    def __init__(self, store: Peeking, observer: Observer, clock: Clock, limit_bytes: int) -> None:
        self._peek = store.peek
        self._holds = store.holds
        self._observer = observer
        self._monotonic = clock.monotonic
        self._wall = clock.wall
        self._limit = limit_bytes
        self._bytes = 0
        self._by_meaning: dict[Meaning, Known] = {}
        self._seen = AdmissionFilter()
        self._counting: set[Known] = set()  # those with a count that has not been told
        self._timer: asyncio.TimerHandle | None = None
        self.generation = 0
        """Moves with everything that is forgotten: an answer that was judged before is not taken over after it."""
        self.on_gone: Callable[[tuple[bytes, ...]], None] = lambda segments: None
        """Told each text of an answer that is no longer known, as it was learnt."""

    def recall(self, meaning: Meaning) -> Known | None:
        """Return the answer to what a request means, if it is known and still good; its head is of now."""
        known = self._by_meaning.get(meaning)
        return known if known is not None and self.is_good(known) else None

    def is_good(self, known: Known) -> bool:
        """Whether the answer may be given now; if so its head is of this second, if not it is forgotten."""
        now, ticket = self._monotonic(), known.ticket
        if now >= ticket.good_until or not self._holds(ticket.key, ticket.entry):
            self._drop(known)
            return False
        if now >= known.until:
            self._make_head(known, now)
        return True

    def register(
        self, meaning: Meaning, ticket: Ticket, fixed: bytes, body: Body, outcome: Outcome, meter: Meter | None
    ) -> Known | None:
        """Take over an answer that has just been given from memory, on the second sighting of what was asked."""
        if length_of(meaning) > LONGEST_REQUEST or not self._seen.again(meaning):
            return None
        if (older := self._by_meaning.get(meaning)) is not None:
            self._drop(older)
        known = Known(meaning, ticket, fixed, body, outcome, meter)
        self._by_meaning[meaning] = known
        self._count(known.size)
        return known if self.has(known) else None

    def has(self, known: Known) -> bool:
        """Whether the answer has not been forgotten."""
        return self._by_meaning.get(known.meaning) is known

    def grow(self, known: Known, more_bytes: int) -> None:
        """Count so many more bytes of an answer."""
        known.size += more_bytes
        self._count(more_bytes)

    def _count(self, more_bytes: int) -> None:
        """Count bytes; while they are over the limit, the oldest answer goes."""
        self._bytes += more_bytes
        while self._bytes > self._limit:
            self._drop(next(iter(self._by_meaning.values())))

    def _make_head(self, known: Known, now: float) -> None:
        """Make the head for this second: `Date`, `Age` and the `ttl` of Cache-Status move, nothing else does.

        That it is used is noted for the store now and then only; each time would cost as much as all else here.
        """
        self.flush(known)
        self._peek(known.ticket.key)
        outcome = known.outcome
        if outcome.age is not None:
            aged = known.ticket.entry.age(now) - outcome.age
            outcome.age += aged
            outcome.ttl = outcome.ttl - aged if outcome.ttl is not None else None
        known.head = known.fixed + moving_part(outcome, self._wall())
        known.line = self._observer.access_line(outcome)
        known.until = math.floor(now) + 1.0

    def record_fast(self, known: Known, request_id: str) -> None:
        """Count one answer that the lane has given, to be told with others; the access log gets its line."""
        if known.by_lane == 0:
            self._begin_to_count(known)
        known.by_lane += 1
        if known.line is not None:
            self._observer.log_hit(request_id, self._monotonic(), FAST_PATH_SECONDS, known.line)

    def record_later(self, known: Known, request_id: str, started: float) -> None:
        """Count one answer that was given otherwise, just now, to a request that came then."""
        ended = self._monotonic()
        durations = known.durations
        durations.append(ended - started)
        if known.line is not None:
            self._observer.log_hit(request_id, ended, ended - started, known.line)
        if len(durations) == 1:
            self._begin_to_count(known)
        elif len(durations) >= MOST_DURATIONS:
            self.flush(known)

    def _begin_to_count(self, known: Known) -> None:
        self._counting.add(known)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RECORD_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        """Tell of what was given in a second that is over, and has not been asked for since."""
        now = self._monotonic()
        over = [known for known in self._counting if now >= known.until]
        for known in over[:MOST_AT_ONCE]:
            self.flush(known)
        again = RECORD_SECONDS if len(over) <= MOST_AT_ONCE else SOON_SECONDS
        self._timer = asyncio.get_running_loop().call_later(again, self._time_is_up) if self._counting else None

    def record_one(self, known: Known, request_id: str) -> None:
        """Tell of one answer that the lane has given, under its own id, on its own."""
        started = self._monotonic() - FAST_PATH_SECONDS
        self._observer.record_request(msgspec.structs.replace(known.outcome, request_id=request_id, started=started))

    def flush(self, known: Known) -> None:
        """Tell what has been given since the last time, under one record: the age is that of all."""
        by_lane, durations = known.by_lane, known.durations
        if by_lane == 0 and not durations:
            return
        known.by_lane, known.durations = 0, []
        self._counting.discard(known)
        told = msgspec.structs.replace(known.outcome)  # ours moves on, that one stays
        if by_lane:
            self._observer.record_hits(_hits(told, [FAST_PATH_SECONDS], by_lane))
        if durations:
            self._observer.record_hits(_hits(told, durations, 1))

    def flush_all(self) -> None:
        """Tell everything that has been given; the scrape asks for it."""
        for known in list(self._counting):
            self.flush(known)

    def _drop(self, known: Known) -> None:
        self.flush(known)
        if self._by_meaning.pop(known.meaning, None) is None:
            return
        self._bytes -= known.size
        for segments in known.texts:
            self.on_gone(segments)

    def forget_query(self, query_id: int) -> None:
        """Forget the answers of one query: it was run, edited, purged or barred."""
        self._forget([known for known in self._by_meaning.values() if known.ticket.query_id == query_id])

    def clear(self) -> None:
        """Forget everything: another configuration is in force, or everything was purged."""
        self._forget(list(self._by_meaning.values()))

    def _forget(self, gone: list[Known]) -> None:
        self.generation += 1
        for known in gone:
            self._drop(known)


def _hits(told: Outcome, durations: list[float], times: int) -> OutcomeBatch:
    count = len(durations) * times
    ages = [] if told.age is None else [told.age]
    return OutcomeBatch(told, times, durations, ages, age_times=count, runtime=told.saved_runtime * count)
