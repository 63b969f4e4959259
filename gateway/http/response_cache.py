"""Prepared responses that can be sent again, looked up by request key; only date, age and request id are added.

The part that judged a hit says until when it may be reused and what it depends on (`ReuseTerms`); nothing is judged
here.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol

import msgspec

from gateway.body import Body
from gateway.http.admission_filter import AdmissionFilter
from gateway.http.head import moving_part
from gateway.http.request_key import RequestKey, length_of
from gateway.model import Clock, Entry, Key, ReuseTerms
from gateway.outcome import LineParts, Observer, Outcome, OutcomeBatch
from gateway.policy.quotas import Meter

FAST_PATH_SECONDS: Final = 0.00001
"""The duration recorded for a response of the fast path (from bench); measuring each would cost a tenth of it."""

RECORD_SECONDS: Final = 1.0
MOST_AT_ONCE: Final = 100
SOON_SECONDS: Final = 0.02
"""What was sent is recorded once a second: at most `MOST_AT_ONCE` responses in one go (about 1 ms), the next ones
`SOON_SECONDS` later."""

MOST_DURATIONS: Final = 1_000
"""At most so many requests for one response are recorded together."""

_OVERHEAD_BYTES: Final = 3_000


class EntriesInMemory(Protocol):
    """A store that can say without I/O what its memory holds."""

    def peek(self, key: Key) -> Entry | None:
        """Return the entry in memory, and count it as used."""

    def holds(self, key: Key, entry: Entry) -> bool:
        """Whether `peek` would return this very entry."""


class CachedResponse:
    """One response, ready to be sent except for date, age and request id."""

    __slots__ = (
        "body",
        "by_fast_path",
        "durations",
        "fixed",
        "head",
        "key",
        "line",
        "meter",
        "outcome",
        "size",
        "terms",
        "until",
    )

    def __init__(
        self, key: RequestKey, terms: ReuseTerms, fixed: bytes, body: Body, outcome: Outcome, meter: Meter | None
    ) -> None:
        self.key = key
        self.terms = terms
        self.fixed = fixed
        self.body = body
        self.outcome = msgspec.structs.replace(
            outcome,
            duration=FAST_PATH_SECONDS,
            upstream_seconds=0.0,
            shared_seconds=0.0,
            held_seconds=0.0,
            budgets=(),
            queue_seconds=0.0,
            render_seconds=0.0,
            execution_id="",
            trace=None,
            steps=[],
            quota=None,
            address="-",
        )
        self.meter = meter
        """Set for a client with a rate: each response takes from it."""
        self.head = b""  # all but the last part
        self.until = -math.inf  # when the head must be made anew
        self.line: LineParts | None = None  # of this second, where there is an access log
        self.by_fast_path = 0  # sent by the fast path since the head was made, not recorded yet
        self.durations: list[float] = []  # of those that were sent by the normal path
        bytes_of_body = len(body.data) if body.data is not None else 0
        self.size = length_of(key) + len(fixed) + bytes_of_body + _OVERHEAD_BYTES

    def repeat(self, outcome: Outcome) -> None:
        """Copy into the outcome of a repeated request what is known of this response."""
        first = self.outcome
        outcome.query_id, outcome.key, outcome.status = first.query_id, first.key, first.status
        outcome.cache, outcome.ttl, outcome.age = first.cache, first.ttl, first.age
        outcome.saved_runtime, outcome.saves_run = first.saved_runtime, first.saves_run


class ResponseCache:
    """A table of responses, limited in bytes; most of their bodies are the same objects as in the store's memory."""

    def __init__(self, store: EntriesInMemory, observer: Observer, clock: Clock, limit_bytes: int) -> None:
        self._peek = store.peek
        self._holds = store.holds
        self._observer = observer
        self._monotonic = clock.monotonic
        self._wall = clock.wall
        self.limit_bytes = limit_bytes
        self._bytes = 0
        self._by_key: dict[RequestKey, CachedResponse] = {}
        self._filter = AdmissionFilter()
        self._unrecorded: set[CachedResponse] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.generation = 0
        """Changes whenever responses are dropped: a response that was judged before is not cached afterwards."""

    @property
    def memory(self) -> tuple[int, int]:
        """The bytes that the responses take, and their limit."""
        return self._bytes, self.limit_bytes

    def get(self, key: RequestKey) -> CachedResponse | None:
        """Return the response under `key`, if it is there and still valid; its head is up to date."""
        cached = self._by_key.get(key)
        return cached if cached is not None and self.is_good(cached) else None

    def is_good(self, cached: CachedResponse) -> bool:
        """Whether the response may be sent now; if so, its head is brought up to date, if not, it is dropped."""
        now, terms = self._monotonic(), cached.terms
        if now >= terms.good_until or not self._holds(terms.key, terms.entry):
            self._drop(cached)
            return False
        if now >= cached.until:
            self._make_head(cached, now)
        return True

    def put(
        self, key: RequestKey, terms: ReuseTerms, fixed: bytes, body: Body, outcome: Outcome, meter: Meter | None
    ) -> None:
        """Cache a response that has just been sent from memory, from the second request with this key on."""
        if not self._filter.admits(key):
            return
        if (older := self._by_key.get(key)) is not None:
            self._drop(older)
        cached = CachedResponse(key, terms, fixed, body, outcome, meter)
        self._by_key[key] = cached
        self._count_bytes(cached.size)

    def _count_bytes(self, more: int) -> None:
        """Count bytes; while they are over the limit, drop the oldest response."""
        self._bytes += more
        while self._bytes > self.limit_bytes:
            self._drop(next(iter(self._by_key.values())))

    def _make_head(self, cached: CachedResponse, now: float) -> None:
        """Make the head for this second: only `Date`, `Age` and the `ttl` of Cache-Status change.

        The entry is counted as used in the store only here: doing so each time would cost as much as all the rest.
        """
        self.flush(cached)
        self._peek(cached.terms.key)
        outcome = cached.outcome
        if outcome.age is not None:
            aged = cached.terms.entry.age(now) - outcome.age
            outcome.age += aged
            outcome.ttl = outcome.ttl - aged if outcome.ttl is not None else None
        cached.head = cached.fixed + moving_part(outcome, self._wall())
        cached.line = self._observer.access_line(outcome)
        cached.until = math.floor(now) + 1.0

    def record_fast(self, cached: CachedResponse, request_id: str, address: str, trace_id: str) -> None:
        """Count one response that the fast path has sent, to be recorded in a batch; write its access log line."""
        if cached.by_fast_path == 0:
            self._record_soon(cached)
        cached.by_fast_path += 1
        if cached.line is not None:
            self._observer.log_hit(request_id, address, self._monotonic(), FAST_PATH_SECONDS, cached.line, trace_id)

    def record(self, cached: CachedResponse, outcome: Outcome) -> None:
        """Record one cached response that the normal path has just sent; in a batch, unless it is traced."""
        if outcome.trace is not None:
            cached.repeat(outcome)
            outcome.sent_bytes = cached.body.size
            self._observer.record_request(outcome)
            return
        durations = cached.durations
        durations.append(outcome.duration)
        if cached.line is not None:
            ended = outcome.started + outcome.duration
            self._observer.log_hit(outcome.request_id, outcome.address, ended, outcome.duration, cached.line)
        if len(durations) == 1:
            self._record_soon(cached)
        elif len(durations) >= MOST_DURATIONS:
            self.flush(cached)

    def _record_soon(self, cached: CachedResponse) -> None:
        self._unrecorded.add(cached)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RECORD_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        """Record the responses whose second is over and that were not requested since."""
        now = self._monotonic()
        over = [cached for cached in self._unrecorded if now >= cached.until]
        for cached in over[:MOST_AT_ONCE]:
            self.flush(cached)
        again = RECORD_SECONDS if len(over) <= MOST_AT_ONCE else SOON_SECONDS
        self._timer = asyncio.get_running_loop().call_later(again, self._time_is_up) if self._unrecorded else None

    def record_one(self, cached: CachedResponse, request_id: str, address: str) -> None:
        """Record one response that the fast path has sent on its own, with its request id."""
        started = self._monotonic() - FAST_PATH_SECONDS
        own = {"request_id": request_id, "address": address, "started": started}
        self._observer.record_request(msgspec.structs.replace(cached.outcome, **own))

    def flush(self, cached: CachedResponse) -> None:
        """Record what was sent since the last time as one batch: all had the same age."""
        by_fast_path, durations = cached.by_fast_path, cached.durations
        if by_fast_path == 0 and not durations:
            return
        cached.by_fast_path, cached.durations = 0, []
        self._unrecorded.discard(cached)
        outcome = msgspec.structs.replace(cached.outcome)  # a copy: ours changes each second
        if by_fast_path:
            self._observer.record_hits(_batch(outcome, [FAST_PATH_SECONDS], by_fast_path))
        if durations:
            self._observer.record_hits(_batch(outcome, durations, 1))

    def flush_all(self) -> None:
        """Record everything that was sent; a scrape calls this first."""
        for cached in list(self._unrecorded):
            self.flush(cached)

    def _drop(self, cached: CachedResponse) -> None:
        self.flush(cached)
        if self._by_key.pop(cached.key, None) is None:
            return
        self._bytes -= cached.size

    def drop_query(self, query_id: int) -> None:
        """Drop the responses of one query: it was run, edited or purged, or Redash denied access to it."""
        self._drop_all([cached for cached in self._by_key.values() if cached.terms.query_id == query_id])

    def clear(self) -> None:
        """Drop everything: the configuration changed, or everything was purged."""
        self._drop_all(list(self._by_key.values()))

    def _drop_all(self, dropped: list[CachedResponse]) -> None:
        self.generation += 1
        for cached in dropped:
            self._drop(cached)


def _batch(outcome: Outcome, durations: list[float], times: int) -> OutcomeBatch:
    count = len(durations) * times
    ages = [] if outcome.age is None else [outcome.age]
    keys = {outcome.key: count} if outcome.key else {}
    runtime = outcome.saved_runtime * count
    return OutcomeBatch(outcome, times, durations, ages, age_times=count, runtime=runtime, keys=keys)
