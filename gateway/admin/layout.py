"""What the overview shows, and its texts: numbers, charts and tables, each with its place in the report. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.admin.chart import Chart, Line
from gateway.admin.columns import CLIENT, INCIDENT, QUERY, SLOW, Column


class Number(msgspec.Struct, frozen=True):
    """One large number; `place` is its dotted name in the report."""

    label: str
    place: str
    form: str
    hint: str = ""


class Table(msgspec.Struct, frozen=True):
    """A table; `rows` is its name in the report, `empty` is shown if it has no rows."""

    title: str
    about: str
    rows: str
    columns: tuple[Column, ...]
    empty: str
    count: str = ""  # place of the number of all rows, if the report may leave some out
    wide: bool = False
    page: str = ""  # that shows all rows


NUMBERS: Final = (
    Number("Without a run", "hour.hit_rate", "percent", "of cacheable requests"),
    Number("Warehouse time saved", "hour.saved_seconds", "duration", "query runs avoided"),
    Number("Requests", "hour.requests", "count", "of every kind"),
    Number("Half answered within", "hour.p50_seconds", "duration", "p50"),
    Number("99 % answered within", "hour.p99_seconds", "duration", "p99"),
    Number("Requests to Redash", "hour.upstream_requests", "count", "polls included"),
)

CHARTS: Final = (
    Chart(
        "hit-rate",
        "Hit rate",
        "Share of cacheable requests that were answered from the cache or with another caller's run, averaged over "
        "three points. Errors and refusals are not counted.",
        "share",
        ("100 %", "50 %", "0"),
        4,
        (Line("hit_rate", "area", "without a run", "percent", "hour.hit_rate"),),
    ),
    Chart(
        "latency",
        "Response time",
        "Time within which half (p50) and 99 % (p99) of the requests were answered, averaged over three points. "
        "Each grid line is ten times the one below it.",
        "log",
        ("100 s", "1 s", "10 ms", "0.1 ms"),
        6,
        (
            Line("p99_seconds", "line", "p99", "duration", "hour.p99_seconds"),
            Line("p50_seconds", "line", "p50", "duration", "hour.p50_seconds"),
        ),
    ),
    Chart(
        "requests",
        "Requests",
        "Requests that the gateway answered, and requests that it sent to Redash.",
        "count",
        ("", "0"),
        4,
        (
            Line("requests", "left", "answered", "count", "hour.requests"),
            Line("upstream_requests", "right", "sent to Redash", "count", "hour.upstream_requests"),
        ),
    ),
    Chart(
        "errors",
        "Errors",
        "Requests that failed (status 500 and above), and runs that failed in Redash or got lost.",
        "count",
        ("", "0"),
        4,
        (
            Line("errors", "left", "failed requests", "count", "hour.errors"),
            Line("failed_runs", "right", "failed runs", "count", "hour.failed_runs"),
        ),
    ),
    Chart(
        "refusals",
        "Refusals",
        "Requests that were refused (status 400 to 499): no token, no right, over a limit, or not valid.",
        "count",
        ("", "0"),
        4,
        (Line("refused", "left", "refused", "count", "hour.refused"),),
    ),
)

TABLES: Final = (
    Table(
        "Running now",
        "Queries that the gateway is running in Redash now, and how many callers wait for them.",
        "running",
        (
            Column("Query", "query", "query"),
            Column("Started by", "client", "text"),
            Column("State", "state", "text"),
            Column("Elapsed", "seconds", "duration"),
            Column("Callers", "callers"),
            Column("Waiting", "waiting"),
            Column("Run", "id", "run"),
        ),
        "No query is running now.",
        "running_count",
        wide=True,
    ),
    Table(
        "Recent failures",
        "Requests with a status of 500 and above, and runs that failed or got lost, the latest first.",
        "failures",
        INCIDENT,
        "Nothing has failed.",
        wide=True,
        page="requests",
    ),
    Table(
        "Slow requests",
        "Requests of the last hour that took longer than 250 ms, the slowest first.",
        "slow",
        SLOW,
        "No request of the last hour took longer than 250 ms.",
        wide=True,
        page="requests",
    ),
    Table(
        "Busiest queries",
        "By requests, since the start.",
        "queries",
        QUERY,
        "No queries yet.",
        "queries_count",
        wide=True,
        page="queries",
    ),
    Table(
        "Slowest queries",
        "By mean run time, as Redash reports it, also of results that it had already; since the start.",
        "slowest",
        QUERY,
        "No query has run yet.",
        wide=True,
        page="queries?sort=-mean_seconds",
    ),
    Table(
        "Clients",
        "By requests, since the start. Refused: status 400 to 499. Errors: status 500 and above.",
        "clients",
        CLIENT,
        "No requests yet.",
        "clients_count",
        wide=True,
        page="clients",
    ),
    Table(
        "Refusals and errors",
        "Why requests were refused or failed.",
        "reasons",
        (
            Column("Reason", "reason", "text"),
            Column("Meaning", "meaning", "text"),
            Column("Last hour", "hour"),
            Column("Since start", "total"),
        ),
        "No request was refused or failed.",
        page="requests",
    ),
    Table(
        "Misses",
        "Why cacheable requests went to Redash, since the start.",
        "misses",
        (Column("Reason", "reason", "text"), Column("Meaning", "meaning", "text"), Column("Since start", "total")),
        "",
    ),
    Table(
        "Requests by outcome",
        "What the cache did for each request.",
        "outcomes",
        (
            Column("Outcome", "outcome", "text"),
            Column("Meaning", "meaning", "text"),
            Column("Last hour", "hour"),
            Column("Since start", "total"),
        ),
        "",
    ),
    Table(
        "Requests to Redash",
        "By route, since the start. An error is a missing response, or a status of 500 and above.",
        "upstream",
        (
            Column("Route", "route", "text"),
            Column("Requests", "requests"),
            Column("Errors", "errors", "alarm"),
            Column("Mean", "mean_seconds", "duration"),
        ),
        "No requests to Redash yet.",
    ),
    Table(
        "Slots to Redash",
        "How many requests and executions may go to Redash at once, and how many wait for a slot.",
        "slots",
        (
            Column("Kind", "name", "text"),
            Column("In use", "taken"),
            Column("Limit", "size"),
            Column("Waiting", "queued", "alarm"),
        ),
        "",
    ),
    Table(
        "Store",
        "What is stored, by tier, against its limit.",
        "cache",
        (
            Column("Tier", "tier", "text"),
            Column("State", "state", "state"),
            Column("Used", "bytes", "share"),
            Column("Bytes", "bytes", "size"),
            Column("Limit", "limit", "size"),
            Column("Entries", "entries"),
            Column("Evicted", "evictions"),
        ),
        "",
    ),
    Table(
        "Gateways",
        "Those that share the store through Redis, this one included.",
        "gateways",
        (
            Column("Name", "name", "text"),
            Column("", "here", "text"),
            Column("Last seen", "seen_seconds", "ago"),
        ),
        "No other gateway shares the store now.",
    ),
    Table(
        "Kept warm",
        "Queries that the gateway keeps fresh in the background.",
        "warm",
        (
            Column("Entry", "name", "text"),
            Column("State", "state", "state"),
            Column("Every", "every_seconds", "duration"),
            Column("Rounds", "runs"),
            Column("Failed", "failures", "alarm"),
            Column("Skipped", "skips"),
        ),
        "The configuration has no [[warm]] entry.",
    ),
)
