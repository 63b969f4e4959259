"""What can be purged, as operators and clients name it: `{"query": 42}`, `{"data_source": 1}`, `{"tag": "sales"}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.errors import BadRequest
from gateway.model import Definition
from gateway.redash.json_text import load_strict_json

NAMED: Final = '{"query": 42}, {"data_source": 1}, {"tag": "sales"}'
LONGEST_TAG: Final = 200
MOST_ID: Final = 2**53


class Purge(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The results of one query, of all queries of a data source, or of all with a tag: one of the three is set.

    None of them is set where an operator purges a whole scope, or everything.
    """

    query: int | None = None
    data_source: int | None = None
    tag: str | None = None

    def covers(self, definition: Definition) -> bool:
        """Whether it is meant for the results of this query."""
        return (
            definition.query_id == self.query
            or (self.data_source is not None and definition.data_source_id == self.data_source)
            or self.tag in definition.tags
        )


NewData = tuple[str | None, Purge]
"""In which scope (None: in all) a client or an operator has said what is out of date."""


def purge_of(what: Mapping[str, object]) -> Purge | None:
    """Return what is to be purged; None if it is none of these."""
    match dict(what):
        case {"query": int(query), **rest} if not rest and _is_id(query):
            return Purge(query=query)
        case {"data_source": int(source), **rest} if not rest and _is_id(source):
            return Purge(data_source=source)
        case {"tag": str(tag), **rest} if not rest and 0 < len(tag) <= LONGEST_TAG:
            return Purge(tag=tag)
    return None


def parse_purge(body: bytes) -> Purge:
    """Parse the body of a client's request.

    Raises:
        BadRequest: it names nothing, several, or what cannot be.
    """
    try:
        what = load_strict_json(body)
    except ValueError:
        what = None
    purge = purge_of(what) if isinstance(what, dict) else None
    if purge is None:
        raise BadRequest(f"Send one of {NAMED}.")
    return purge


def _is_id(value: int) -> bool:
    """Whether it can be an id: neither a boolean nor beyond what stores hold."""
    return not isinstance(value, bool) and 0 < value < MOST_ID
