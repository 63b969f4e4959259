"""The report: one plain value with everything that the page, `/api/status` and `/events` show.

Its field names are JSON members. Names and numbers only, nothing secret: no token, key, SQL, parameter, raw path or
error text of Redash.
"""

from __future__ import annotations

import msgspec

from gateway.admin.health import Health, State
from gateway.telemetry.history import Series


class Hour(msgspec.Struct, frozen=True):
    """The last hour. Latencies are estimates from buckets."""

    requests: int
    lookups: int
    hit_rate: float | None
    saved_seconds: float
    p50_seconds: float | None
    p99_seconds: float | None
    upstream_requests: int
    upstream_errors: int
    executions: int
    failed_runs: int
    errors: int
    refused: int


class Totals(msgspec.Struct, frozen=True):
    """Since the start; the same numbers as the counters of `/metrics`."""

    requests: int
    refused: int
    executions: int
    failed_executions: int
    saved_executions: int
    saved_seconds: float
    upstream_requests: int
    upstream_errors: int


class OutcomeCount(msgspec.Struct, frozen=True):
    """The number of requests with one cache outcome."""

    outcome: str
    meaning: str
    hour: int
    total: int


class MissCount(msgspec.Struct, frozen=True):
    """The number of misses with one reason, since the start."""

    reason: str
    meaning: str
    total: int


class ReasonCount(msgspec.Struct, frozen=True):
    """The number of requests that were refused or failed for one reason."""

    reason: str
    meaning: str
    hour: int
    total: int


class Incident(msgspec.Struct, frozen=True):
    """One request, or one run (`what` is "run"), that failed, was refused, or was slow."""

    at: float  # unix seconds
    query: int | None
    name: str  # of the query
    client: str
    cause: str
    meaning: str
    status: int | None
    seconds: float
    upstream_seconds: float
    what: str
    request_id: str
    run: str  # its id, if it belongs to one


class Running(msgspec.Struct, frozen=True):
    """An execution in flight: `callers` requested it, `waiting` of them hold a connection open for it."""

    id: str
    query: int
    name: str
    state: str
    seconds: float
    callers: int
    waiting: int
    client: str


class Query(msgspec.Struct, frozen=True):
    """A query since the start."""

    query: int
    name: str
    requests: int
    hit_rate: float | None
    runs: int
    failures: int
    mean_seconds: float | None
    saved_seconds: float


class Part(msgspec.Struct, frozen=True):
    """One part of a distribution."""

    label: str
    count: int
    share: float


class QueryDetail(msgspec.Struct, frozen=True):
    """All that is known of one query since the start. Counts only: no SQL, no parameters, no rows."""

    row: Query
    outcomes: list[Part]
    misses: list[Part]
    ages: list[Part]
    runtimes: list[Part]
    parameters: list[Part]
    """How often each of the most requested combinations of parameters was requested; not which they are."""


class Client(msgspec.Struct, frozen=True):
    """A client since the start."""

    client: str
    requests: int
    hit_rate: float | None
    refused: int
    errors: int
    seen_seconds: float | None
    rate: str
    """The limit of its requests; "" without one."""
    remaining: int | None
    """Requests that it may send now, with a limit."""
    budget: str
    """The execution seconds that it may cause; "" without a limit."""
    budget_left: float | None
    """What is left of that now, in seconds: of the budget that has the least."""
    expires: float | None
    """When its tokens expire, in unix seconds."""


class UpstreamRoute(msgspec.Struct, frozen=True):
    """Requests to one route of Redash since the start."""

    route: str
    requests: int
    errors: int
    mean_seconds: float | None


class Slots(msgspec.Struct, frozen=True):
    """The use of one kind of slots to Redash; `queued` wait for one."""

    name: str
    taken: int
    size: int
    queued: int


class Tier(msgspec.Struct, frozen=True):
    """The state of one tier of the store."""

    tier: str
    state: str
    bytes: int
    limit: int
    entries: int
    evictions: int


class Gateway(msgspec.Struct, frozen=True):
    """A gateway that shares the store; `here`: the one that reports, one of several with a name, or silent."""

    name: str
    here: str
    seen_seconds: float


class Warm(msgspec.Struct, frozen=True):
    """The state of one `[[warm]]` entry."""

    name: str
    state: str
    every_seconds: float | None
    """None for what is renewed as it is asked for."""
    runs: int
    failures: int
    skips: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the whole gateway."""

    verdict: str
    state: State
    name: str
    version: str
    redash_version: str
    """As far as it is known; else empty."""
    redash: str
    """What follows from the version of Redash, as a sentence."""
    ready: bool
    uptime_seconds: float
    at: float  # unix seconds
    redash_url: str
    health: list[Health]
    hour: Hour
    totals: Totals
    outcomes: list[OutcomeCount]
    misses: list[MissCount]
    reasons: list[ReasonCount]
    failures: list[Incident]
    refusals: list[Incident]
    slow: list[Incident]
    running: list[Running]
    running_count: int
    waiting: int
    queries: list[Query]
    slowest: list[Query]
    queries_count: int
    clients: list[Client]
    clients_count: int
    upstream: list[UpstreamRoute]
    credentials: list[str]
    slots: list[Slots]
    cache: list[Tier]
    gateways: list[Gateway]
    warm: list[Warm]
    history: Series
