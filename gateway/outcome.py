"""What became of one request, of one call to Redash, of one execution: the records that metrics, log, status page and
response headers are made from. Nobody counts anything elsewhere.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

CacheResult = Literal["hit", "stale", "miss", "collapsed", "bypass", "none"]
ExecutionResult = Literal["success", "failure", "cancelled", "lost"]


class Sender(msgspec.Struct, frozen=True):
    """On whose behalf Redash is asked: for User-Agent, fair queueing and tracing."""

    client: str
    request_id: str
    traceparent: str | None = None


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

    def hit(self, ttl: float, age: float, runtime: float) -> None:
        """Note an answer from the store, within its freshness."""
        self.cache, self.ttl, self.age, self.saved_runtime = "hit", ttl, age, runtime

    def stale(self, ttl: float, age: float, runtime: float, detail: str) -> None:
        """Note an answer from the store beyond its freshness; `detail` says which window allowed it."""
        self.hit(ttl, age, runtime)
        self.cache, self.detail = "stale", detail

    def went(self, forward: str, *, joined: bool = False, stored: bool = False) -> None:
        """Note that Redash was asked, and why; `joined` when another caller's question served this one too."""
        self.forward, self.stored = forward, stored
        self.cache = "collapsed" if joined else "bypass" if forward in ("bypass", "method") else "miss"

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


class UpstreamCall(msgspec.Struct, frozen=True):
    """One request to Redash. `status` is 0 where no answer came."""

    route: str
    status: int
    seconds: float
    credential: str
    accepted: bool  # False: Redash does not know the key


class ExecutionEnd(msgspec.Struct, frozen=True):
    """One execution that has ended."""

    id: str
    query_id: int
    result: ExecutionResult
    seconds: float
    callers: int  # how many asked for it, the first included
    runtime: float  # of the warehouse, as Redash measured it


class Teller(Protocol):
    """Whoever counts and writes down what became of things; must not raise and must not wait."""

    def request(self, outcome: Outcome, count: int = 1) -> None:
        """A request has been answered, or its caller has left; `count` of them, where the hit lane answered alike."""

    def upstream(self, call: UpstreamCall) -> None:
        """Redash has been asked."""

    def execution(self, end: ExecutionEnd) -> None:
        """An execution has ended."""
