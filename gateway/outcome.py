"""What became of one request, of one call to Redash, of one execution: the records that metrics, log, status page and
response headers are made from. Nobody counts anything elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

CacheResult = Literal["hit", "stale", "miss", "collapsed", "bypass", "none"]
ExecutionResult = Literal["success", "failure", "cancelled", "lost"]

LineParts = tuple[str, str]
"""Of an access line: what stands between the request's id and its milliseconds, and what follows those."""


class Trace(msgspec.Struct, frozen=True):
    """A place in a trace (W3C Trace Context): one span, and what is passed on of it. Ids are lower-case hex."""

    trace_id: str
    span_id: str
    flags: str = "01"
    state: str = ""  # `tracestate`
    parent: str = ""  # the span above, if it is known
    recorded: bool = False  # whether `span_id` is a span of ours, which will be exported

    @property
    def header(self) -> str:
        """Return the `traceparent` for whoever is asked from here."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


class Step(msgspec.Struct, frozen=True):
    """A part of a request that is worth a span of its own; times are monotonic seconds."""

    name: str
    started: float
    ended: float
    link: Trace | None = None  # what it waited for, in whichever trace that is


class Sender(msgspec.Struct, frozen=True):
    """On whose behalf Redash is asked: for User-Agent, fair queueing and tracing."""

    client: str
    request_id: str
    trace: Trace | None = None
    outcome: Outcome | None = None  # of the request that caused it, where one did


class Quota(msgspec.Struct, frozen=True):
    """What is left of a client's rate: `limit` requests in `window` seconds, `remaining` now, full again in `reset`."""

    limit: int
    window: int
    remaining: int
    reset: int


class Outcome(msgspec.Struct):
    """One request, filled in along the way; told once, when its answer has left or its caller has."""

    request_id: str
    method: str = ""
    route: str = "none"  # the template; never a raw path
    client: str = "-"
    token_sha256: str = ""  # which of the client's tokens; compared when the configuration changes, never told
    query_id: int | None = None
    cache: CacheResult = "none"
    forward: str = ""  # RFC 9211 `fwd`: why Redash was asked
    stored: bool = False
    ttl: float | None = None
    detail: str = ""
    age: float | None = None
    saved_runtime: float = 0.0  # seconds of warehouse time that this answer did not cost
    execution_id: str = ""
    status: int = 0
    reason: str = ""  # of a refusal or error
    quota: Quota | None = None
    sent_bytes: int = 0
    started: float = 0.0  # monotonic
    duration: float = 0.0
    upstream_seconds: float = 0.0  # what Redash spent on what this request itself asked it, so far
    saves_run: bool = False  # a hit of what would have been a run
    trace: Trace | None = None
    steps: list[Step] = msgspec.field(default_factory=list)  # only of requests whose trace is recorded

    def record_hit(self, ttl: float, age: float, runtime: float) -> None:
        """Note an answer from the store, within its freshness."""
        self.cache, self.ttl, self.age, self.saved_runtime = "hit", ttl, age, runtime

    def record_stale(self, ttl: float, age: float, runtime: float, detail: str) -> None:
        """Note an answer from the store beyond its freshness; `detail` says which window allowed it."""
        self.record_hit(ttl, age, runtime)
        self.cache, self.detail = "stale", detail

    def record_forward(self, forward: str, *, joined: bool = False, stored: bool = False) -> None:
        """Note that Redash was asked, and why; `joined` when another caller's question served this one too."""
        self.forward, self.stored = forward, stored
        self.cache = "collapsed" if joined else "bypass" if forward in ("bypass", "method") else "miss"

    def add_step(self, name: str, started: float, ended: float, link: Trace | None = None) -> None:
        """Note a part of the way, if somebody will look at it."""
        if self.trace is not None and self.trace.recorded:
            self.steps.append(Step(name, started, ended, link))

    def cache_status(self) -> str | None:
        """Return the Cache-Status field (RFC 9211), None where the cache took no part."""
        if self.cache == "none":
            return None
        parts = ["redash-gateway"]
        if self.cache in ("hit", "stale"):
            parts.append("hit")
            if self.ttl is not None:
                parts.append(f"ttl={int(self.ttl // 1)}")
        else:
            parts.append(f"fwd={self.forward}")
            parts += ["collapsed"] if self.cache == "collapsed" else []
            parts += ["stored"] if self.stored else []
        return "; ".join(parts + ([f"detail={self.detail}"] if self.detail else []))


class OutcomeBatch(msgspec.Struct):
    """Requests that are counted under the same labels; only durations, ages and runtimes differ."""

    first: Outcome
    """One of them, for what all have in common."""
    times: int = 1
    """How many requests each duration stands for: the hit lane does not measure each."""
    durations: list[float] = []
    ages: list[float] = []
    age_times: int = 1
    """How many requests each age stands for: of an answer that is given again it is the same for a second."""
    runtime: float = 0.0
    """Saved by all, in seconds of warehouse time."""

    @property
    def count(self) -> int:
        """How many requests these are."""
        return len(self.durations) * self.times


def batched(told: Iterable[Outcome]) -> list[OutcomeBatch]:
    """Group outcomes of requests; a batch of them has few kinds."""
    kinds: dict[tuple[object, ...], OutcomeBatch] = {}
    for o in told:
        kind = (o.client, o.route, o.query_id, o.cache, o.status, o.reason, o.saves_run)
        known = kinds.get(kind)
        if known is None:
            known = kinds[kind] = OutcomeBatch(o)
        known.durations.append(o.duration)
        if o.age is not None:
            known.ages.append(o.age)
        known.runtime += o.saved_runtime
    return list(kinds.values())


class UpstreamCall(msgspec.Struct, frozen=True):
    """One request to Redash. `status` is 0 where no answer came."""

    route: str
    status: int
    seconds: float
    credential: str
    accepted: bool  # False: Redash does not know the key
    method: str = ""
    failure: str = ""  # why it counts as one of Redash's being away: no answer, or only a proxy's
    started: float = 0.0  # monotonic
    trace: Trace | None = None

    @property
    def unavailable(self) -> bool:
        """Whether nobody answered but perhaps a proxy (Redash's own failures are 500, CONTRACT 3)."""
        return self.failure != ""


class ExecutionEnd(msgspec.Struct, frozen=True):
    """One execution that has ended."""

    id: str
    query_id: int
    result: ExecutionResult
    seconds: float
    callers: int  # how many asked for it, the first included
    runtime: float  # of the warehouse, as Redash measured it
    ran: bool = True  # False: Redash answered at once from its own cache, or refused
    started: float = 0.0  # monotonic
    trace: Trace | None = None


class Observer(Protocol):
    """Whoever counts and writes down what became of things; must not raise and must not wait."""

    def begin_span(self, parent: Trace | None) -> Trace | None:
        """Return the place in a trace of what begins now: a span of its own below `parent`, or `parent` itself."""

    def record_request(self, outcome: Outcome) -> None:
        """A request has been answered, or its caller has left."""

    def access_line(self, outcome: Outcome) -> LineParts | None:
        """Return what all answers like this one have in common in the access log; None where there is none."""

    def log_hit(self, request_id: str, ended: float, seconds: float, line: LineParts) -> None:
        """One request got a known answer; it is counted with others later."""

    def record_hits(self, hits: OutcomeBatch) -> None:
        """So many requests got the same known answer; the access log has been told."""

    def record_upstream(self, call: UpstreamCall) -> None:
        """Redash has been asked."""

    def record_execution(self, end: ExecutionEnd) -> None:
        """An execution has ended."""

    def record_breaker(self, is_open: bool) -> None:
        """How the breaker stands after a call."""
