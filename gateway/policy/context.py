"""One admitted request and all that belongs to it: the one value that is passed along the way."""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

from gateway.errors import Forbidden
from gateway.model import Entry, Key, Request, ReuseTerms
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Caller, Credential
from gateway.policy.configured import Configured
from gateway.redash.matching import Match

_WAIT: Final = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:[;,]|$)", re.IGNORECASE)


class RequestContext(msgspec.Struct, frozen=True):
    """The request, its route, client and configuration; and the outcome, which is filled in on the way."""

    request: Request
    match: Match
    caller: Caller
    outcome: Outcome
    configured: Configured
    """The configuration in force when the request was admitted."""
    wall: float
    """Unix seconds when it was admitted; dynamic dates refer to this moment."""
    chosen: Credential | None
    """The credential for Redash, None where no credential of the client can be used."""
    wait: int | None = None
    """The honoured seconds of `Prefer: wait=N`, None without one."""

    @property
    def credential(self) -> Credential:
        """Return the credential for Redash.

        Raises:
            Forbidden: no credential of the client can.
        """
        if self.chosen is None:
            raise Forbidden(f"None of the credentials of client '{self.caller.name}' can do this in Redash.")
        return self.chosen

    @property
    def sender(self) -> Sender:
        """Return the sender on whose behalf Redash is called."""
        return self.outcome.sender

    def reuse(
        self, key: Key, entry: Entry, query_id: int, good_until: float, wall: float, now: float
    ) -> ReuseTerms | None:
        """Return the terms under which this response may be reused, None if it is not a hit.

        `query_id` is the query whose definition was checked; the entry may have been stored for another, or for none.
        """
        if self.outcome.cache != "hit":
            return None
        expires = self.caller.settings.expires
        expires = math.inf if expires is None else now + expires - wall
        return ReuseTerms(key, entry, query_id, min(good_until, expires))


def honoured_wait(request: Request, max_wait: float) -> int | None:
    """Return the seconds of `Prefer: wait=N` (RFC 7240), at most `max_wait`; None without one."""
    given = request.headers.get("Prefer")
    found = _WAIT.search(given) if given is not None else None
    return min(int(found[1]), math.floor(max_wait)) if found else None
