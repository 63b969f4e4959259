"""Switches that make the sandbox fail, to test the software in front of it. Each may be limited to a route
template, a method and a number of requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

KINDS = frozenset(
    [
        "latency",
        "hang",
        "reset_before_headers",
        "reset_after_headers",
        "reset_in_body",
        "truncate",
        "stall",
        "stall_then_reset",
        "html",
        "garbage",
        "status",
        "unhealthy",
        "lose_jobs",
        "reject_keys",
    ]
)

_LASTING = frozenset({"hang", "stall", "stall_then_reset"})


@dataclass
class Fault:
    """`route` is a template as in the counters, e.g. "/api/jobs/<job_id>"; None means every route. `count` is how many
    more requests it affects, None means no end; `hits` is how many it has affected. `seconds` is the delay of
    `latency`, and the `Retry-After` of `status`. `chunked` sends a stalling response without its length, like a proxy
    that compresses. `unhealthy` is what Redash sends while its own database or Redis is unavailable (CONTRACT 25)."""

    kind: str
    route: str | None = None
    method: str | None = None
    count: int | None = None
    seconds: float = 0.0
    status: int = 503
    chunked: bool = False
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def affects(self, method: str, route: str) -> bool:
        """Whether it affects a request to this route."""
        fits = self.route in (None, route) and self.method in (None, method)
        return fits and self.count != 0 and not self.released.is_set()

    def use(self) -> None:
        """Counts one affected request."""
        self.hits += 1
        if self.count is not None:
            self.count -= 1

    def clear(self) -> None:
        """Ends it; hanging and stalling requests continue."""
        self.released.set()

    release = clear

    def as_json(self) -> dict[str, Any]:
        """For the control route."""
        shown = ("kind", "route", "method", "count", "seconds", "status", "chunked", "hits")
        return {name: getattr(self, name) for name in shown}


class Faults:
    """`clock_skew`: seconds added to now, and so to Date and retrieved_at."""

    def __init__(self) -> None:
        self._active: list[Fault] = []
        self.clock_skew = 0.0

    def add(
        self,
        kind: str,
        *,
        route: str | None = None,
        method: str | None = None,
        count: int | None = None,
        seconds: float = 0.0,
        status: int = 503,
        chunked: bool = False,
    ) -> Fault:
        """Raises ValueError for an unknown kind."""
        if kind not in KINDS:
            raise ValueError(f"unknown fault {kind!r}; known: {', '.join(sorted(KINDS))}")
        fault = Fault(kind, route, method, count, seconds, status, chunked)
        self._active.append(fault)
        return fault

    def clear(self, kind: str | None = None) -> None:
        """Ends all faults of a kind, or all faults and the clock skew."""
        for fault in self._active:
            if kind in (None, fault.kind):
                fault.clear()
        self._active = [fault for fault in self._active if not fault.released.is_set()]
        if kind is None:
            self.clock_skew = 0.0

    def take(self, method: str, route: str) -> list[Fault]:
        """The faults that affect this request; counts them as used."""
        taken = [fault for fault in self._active if fault.affects(method, route)]
        for fault in taken:
            fault.use()
        self._active = [fault for fault in self._active if fault.count != 0 or fault.kind in _LASTING]
        return taken

    def as_json(self) -> dict[str, Any]:
        """For the control route."""
        return {"clock_skew": self.clock_skew, "faults": [fault.as_json() for fault in self._active]}
