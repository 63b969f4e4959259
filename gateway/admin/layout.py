"""What the page shows, and its texts: numbers, charts and tables, each with its place in the report. Pure.

`page.py` renders it and writes the places into `data-` attributes, so that `assets/page.js` can update the page.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.admin.chart import Chart, Line


class Number(msgspec.Struct, frozen=True):
    """One large number; `place` is its dotted name in the report."""

    label: str
    place: str
    form: str
    hint: str = ""


class Column(msgspec.Struct, frozen=True):
    """One column of a table; `field` is its name in the rows. The first column is the heading of each row."""

    title: str
    field: str
    form: str = "count"


class Table(msgspec.Struct, frozen=True):
    """A table; `rows` is its name in the report, `empty` is shown if it has no rows."""

    title: str
    about: str
    rows: str
    columns: tuple[Column, ...]
    empty: str
    count: str = ""  # place of the number of all rows, if the report may leave some out
    wide: bool = False


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
        "Share of cacheable requests that were answered from the cache or with another caller's run, over the last "
        "hour, averaged over three minutes. Errors and refusals are not counted.",
        "share",
        ("100 %", "50 %", "0"),
        4,
        (Line("hit_rate", "area", "without a run", "hour.hit_rate", "percent"),),
    ),
    Chart(
        "latency",
        "Response time",
        "Time within which half (p50) and 99 % (p99) of the requests were answered, over the last hour. "
        "Each point covers three minutes; each grid line is ten times the one below it.",
        "log",
        ("100 s", "1 s", "10 ms", "0.1 ms"),
        6,
        (
            Line("p99_seconds", "line", "p99", "hour.p99_seconds", "duration"),
            Line("p50_seconds", "line", "p50", "hour.p50_seconds", "duration"),
        ),
    ),
    Chart(
        "requests",
        "Requests per minute",
        "Requests that the gateway answered, and requests that it sent to Redash, over the last hour.",
        "count",
        ("", "0"),
        4,
        (
            Line("requests", "left", "answered", "hour.requests", "count"),
            Line("upstream_requests", "right", "sent to Redash", "hour.upstream_requests", "count"),
        ),
    ),
)

_QUERY: Final = (
    Column("Query", "query", "query"),
    Column("Requests", "requests"),
    Column("Without a run", "hit_rate", "percent"),
    Column("Runs", "runs"),
    Column("Failed", "failures", "alarm"),
    Column("Mean run time", "mean_seconds", "duration"),
    Column("Saved", "saved_seconds", "duration"),
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
        ),
        "No query is running now.",
        "running_count",
        wide=True,
    ),
    Table("Busiest queries", "By requests, since the start.", "queries", _QUERY, "No queries yet.", "queries_count"),
    Table("Slowest queries", "By mean run time, since the start.", "slowest", _QUERY, "No query has run yet."),
    Table(
        "Clients",
        "By requests, since the start. Refused: rejected or failed, because of permissions, limits or errors.",
        "clients",
        (
            Column("Client", "client", "text"),
            Column("Requests", "requests"),
            Column("Without a run", "hit_rate", "percent"),
            Column("Refused", "refused", "alarm"),
            Column("Last seen", "seen_seconds", "ago"),
        ),
        "No requests yet.",
        "clients_count",
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
        "Stored entries, by tier.",
        "cache",
        (
            Column("Tier", "tier", "text"),
            Column("State", "state", "state"),
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
