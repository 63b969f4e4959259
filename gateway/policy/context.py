"""One admitted request with its meaning: what every part of the way is handed."""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

from gateway.model import Entry, Key, Request, Ticket
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Caller
from gateway.redash.matching import Match

_WAIT: Final = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:[;,]|$)", re.IGNORECASE)


class RequestContext(msgspec.Struct, frozen=True):
    """Who asks, for what, on which route; and the outcome that is filled in along the way."""

    request: Request
    caller: Caller
    match: Match
    sender: Sender
    outcome: Outcome

    @property
    def wait(self) -> int | None:
        """Return the seconds of `Prefer: wait=N` (RFC 7240), None without one."""
        found = _WAIT.search(self.request.headers.get("Prefer", ""))
        return int(found[1]) if found else None

    def ticket(
        self, key: Key, entry: Entry, query_id: int, good_until: float, wall: float, now: float
    ) -> Ticket | None:
        """Return what it takes to give this answer again, None where it is no hit.

        `query_id` is the query whose definition was judged; the entry may have been stored for another, or for none.
        """
        if self.outcome.cache != "hit":
            return None
        expires = self.caller.settings.expires
        expires = math.inf if expires is None else now + expires - wall
        return Ticket(key, entry, query_id, min(good_until, expires))
