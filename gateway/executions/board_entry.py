"""What the response for a whole dashboard says of one widget."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway.body import Body
from gateway.errors import GatewayError

_FAILED: Final = 4
"""Redash's status of a job."""


class Entry(msgspec.Struct, omit_defaults=True):
    """What the response says of a widget, before the response that Redash would give to its request."""

    id: int
    query_id: int | None
    visualization_id: int | None
    status: int
    cache: str = ""
    age: int | None = None
    error: str = ""
    retry_after: int | None = None

    def bare(self) -> Entry:
        """Return an entry for the same widget that says nothing of it yet."""
        return Entry(self.id, self.query_id, self.visualization_id, 200)


class MadeEntry(msgspec.Struct, frozen=True):
    """An entry, and the response that belongs to it."""

    entry: Entry
    body: Body | None


def failure_of(body: Body) -> str:
    """Return why a query failed, "" if it did not: its job says so."""
    if body.data is None or not body.data.startswith(b'{"job":'):
        return ""
    job = msgspec.json.decode(body.data)["job"]
    return str(job["error"]) if job["status"] == _FAILED else ""


def failed(entry: Entry, error: GatewayError) -> Entry:
    """Let an entry say why there is no response."""
    retry_after = error.retry_after
    entry.status, entry.error = error.status, error.detail
    entry.retry_after = None if retry_after is None else math.ceil(retry_after)
    return entry


def pieces(entry: Entry, body: Body | None) -> list[Body]:
    """Return the entry, with Redash's response as its last member."""
    head = msgspec.json.encode(entry)
    if body is None:
        return [Body.of(head)]
    return [Body.of(head[:-1] + b', "response": '), body, Body.of(b"}")]
