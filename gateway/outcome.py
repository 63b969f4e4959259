"""The records of requests, calls to Redash and executions, and `Observer`, which receives them. Metrics, logs, traces,
console and response headers are made from these records only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Literal, Protocol

import msgspec

CacheResult = Literal["hit", "stale", "miss", "collapsed", "bypass", "none"]
ExecutionResult = Literal["success", "failure", "cancelled", "lost"]

MissReason = Literal[
    "not_stored", "stale", "unconfirmed", "unproven", "marker_changed", "purged", "evicted", "forced", "continued"
]
"""Why a request went to Redash though it could have been a hit; docs/console.md says what each means."""

_FORWARD: Final = {"forced": "request", "stale": "stale", "unconfirmed": "stale"}
"""RFC 9211 `fwd`; every other reason is `uri-miss`."""

_REFUSED: Final = "upstream_refused"

LineParts = tuple[str, str]
"""Parts of an access line: between the caller's address and its milliseconds, and after them."""


class Trace(msgspec.Struct, frozen=True):
    """One span of a trace and what is passed on with it (W3C Trace Context). Ids are lower-case hex."""

    trace_id: str
    span_id: str
    flags: str = "01"
    state: str = ""  # `tracestate`
    parent: str = ""  # the span above, if it is known
    recorded: bool = False  # whether `span_id` is our own span, to be exported

    @property
    def header(self) -> str:
        """Return the `traceparent` to send with requests."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


class Step(msgspec.Struct, frozen=True):
    """A part of a request that gets its own span; times are monotonic seconds."""

    name: str
    started: float
    ended: float
    link: Trace | None = None  # what it waited for, perhaps in another trace


class Sender(msgspec.Struct, frozen=True):
    """On whose behalf Redash is called: for User-Agent, fair queueing and tracing."""

    client: str
    request_id: str
    trace: Trace | None = None
    outcome: Outcome | None = None  # of the request that caused the call, if any


class Quota(msgspec.Struct, frozen=True):
    """A client's rate limit: `limit` requests in `window` seconds, `remaining` now, full again in `reset` seconds."""

    limit: int
    window: int
    remaining: int
    reset: int


class Outcome(msgspec.Struct):
    """One request, filled in while it is handled; recorded once, when the response is sent or the caller has left."""

    request_id: str
    address: str = "-"  # of the caller, as far as it is known; for the log only
    method: str = ""
    route: str = "none"  # the template; never a raw path
    client: str = "-"
    token_sha256: str = ""  # of the client's token; compared when the configuration changes, never shown
    query_id: int | None = None
    cache: CacheResult = "none"
    forward: str = ""  # RFC 9211 `fwd`: why the request went to Redash
    stored: bool = False
    ttl: float | None = None
    miss: MissReason | Literal[""] = ""
    key: bytes = b""  # of the result: says only whether two requests asked for the same
    detail: str = ""
    age: float | None = None
    saved_runtime: float = 0.0  # seconds of warehouse time that this response avoided
    execution_id: str = ""
    status: int = 0
    reason: str = ""  # of a rejection or error
    refused: str = ""  # the Host or the shape of the path that was not accepted
    quota: Quota | None = None
    budgets: tuple[Quota, ...] = ()  # in seconds of runs, where one was wanted
    sent_bytes: int = 0
    started: float = 0.0  # monotonic
    duration: float = 0.0
    upstream_seconds: float = 0.0  # spent so far in this request's own calls to Redash
    shared_seconds: float = 0.0  # so far of waiting for runs and calls that others share
    held_seconds: float = 0.0  # of waiting for what is newer than the caller has: not in `duration`
    streams: bool = False  # it sends events for as long as its caller listens
    queue_seconds: float = 0.0  # so far of waiting for a run that has not been sent to Redash
    render_seconds: float = 0.0  # spent so far in making the form that is sent
    saves_run: bool = False  # a hit that avoided a query run
    trace: Trace | None = None
    steps: list[Step] = msgspec.field(default_factory=list)  # only of requests whose trace is recorded

    @property
    def sender(self) -> Sender:
        """Return on whose behalf this request calls Redash."""
        return Sender(self.client, self.request_id, self.trace, self)

    @property
    def counted(self) -> CacheResult:
        """Return the label of metrics and console: `none` for what brought no result, whatever the cache did."""
        return self.cache if self.status < 300 or self.status == 304 else "none"

    @property
    def ended(self) -> float:
        """Return when it ended, in monotonic seconds."""
        return self.started + self.duration + self.held_seconds

    @property
    def redash_seconds(self) -> float:
        """Return how long it has waited for Redash so far: for calls of its own, and for those that others share."""
        return self.upstream_seconds + self.shared_seconds

    def record_hit(self, ttl: float, age: float, runtime: float) -> None:
        """Record a response from the store that is still fresh, for `ttl` seconds.

        inf is fresh for ever; -inf was never fresh, by the bounds of whoever began the run that did not end.
        """
        self.cache, self.age, self.saved_runtime = "hit", age, runtime
        self.ttl = ttl if math.isfinite(ttl) else None

    def record_stale(self, ttl: float, age: float, runtime: float, detail: str) -> None:
        """Record a stale response from the store; `detail` says which window allowed it."""
        self.record_hit(ttl, age, runtime)
        self.cache, self.miss, self.detail = "stale", "", detail

    def record_bypass(self, why: Literal["bypass", "method"]) -> None:
        """Record that the request went to Redash because nothing of its kind is ever stored, or because it writes."""
        self.forward, self.cache = why, "bypass"

    def record_miss(self, why: MissReason, *, joined: bool = False, stored: bool = False) -> None:
        """Record that the request went to Redash, and why; `joined` if it shared another caller's request."""
        self.forward, self.miss, self.stored = _FORWARD.get(why, "uri-miss"), why, stored
        self.cache = "collapsed" if joined else "miss"

    def record_joined(self) -> None:
        """Record that its run turned out to be one that another gateway leads."""
        self.cache, self.stored = "collapsed", False

    def record_error(self, reason: str, refused: str) -> None:
        """Record why the response is an error. Then it is no hit: what was found could not be made into a response."""
        self.reason, self.refused = reason, refused
        if self.cache in ("hit", "stale"):
            self.record_miss("evicted" if self.cache == "hit" else "stale")
            self.ttl, self.age, self.detail, self.saved_runtime, self.saves_run = None, None, "", 0.0, False

    def add_step(self, name: str, started: float, ended: float, link: Trace | None = None) -> None:
        """Record a part of the request, if its trace is recorded."""
        if self.trace is not None and self.trace.recorded:
            self.steps.append(Step(name, started, ended, link))

    def add_wait(self, seconds: float, queued: float, calls: float) -> None:
        """Count a wait for a run: `queued` seconds before it was sent; its own calls since then took `calls`."""
        self.queue_seconds += queued
        self.shared_seconds += max(0.0, seconds - queued - calls)

    def cache_status(self) -> str | None:
        """Return the Cache-Status field (RFC 9211); None if neither cache nor Redash made the response."""
        refused = self.reason if self.reason == _REFUSED else ""
        if self.cache == "none":
            return f"redash-gateway; detail={refused}" if refused else None
        parts = ["redash-gateway"]
        if self.cache in ("hit", "stale"):
            parts.append("hit")
            if self.ttl is not None:
                parts.append(f"ttl={int(self.ttl // 1)}")
        else:
            parts.append(f"fwd={self.forward}")
            parts += ["collapsed"] if self.cache == "collapsed" else []
            parts += ["stored"] if self.stored else []
        detail = refused or self.detail or self.miss
        return "; ".join([*parts, f"detail={detail}"] if detail else parts)


class OutcomeBatch(msgspec.Struct):
    """Requests with the same labels; only durations, ages and runtimes differ."""

    first: Outcome
    """One of them, for the labels."""
    times: int = 1
    """How many requests each duration stands for: the fast path does not measure each one."""
    durations: list[float] = []
    ages: list[float] = []
    age_times: int = 1
    """How many requests each age stands for: a cached response has the same age for a second."""
    runtime: float = 0.0
    """Warehouse time that all of them avoided, in seconds."""
    keys: dict[bytes, int] = {}
    """How many of them asked for which result, where that is known."""

    @property
    def count(self) -> int:
        """The number of requests."""
        return len(self.durations) * self.times


def batched(outcomes: Iterable[Outcome]) -> list[OutcomeBatch]:
    """Group outcomes by everything that metrics and console use as a label."""
    batches: dict[tuple[object, ...], OutcomeBatch] = {}
    for o in outcomes:
        labels = (o.client, o.route, o.query_id, o.cache, o.miss, o.status, o.reason, o.saves_run)
        batch = batches.get(labels)
        if batch is None:
            batch = batches[labels] = OutcomeBatch(o)
        batch.durations.append(o.duration)
        if o.age is not None:
            batch.ages.append(o.age)
        batch.runtime += o.saved_runtime
        if o.key:
            batch.keys[o.key] = batch.keys.get(o.key, 0) + 1
    return list(batches.values())


class UpstreamCall(msgspec.Struct, frozen=True):
    """One request to Redash. `status` is 0 if no response came."""

    route: str
    status: int
    seconds: float
    credential: str
    accepted: bool  # False: Redash does not know the key
    method: str = ""
    failure: str = ""  # the reason of the error, if this says that Redash is unavailable
    detail: str = ""  # the same as a sentence
    started: float = 0.0  # monotonic
    trace: Trace | None = None

    @property
    def unavailable(self) -> bool:
        """Whether Redash itself did not respond, only perhaps a proxy, or fails every request.

        Its 500 to one request says nothing of Redash: bad input causes it, too (CONTRACT 3).
        """
        return self.failure != ""


class ExecutionEnd(msgspec.Struct, frozen=True):
    """One execution that has ended."""

    id: str
    query_id: int
    result: ExecutionResult
    seconds: float
    callers: int  # how many requested it, the first included
    runtime: float  # warehouse seconds, as Redash measured them
    resumed: bool = False  # begun by an earlier process: `seconds` has the time in which none was running
    ran: bool = True  # False: Redash returned its own cached result, or refused
    started: float = 0.0  # monotonic
    trace: Trace | None = None
    client: str = "-"  # that began it
    request_id: str = ""  # of the request that began it
    cause: str = ""  # why it failed
    refused: bool = False  # Redash or the gateway did not allow it, so that nothing ran and nothing failed


class Observer(Protocol):
    """Receives every record. Its methods must not raise and must not block."""

    def begin_span(self, parent: Trace | None) -> Trace | None:
        """Begin a span below `parent`, and return it; where no spans are recorded, return `parent`."""

    def record_request(self, outcome: Outcome) -> None:
        """Record a request: its response is sent, or its caller has left."""

    def access_line(self, outcome: Outcome) -> LineParts | None:
        """Return the parts of the access line that repetitions of this request share; None without an access log."""

    def log_hit(
        self, request_id: str, address: str, ended: float, seconds: float, line: LineParts, trace_id: str = ""
    ) -> None:
        """Write the access line of one request served from the response cache; `record_hits` counts it later."""

    def record_hits(self, hits: OutcomeBatch) -> None:
        """Count requests that got the same cached response; their access lines are already written."""

    def record_upstream(self, call: UpstreamCall) -> None:
        """Record a request to Redash that has ended."""

    def record_execution(self, end: ExecutionEnd) -> None:
        """Record an execution that has ended."""

    def record_breaker(self, is_open: bool, cause: str = "") -> None:
        """Record whether the breaker is open after a call, and the cause, as a sentence, if that call failed."""
