"""Requests and runs worth a look: recent failures, recent refusals, and the slowest of the last hour. Bounded."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.outcome import ExecutionEnd, Outcome
from gateway.telemetry.history import HOUR_SECONDS

MOST_INCIDENTS: Final = 100
"""Of each kind; each takes less than 1 KB."""

SLOW_SECONDS: Final = 0.25
"""Quicker requests are not slow."""

LONGEST_ID: Final = 64
"""A request id may come from the caller."""


class Incident(msgspec.Struct, frozen=True):
    """One request, or one run, with what is needed to find it in the log. Nothing that the caller sent but its id."""

    ended: float  # monotonic
    request_id: str
    client: str
    route: str  # the template; "run" for a run
    query_id: int | None
    status: int
    cause: str  # the reason of an error, or why it was a miss
    seconds: float
    upstream_seconds: float = 0.0
    execution_id: str = ""


def of_request(outcome: Outcome) -> Incident:
    """Return the incident of one request."""
    return Incident(
        ended=outcome.ended,
        request_id=outcome.request_id[:LONGEST_ID],
        client=outcome.client,
        route=outcome.route,
        query_id=outcome.query_id,
        status=outcome.status,
        cause=outcome.reason or outcome.miss or outcome.counted,
        seconds=outcome.duration,
        upstream_seconds=outcome.redash_seconds,
        execution_id=outcome.execution_id,
    )


def of_run(end: ExecutionEnd, now: float) -> Incident:
    """Return the incident of one run."""
    return Incident(
        ended=now,
        request_id=end.request_id[:LONGEST_ID],
        client=end.client,
        route="run",
        query_id=end.query_id,
        status=0,
        cause=end.cause,
        seconds=end.seconds,
        execution_id=end.id,
    )


class Slowest:
    """The slowest requests of the last hour, quickest first."""

    def __init__(self) -> None:
        self._kept: list[Incident] = []
        self.floor = SLOW_SECONDS
        """A request must have taken longer to be kept."""

    def add(self, incident: Incident) -> None:
        """Keep a request that took longer than `floor`; the quickest gives way."""
        insort(self._kept, incident, key=lambda one: one.seconds)
        if len(self._kept) > MOST_INCIDENTS:
            del self._kept[0]
        self._set_floor()

    def expire(self, now: float) -> None:
        """Drop what is older than an hour."""
        if self._kept:
            self._kept = [one for one in self._kept if now - one.ended <= HOUR_SECONDS]
            self._set_floor()

    def _set_floor(self) -> None:
        self.floor = self._kept[0].seconds if len(self._kept) >= MOST_INCIDENTS else SLOW_SECONDS

    def list(self) -> list[Incident]:
        """Return them, slowest first."""
        return self._kept[::-1]


class Incidents:
    """What the console shows of single requests and runs."""

    def __init__(self) -> None:
        self.failures: deque[Incident] = deque(maxlen=MOST_INCIDENTS)
        self.refusals: deque[Incident] = deque(maxlen=MOST_INCIDENTS)
        self.slowest = Slowest()

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Keep the requests that failed, were refused or were slow; most are none of these."""
        floor = self.slowest.floor
        for outcome in outcomes:
            if outcome.reason:
                (self.failures if outcome.status >= 500 else self.refusals).append(of_request(outcome))
            elif outcome.duration > floor:
                self.slowest.add(of_request(outcome))
