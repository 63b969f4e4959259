"""The values that the parts hand to each other: request, answer, body, entry, definition, records of the ledger.

Plain data and what can be said of it without waiting; no decisions, no I/O.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec

Key = bytes
"""32 bytes: SHA-256 over the canonical encoding of what an entry answers."""

Form = Literal["full", "reduced", "csv", "tsv", "xlsx", "definition", "metadata"]

FIRST_GATEWAY_RESULT_ID = 2**52
"""Reduced answers carry no result id; theirs are made here, above every id Redash will reach, below 2**53 (JSON)."""


class Clock(Protocol):
    """Two clocks: `wall` for what is compared with the world, `monotonic` for every age and deadline."""

    def wall(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


class SystemClock:
    """The clocks of the operating system."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class Arriving(Protocol):
    """The bytes of a large answer while Redash sends it."""

    size: int | None
    """As announced; None as long as nobody knows."""

    async def follow(self, sent: float) -> int:
        """Wait until more than `sent` bytes are there; return how many, or all there are where no more will come.

        Raises:
            GatewayError: no more will come, though it is not all.
        """

    def read(self, start: int, count: int) -> bytes:
        """Read so many bytes from `start` on. May wait for the disk."""

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send bytes to a socket, as many as it takes; returns how many that was, 0 where it takes none now."""

    def end(self) -> None:
        """Let readers have the end: all of it has been read, checked and kept."""

    def fail(self) -> None:
        """Tell readers that there will be no end; what is there goes."""


class Body(msgspec.Struct, frozen=True):
    """The bytes of an answer: in memory (`data`) or, above the store's limit, in a file (`path`)."""

    size: int
    data: bytes | None = None
    path: Path | None = None
    spool: Arriving | None = None
    """Of a file that no store has yet: it goes with the last who refers to this."""

    @classmethod
    def of(cls, data: bytes) -> Body:
        """Wrap bytes that are in memory."""
        return cls(size=len(data), data=data)

    def give_up(self) -> None:
        """Let its file go: it is no good. Errors may hold this for long (their tracebacks do)."""
        if self.spool is not None:
            self.spool.fail()

    def load(self) -> bytes:
        """Return all bytes; reads the file, so call it off the event loop where `path` is set."""
        if self.data is not None:
            return self.data
        assert self.path is not None  # noqa: S101 - one of the two is always there
        return self.path.read_bytes()

    def ends(self, first: int, last: int) -> tuple[bytes, bytes]:
        """Return the first and the last bytes, so many at most; reads a file as `load` does."""
        if self.data is not None:
            return self.data[:first], self.data[-last:]
        assert self.path is not None  # noqa: S101 - one of the two is always there
        with self.path.open("rb") as file:
            head = file.read(first)
            file.seek(max(0, self.size - last))
            return head, file.read()


class Request(msgspec.Struct, frozen=True):
    """The head of what a caller sent, as on the wire: raw path and query string, headers by case-insensitive name."""

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    accepts_gzip: bool
    """RFC 9110 section 12.5.3."""


class Response(msgspec.Struct, kw_only=True):
    """What a caller gets. Fields that every answer has (request id, Vary, Cache-Status …) are added at the edge."""

    status: int = 200
    body: Body | Arriving
    content_type: str = "application/json"
    disposition: str = ""
    cache_control: str = "private, no-cache"
    etag: str = ""  # of what is answered, whatever its encoding
    encoding: Literal["", "gzip"] = ""
    retry_after: float | None = None
    waited: int | None = None
    """The `Prefer: wait=N` that was honoured."""
    location: str = ""
    reuse: ReuseTerms | None = None
    """Set for a hit that may be sent again without being judged anew."""
    entry: Entry | None = None
    """What the store has the body under, where it does: its gzip form is found, or made, by that."""
    gzip: Body | None = None
    """The body's gzip form, where it is at hand."""
    allow: tuple[str, ...] = ()
    authenticate: bool = False
    closes: bool = False
    """The connection ends with it."""

    @property
    def tag(self) -> str:
        """Return the ETag field: one tag for each encoding (RFC 9110 section 8.8.3.3)."""
        return f'"{self.etag}{"-gzip" if self.encoding else ""}"' if self.etag else ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A stored answer without its bytes.

    `born` and `confirmed` are on the monotonic clock: the age of the rows is `clock.monotonic() - born`, and
    `confirmed` is when Redash last said that this is its newest result (-inf: never). A store that outlives the
    process writes them as wall-clock times and turns them back when it reads them.
    """

    body_id: bytes
    scope: str
    query_id: int  # 0 for SQL that belongs to no saved query
    result_id: int  # Redash's id, or one of ours from 2**52 for a reduced answer
    form: Form
    marker: str = ""  # `updated_at` of the definition that was in force before the POST left
    query_hash: str = ""
    retrieved_at: str = ""  # as Redash wrote it
    runtime: float = 0.0  # seconds the warehouse worked on it
    born: float = -math.inf
    confirmed: float = -math.inf
    size: int = 0

    def age(self, now: float) -> float:
        """Seconds since Redash's worker finished the query, by the monotonic clock `now`; never negative."""
        return max(0.0, now - self.born)


class ReuseTerms(msgspec.Struct, frozen=True):
    """What the response of a hit depends on, from the part that judged it. It may be sent again until `good_until`
    (monotonic: the earliest of freshness, confirmation, definition check and the end of the client's token), as long
    as `entry` is what the store has under `key`.
    """

    key: Key
    entry: Entry
    query_id: int
    good_until: float


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a query's `options.parameters`; fields that a gateway has no use for are skipped."""

    name: str
    type: str = "text"
    value: object = None
    enumOptions: str = ""  # noqa: N815 - Redash's own name
    queryId: int | None = None  # noqa: N815
    multiValuesOptions: dict[str, object] | None = None  # noqa: N815
    regex: str = ""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway knows of a saved query, from `GET /api/queries/<id>`; never its `api_key`."""

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
    checked: float = -math.inf  # monotonic: when Redash said so


class ExecutionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a query in Redash, as the ledger keeps it.

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
    purged: bool = False  # its result is for those who wait only


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's job id and what it stands for. `noted_at` is wall-clock unix seconds."""

    id: str
    execution_id: str
    client: str
    scope: str
    query_id: int
    noted_at: float
    cancelled: bool = False
    token_sha256: str = ""  # of the token that it was given to; "" for none


class TierStats(msgspec.Struct, frozen=True):
    """How full one tier of the store is, for metrics and status page."""

    tier: Literal["memory", "disk", "redis"]
    bytes: int
    entries: int
    evictions: int
    up: bool


def digest(*parts: bytes) -> Key:
    """Hash `parts` so that no two different lists of parts share an encoding (each is length-prefixed)."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "big"))
        h.update(part)
    return h.digest()
