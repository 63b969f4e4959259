"""How many connections callers may hold, so that file descriptors remain for operators, Redash and the store."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol, runtime_checkable

from gateway.http.problems import problem
from gateway.telemetry.health import TransitionLog

IDLE_ENOUGH_SECONDS: Final = 1.0
"""Younger ones are not closed in favour of others: their first request may be on its way."""

_BODY: Final = problem(503, "Service unavailable", "Too many connections; try again soon.", "-")
TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


@runtime_checkable
class Connection(Protocol):
    """One connection of a caller."""

    @property
    def is_open(self) -> bool:
        """Whether it is not closing."""

    def idle_seconds(self) -> float:
        """Return for how long it has had no request; negative while it has one, or once it is closing."""

    def close(self) -> None:
        """Close it, as it is idle."""

    def refuse(self) -> None:
        """Respond that there are too many connections (503), and close it."""


class ConnectionLimit:
    """Makes room for a new connection by closing the one that is idle longest; without one, refuses the new one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._detail = f"at most {most}"
        self._full = TransitionLog(
            "callers hold all connections that the limit of file descriptors allows (ulimit -n, LimitNOFILE); idle "
            "ones are closed early, and new ones are refused where none is idle",
            "there is room for new connections again",
        )

    def admit(self, new: Connection, connections: Collection[object]) -> None:
        """Let a new connection in, or refuse it. `connections` are all, with it and those that are closing."""
        full = len(connections) > self.most and _open(connections) > self.most
        self._full.record(bad=full, detail=self._detail)
        if not full:
            return
        others = [other for other in connections if other is not new and isinstance(other, Connection)]
        oldest = max(others, key=lambda other: other.idle_seconds(), default=None)
        if oldest is not None and oldest.idle_seconds() >= IDLE_ENOUGH_SECONDS:
            oldest.close()
        else:
            new.refuse()


def _open(connections: Collection[object]) -> int:
    return sum(isinstance(one, Connection) and one.is_open for one in connections)
