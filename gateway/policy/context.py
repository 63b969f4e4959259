"""One admitted request and all that belongs to it: the one value that is passed along the way."""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

from gateway.errors import Forbidden, ServiceUnavailable, Unauthorized
from gateway.model import Entry, Key, Request, ReuseTerms
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Access, Caller, Credential
from gateway.policy.configured import Configured
from gateway.redash.matching import Match

LEAST_SECONDS: Final = 5.0
"""So long every request may wait for Redash, also where nobody is to wait for runs (`max_wait` of less)."""

_RESPONDING_SECONDS: Final = 1.0
"""So much of that time, but at most a tenth, is kept for the response after the last wait."""

_MOST_DIGITS: Final = 9
"""Of a number: three decades in seconds are longer than any `max_wait`."""

_WAIT: Final = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d++)\"?\s*(?:[;,]|$)", re.IGNORECASE)


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
    def patience(self) -> float:
        """Return for how many seconds the request may wait for Redash, in all its steps together."""
        return max(self.configured.settings.server.max_wait, LEAST_SECONDS)

    @property
    def until(self) -> float:
        """Return until when (monotonic) it may wait for what it can do without."""
        patience = self.patience
        return self.outcome.started + patience - min(_RESPONDING_SECONDS, patience / 10)

    def until_run(self, seconds: float) -> float:
        """Return until when (monotonic) it may wait for a run, if it is to wait so many seconds in all."""
        return min(self.outcome.started + seconds, self.until)

    @property
    def sender(self) -> Sender:
        """Return the sender on whose behalf Redash is called."""
        return self.outcome.sender

    def check_delivery(self, now: Configured) -> None:
        """Judge by the configuration in force whether a response may begin that was made under the one of admission.

        Raises:
            ServiceUnavailable: the client has lost a right since then; the new configuration judges the next request.
        """
        caller = now.access.callers.get(self.caller.name)
        if now is self.configured or self.match.route.kind == "ping":
            return
        if caller is not None and caller.keeps_rights_of(self.caller) and self._scopes_stay(now.access, caller):
            return
        changed = "The configuration of this client changed while the request was in progress"
        if self.match.route.kind == "write":
            raise ServiceUnavailable(f"{changed}; the change in Redash may have been made.")
        raise ServiceUnavailable(f"{changed}; send it again.", retry_after=1)

    def check_continues(self, now: Configured, wall: float) -> None:
        """Judge by the configuration in force whether more may follow in a response that began some time ago.

        Raises:
            ServiceUnavailable: as `check_delivery`.
            Unauthorized: the token has expired since then, or was removed.
        """
        self.check_delivery(now)
        if not now.access.still_admits(self.outcome.client, self.outcome.token_sha256, wall):
            raise Unauthorized("The token is not valid any more.")

    def _scopes_stay(self, access: Access, caller: Caller) -> bool:
        """Whether the client still has the credentials that this response may have come from."""
        if self.match.route.kind in ("result", "job", "cancel", "board") or self.caller.settings.dashboards:
            return self.configured.access.scopes(self.caller) <= access.scopes(caller)
        chosen = access.credential(caller, self.match)
        return self.chosen is None or (chosen is not None and chosen.scope == self.chosen.scope)

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
    return min(int(found[1].lstrip("0")[:_MOST_DIGITS] or "0"), math.floor(max_wait)) if found else None
