"""What is asked of the gateway about a request, and what it says: see `explaining.py`."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from gateway.outcome import MissReason

Decision = Literal["hit", "stale", "collapsed", "miss", "refused", "unknown"]

WHY: Final[dict[MissReason, str]] = {
    "not_stored": "nothing is stored for these values",
    "stale": "what is stored is older than the request accepts",
    "unconfirmed": "Redash has not lately confirmed what is stored as the newest, and the request accepts no age limit",
    "unproven": "what is stored was not proven to be of this query",
    "marker_changed": "the query was edited after the stored result was made",
    "purged": "it was purged",
    "evicted": "it was removed to make room for others",
    "forced": "the request demands a new run (max_age 0)",
    "continued": "the caller had been redirected to the run that it waited for",
}


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """A request to be explained: of which client, for which query, with which values and `max_age`.

    `arguments` are texts as in a URL (without `p_`), `parameters` are values as in the body of a POST; not both.
    """

    client: str
    query: int
    max_age: int | None = None
    arguments: list[tuple[str, str]] | None = None
    parameters: dict[str, object] | None = None


class Bound(msgspec.Struct, frozen=True):
    """A limit on freshness, as it is configured, and the table that it comes from."""

    name: str
    value: str
    origin: str


class Stored(msgspec.Struct, frozen=True):
    """What is stored for the request; `fresh_for_seconds` is negative where it is not fresh any more."""

    result_id: int
    age_seconds: float
    runtime_seconds: float
    bytes: int
    fresh_for_seconds: float | None


class LastMiss(msgspec.Struct, frozen=True):
    """The last request for the same result that was a miss here, by whichever client."""

    why: str
    reason: str
    ago_seconds: float
    client: str
    request_id: str


class Explanation(msgspec.Struct, kw_only=True):
    """What would happen now. Values of parameters, SQL and rows are not shown."""

    decision: Decision
    why: str
    client: str
    query_id: int
    query: str = ""
    credential: str = ""
    credential_why: str = ""
    key: str = ""
    values: list[str] = []
    max_age_seconds: int | None = None
    effective_max_age_seconds: float | None = None
    bounds: list[Bound] = []
    stored: Stored | None = None
    asks_first: list[str] = []
    """What the gateway would ask Redash before it responds."""
    last_miss: LastMiss | None = None

    def decide(self, decision: Decision, why: str) -> None:
        """Note what would happen, and why."""
        self.decision, self.why = decision, why

    def note_miss(self, reason: str, ago_seconds: float, client: str, request_id: str) -> None:
        """Add the last request for the same result that was a miss."""
        why = next((text for name, text in WHY.items() if name == reason), reason)
        self.last_miss = LastMiss(why, reason, ago_seconds, client, request_id)
