"""How many connections callers may hold, so that file descriptors remain for operators, Redash and the store."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Collection
from typing import Final, Protocol

from gateway.http.problems import problem
from gateway.telemetry.health import TransitionLog

IDLE_ENOUGH_SECONDS: Final = 1.0
"""Younger ones are not closed in favour of others: their first request may be on its way."""

LOOK_SECONDS: Final = 1.0
_FOUND_AT_ONCE: Final = 1_000

_BODY: Final = problem(503, "Service unavailable", "Too many connections; try again soon.", "-")
TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class Connection(Protocol):
    """One connection of a caller."""

    def idle_seconds(self) -> float:
        """Return for how long it has had no request; negative while it has one."""

    def abort(self) -> None:
        """Close it at once, as it is idle."""

    def refuse(self) -> None:
        """Respond that there are too many connections (503), and close it."""


class ConnectionLimit:
    """Makes room for a new connection by closing the one that is idle longest; without one, refuses the new one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._idle: list[Connection] = []  # found by the last look at all, the longest idle one last
        self._look_again = -math.inf  # not before this moment
        self._detail = f"at most {most}"
        self._full = TransitionLog(
            "callers hold all connections that the limit of file descriptors allows (ulimit -n, LimitNOFILE); idle "
            "ones are closed early, and new ones are refused where none is idle",
            "there is room for new connections again",
        )

    def admit(self, new: Connection, connections: Collection[Connection]) -> None:
        """Let a new connection in, or refuse it. `connections` are all, with it and those that are closing."""
        full = len(connections) > self.most
        self._full.record(bad=full, detail=self._detail)
        if full and not self._make_room(new, connections):
            new.refuse()

    def _make_room(self, new: Connection, connections: Collection[Connection]) -> bool:
        """Close the connection that is idle longest; returns whether there was one.

        Looking at all of them takes milliseconds, so it is done for many new ones together, and at most once a second
        while nearly all are busy.
        """
        if not self._idle and time.monotonic() >= self._look_again:
            found = heapq.nlargest(_FOUND_AT_ONCE, connections, key=lambda one: one.idle_seconds())
            self._idle = found[::-1]
        while self._idle:
            one = self._idle.pop()
            if one is not new and one.idle_seconds() >= IDLE_ENOUGH_SECONDS:
                one.abort()
                return True
        self._look_again = time.monotonic() + LOOK_SECONDS
        return False
