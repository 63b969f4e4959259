"""Columns of tables that several pages show. Pure."""

from __future__ import annotations

from typing import Final

import msgspec


class Column(msgspec.Struct, frozen=True):
    """One column of a table; `field` is its name in the rows. The first column is the heading of each row."""

    title: str
    field: str
    form: str = "count"


QUERY: Final = (
    Column("Query", "query", "query"),
    Column("Requests", "requests"),
    Column("Without a run", "hit_rate", "percent"),
    Column("Runs", "runs"),
    Column("Failed", "failures", "alarm"),
    Column("Mean in Redash", "mean_seconds", "duration"),
    Column("Saved", "saved_seconds", "duration"),
)

CLIENT: Final = (
    Column("Client", "client", "text"),
    Column("Requests", "requests"),
    Column("Without a run", "hit_rate", "percent"),
    Column("Refused", "refused", "alarm"),
    Column("Errors", "errors", "alarm"),
    Column("Rate", "rate", "text"),
    Column("Left now", "remaining"),
    Column("Budget", "budget", "text"),
    Column("Budget left", "budget_left", "duration"),
    Column("Tokens expire", "expires", "expiry"),
    Column("Last seen", "seen_seconds", "ago"),
)

INCIDENT: Final = (
    Column("Time", "at", "moment"),
    Column("Cause", "meaning", "cause"),
    Column("Status", "status"),
    Column("Query", "query", "query"),
    Column("Client", "client", "text"),
    Column("Took", "seconds", "duration"),
    Column("Request", "request_id", "code"),
)

SLOW: Final = (
    Column("Time", "at", "moment"),
    Column("Took", "seconds", "duration"),
    Column("In Redash", "upstream_seconds", "duration"),
    Column("Query", "query", "query"),
    Column("Client", "client", "text"),
    Column("Cause", "meaning", "cause"),
    Column("Request", "request_id", "code"),
)
