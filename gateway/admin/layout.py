"""What the page shows and under which words: numbers, charts and tables, each named by its place in the report. Pure.

`page.py` renders it, and hands the places on in `data-` attributes, from which `assets/page.js` knows what to renew.
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
    """One column of a table; `field` is its name in the rows. The first column of a table names its rows."""

    title: str
    field: str
    form: str = "count"


class Sheet(msgspec.Struct, frozen=True):
    """A table; `rows` is its name in the report, `empty` is said where it has none."""

    title: str
    about: str
    rows: str
    columns: tuple[Column, ...]
    empty: str
    count: str = ""  # where the report has the number of all rows, if some may be left out
    wide: bool = False


NUMBERS: Final = (
    Number("From the cache", "hour.hit_rate", "percent", "of cacheable requests"),
    Number("Warehouse time saved", "hour.saved_seconds", "duration", "not run again"),
    Number("Requests", "hour.requests", "count", "of every kind"),
    Number("Half answered within", "hour.p50_seconds", "duration", "p50"),
    Number("99 % answered within", "hour.p99_seconds", "duration", "p99"),
    Number("Asked of Redash", "hour.upstream_requests", "count", "requests, polls included"),
)

CHARTS: Final = (
    Chart(
        "hit-rate",
        "Hit rate",
        "Share of cacheable requests that came from the cache, over the last hour, averaged over three minutes.",
        "share",
        ("100 %", "50 %", "0"),
        4,
        (Line("hit_rate", "area", "from the cache", "hour.hit_rate", "percent"),),
    ),
    Chart(
        "latency",
        "Time to answer",
        "Time within which half (p50) and 99 % (p99) of the requests were answered, over the last hour, "
        "each point from three minutes; each line is ten times the one below it.",
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
        "How many requests were answered, and how many the gateway sent to Redash, over the last hour.",
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
    Column("From cache", "hit_rate", "percent"),
    Column("Runs", "runs"),
    Column("Failed", "failures", "alarm"),
    Column("Mean run", "mean_seconds", "duration"),
    Column("Saved", "saved_seconds", "duration"),
)

SHEETS: Final = (
    Sheet(
        "Running now",
        "Queries that the gateway runs in Redash at this moment, and who waits for them.",
        "running",
        (
            Column("Query", "query", "query"),
            Column("Begun by", "client", "text"),
            Column("State", "state", "text"),
            Column("For", "seconds", "duration"),
            Column("Callers", "callers"),
            Column("Waiting", "waiting"),
        ),
        "Nothing runs in Redash at this moment.",
        "running_count",
        wide=True,
    ),
    Sheet("Busiest queries", "By requests, since the start.", "queries", _QUERY, "No query yet.", "queries_count"),
    Sheet("Slowest queries", "By mean run, since the start.", "slowest", _QUERY, "No query has run yet."),
    Sheet(
        "Clients",
        "By requests, since the start. Refused counts whatever was not answered as asked: rights, limits, errors.",
        "clients",
        (
            Column("Client", "client", "text"),
            Column("Requests", "requests"),
            Column("From cache", "hit_rate", "percent"),
            Column("Refused", "refused", "alarm"),
            Column("Last seen", "seen_seconds", "ago"),
        ),
        "Nobody has asked anything yet.",
        "clients_count",
    ),
    Sheet(
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
    Sheet(
        "Asked of Redash",
        "Requests by route, since the start. An error is no answer, or a status of 500 and above.",
        "upstream",
        (
            Column("Route", "route", "text"),
            Column("Requests", "requests"),
            Column("Errors", "errors", "alarm"),
            Column("Mean", "mean_seconds", "duration"),
        ),
        "Redash has not been asked yet.",
    ),
    Sheet(
        "Slots to Redash",
        "How much may go to Redash at once, and what waits for its turn.",
        "slots",
        (
            Column("For", "name", "text"),
            Column("Taken", "taken"),
            Column("Of", "size"),
            Column("Waiting", "queued", "alarm"),
        ),
        "",
    ),
    Sheet(
        "Store",
        "What is kept, by tier.",
        "cache",
        (
            Column("Tier", "tier", "text"),
            Column("State", "state", "state"),
            Column("Bytes", "bytes", "size"),
            Column("Entries", "entries"),
            Column("Evicted", "evictions"),
        ),
        "",
    ),
    Sheet(
        "Kept warm",
        "Queries that are kept fresh without anybody asking.",
        "warm",
        (
            Column("Entry", "name", "text"),
            Column("State", "state", "state"),
            Column("Every", "every_seconds", "duration"),
            Column("Rounds", "runs"),
            Column("Failed", "failures", "alarm"),
            Column("Put off", "skips"),
        ),
        "The configuration has no [[warm]] entry.",
    ),
)
