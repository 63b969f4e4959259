"""The values that the parts exchange: plain data, and what can be computed from it; no decisions, no I/O."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Mapping
from typing import Final, Literal, Protocol

import msgspec

from gateway.body import Body, Events, Part, Streamed

Key = bytes
"""32 bytes: SHA-256 over the canonical encoding of the request that an entry is stored for."""

Form = Literal["full", "reduced", "csv", "tsv", "xlsx", "ndjson", "parquet", "arrow", "html", "definition", "metadata"]

FIRST_GATEWAY_RESULT_ID = 2**52
"""Reduced results have no id of Redash; the gateway makes one, above all that Redash will reach, below 2**53 (JSON)."""


SLUG = r"[A-Za-z0-9_-]{1,200}"
"""What Redash makes the slug of a dashboard of: a part of a path."""


class Clock(Protocol):
    """Two clocks: `wall` for what is compared with other systems, `monotonic` for every age and deadline."""

    def wall(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds that never decrease."""


class SystemClock:
    """The clocks of the operating system."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class Request(msgspec.Struct, frozen=True):
    """The head of a caller's request, as on the wire: raw path and query string, headers by case-insensitive name."""

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    accepts_gzip: bool
    """RFC 9110 section 12.5.3."""
    is_http_1_0: bool = False
    token: tuple[str, str] | None = None
    """Name and value of the one header that may hold the caller's token."""


class Response(msgspec.Struct, kw_only=True):
    """What a caller gets. Fields that all responses have (request id, Vary, Cache-Status …) are added in `http`."""

    status: int = 200
    body: Body | Part | Streamed | Events
    content_type: str = "application/json"
    disposition: str = ""
    cache_control: str = "private, no-cache"
    etag: str = ""  # of the body before encoding
    encoding: Literal["", "gzip"] = ""
    retry_after: float | None = None
    waited: int | None = None
    """The `Prefer: wait=N` that was honoured."""
    location: str = ""
    content_location: str = ""
    """Where exactly this body stays: a result by its id."""
    ranges: Literal["", "bytes", "none"] = ""
    """What `Accept-Ranges` says; "" where nothing is said."""
    content_range: str = ""
    content_policy: str = ""
    """The `Content-Security-Policy` of a page."""
    reuse: ReuseTerms | None = None
    """Set for a hit that may be sent again without another decision."""
    entry: Entry | None = None
    """The entry that the body is stored under, if it is; used to look up or store its gzip form."""
    gzip: Body | None = None
    """The body's gzip form, if it is ready."""
    allow: tuple[str, ...] = ()
    authenticate: bool = False
    closes: bool = False
    """Whether the connection is closed after it."""
    unsized: bool = False
    """Whether the length of the body is unknown: HEAD of what must be made first."""

    @property
    def tag(self) -> str:
        """Return the value of `ETag`: one tag for each encoding (RFC 9110 section 8.8.3.3)."""
        return f'"{self.etag}{"-gzip" if self.encoding else ""}"' if self.etag else ""


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stored result, definition or rendering without its bytes. There may be many; the garbage collector skips them.

    `born` and `confirmed` are on the monotonic clock: the age of the rows is `clock.monotonic() - born`, and
    `confirmed` is when Redash last confirmed that this is its newest result (-inf: never). A store that outlives the
    process writes them as wall-clock times and converts them back on reading.
    """

    body_id: bytes
    scope: str
    query_id: int  # 0 for SQL that belongs to no saved query
    result_id: int  # Redash's id, or the gateway's own from 2**52 on for a reduced result
    form: Form
    marker: str = ""  # `updated_at` of the definition that was in force before the POST was sent
    query_hash: str = ""
    data_source_id: int | None = None  # the source of the rows; for a reduced result, the query's at that time
    retrieved_at: str = ""  # as Redash wrote it
    runtime: float = 0.0  # seconds the warehouse worked on it
    born: float = -math.inf
    confirmed: float = -math.inf
    size: int = 0

    @property
    def identity(self) -> bytes:
        """Return what distinguishes it from another result with the same id."""
        return result_identity(self.retrieved_at, self.query_hash)

    def age(self, now: float) -> float:
        """Seconds since Redash's worker finished the query, by the monotonic clock `now`; never negative."""
        return max(0.0, now - self.born)


class ReuseTerms(msgspec.Struct, frozen=True):
    """What the response of a hit depends on, from the part that judged it. It may be sent again until `good_until`
    (monotonic: the earliest of freshness, confirmation, definition check and the expiry of the client's token), while
    the store has `entry` under `key`.
    """

    key: Key
    entry: Entry
    query_id: int
    good_until: float


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a query's `options.parameters`, as `redash.objects` reads it."""

    name: str
    type: str = "text"
    value: object = None
    enumOptions: tuple[str, ...] = ()  # noqa: N815 - Redash's own name
    queryId: int | None = None  # noqa: N815
    multiValuesOptions: dict[str, object] | None = None  # noqa: N815


class Schedule(msgspec.Struct, frozen=True):
    """When Redash refreshes a query; `redash.schedule` says what follows from it."""

    interval: float  # seconds
    minute: int | None = None  # of the day, in UTC; None: each `interval` after the last result
    weekday: int | None = None  # 0 is Monday
    until: float | None = None  # unix seconds: from then on it is not refreshed any more


class Definition(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """The part of a saved query that the gateway uses, from `GET /api/queries/<id>`; never its `api_key`."""

    query_id: int
    name: str
    text: str
    marker: str  # `updated_at`: the only change marker Redash has (CONTRACT 5)
    query_hash: str
    data_source_id: int | None
    latest_result_id: int | None
    parameters: tuple[Parameter, ...]
    tags: tuple[str, ...]
    auto_limit: bool
    is_archived: bool = False
    schedule: Schedule | None = None
    checked: float = -math.inf  # monotonic: when the request for it was sent


class ExecutionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a query in Redash, as stored in the ledger.

    `status` is Redash's: 1 queued, 2 started, 3 success, 4 failure. Times are wall-clock unix seconds.
    """

    id: str
    key: Key
    scope: str
    credential: str  # its name in the configuration
    query_id: int
    path: str  # of the POST in Redash
    body: bytes  # of the POST in Redash
    marker: str
    started_at: float
    upstream_job: str = ""
    status: int = 1
    error: str = ""
    result_id: int | None = None
    purged: bool = False  # only waiting callers get its result; it is not stored
    fence: int = 0  # of the lease under which it was written; 0 where no other gateway can have one
    abandoned: bool = False  # cancelled, or about to be, because no caller was known that had use for it
    unavailable: bool = False  # it failed because Redash was unavailable, so callers may use a stale result
    follow_up: str = ""  # the id of a later run, for callers whose bound its rows do not meet
    served: tuple[tuple[int, int], ...] = ()  # the numbers of the asks whose bounds they meet, as ranges, ends included
    heard: tuple[
        tuple[int, int], ...
    ] = ()  # of all asks that its leader knew of; the follow-up is for the others of these


UNASKED: Final = -1
"""In place of the number of an ask: whoever leads the run may not know of the caller, so only an end that the caller's
own gateway records, or a later run, serves it."""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's job id and its execution. `noted_at` is wall-clock unix seconds."""

    id: str
    execution_id: str
    client: str
    scope: str
    query_id: int
    noted_at: float
    cancelled: bool = False
    token_sha256: str = ""  # of the token that it was given to; "" for none
    not_before: float = -math.inf  # wall-clock unix seconds: its rows must not be older
    ask: int = 0  # the number of the ask that says the same to the gateway that leads the run; 0 for none
    fallback: int | None = None  # the stored result that its caller may have while Redash does not answer
    fell_back: bool = False  # it has ended with that result, whatever its run does

    @property
    def is_over(self) -> bool:
        """Whether it has ended before its run, and does not change any more."""
        return self.cancelled or self.fell_back


class TierStats(msgspec.Struct, frozen=True):
    """The usage of one tier of the store, for metrics and console."""

    tier: Literal["memory", "disk", "redis"]
    bytes: int
    entries: int
    evictions: int
    limit: int
    """Bytes that it may take now: for the disk, no more than it has room for."""
    up: bool


NEARLY_FULL: Final = 0.95
"""From this part of its memory on, a server that gateways share is about to refuse what is to be stored."""


class SharingStats(msgspec.Struct, frozen=True, kw_only=True):
    """Who shares the store, and how the server is that they share; for metrics and console."""

    gateways: tuple[tuple[str, float], ...]
    """Names of those that are there, this one included, and how many seconds ago each was seen; none while the server
    is unavailable."""
    silent: tuple[tuple[str, float], ...] = ()
    """The same of those that have not left, but are not there: killed, hung or cut off, within the last minute."""
    up: bool
    reason: str
    """Why it is not up."""
    trouble: str
    """What is wrong with the other gateways, "" if nothing is."""
    losses: int
    """How often it was lost since the start."""
    round_trip: float
    """Seconds."""
    used_bytes: int
    limit_bytes: int
    """Of the whole server, with what others store there; 0: no limit."""
    evicts: bool
    """Whether the server removes by itself what gateways have stored; then it may remove leases and jobs, too."""


def result_identity(retrieved_at: str, query_hash: str) -> bytes:
    """Distinguish results with the same id: Redash's ids repeat after its database was restored from an old backup."""
    return digest(retrieved_at.encode(), query_hash.encode())[:8]


def digest(*parts: bytes) -> Key:
    """Hash `parts` so that no two different lists of parts share an encoding (each is length-prefixed)."""
    return hashlib.sha256(
        b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])
    ).digest()


def new_id() -> str:
    """Return a random UUID (RFC 9562, version 4); `uuid.uuid4` and its text take five times as long."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
