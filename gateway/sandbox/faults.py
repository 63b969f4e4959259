"""Switches that make the sandbox misbehave, for tests of what stands in front of it. Each may be limited to a route
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
        "lose_jobs",
        "reject_keys",
    ]
)

_LASTING = frozenset({"hang", "stall", "stall_then_reset"})


@dataclass
class Fault:
    """`route` is a template as in the counters, e.g. "/api/jobs/<job_id>"; None means every one. `count` is how many
    more requests it is for, None without end; `hits` how many it was for. `chunked` sends a stalling answer without
    its length, as a proxy does that compresses."""

    kind: str
    route: str | None = None
    method: str | None = None
    count: int | None = None
    seconds: float = 0.0
    status: int = 503
    chunked: bool = False
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def concerns(self, method: str, route: str) -> bool:
        """Whether a request to this route meets it."""
        fits = self.route in (None, route) and self.method in (None, method)
        return fits and self.count != 0 and not self.released.is_set()

    def use(self) -> None:
        """Counts it as met once."""
        self.hits += 1
        if self.count is not None:
            self.count -= 1

    def clear(self) -> None:
        """Ends it; requests that hang are answered, those that stall go on."""
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
        """Ends all faults of a kind, or everything, clock skew included."""
        for fault in self._active:
            if kind in (None, fault.kind):
                fault.clear()
        self._active = [fault for fault in self._active if not fault.released.is_set()]
        if kind is None:
            self.clock_skew = 0.0

    def take(self, method: str, route: str) -> list[Fault]:
        """The faults this request meets, counted as used."""
        met = [fault for fault in self._active if fault.concerns(method, route)]
        for fault in met:
            fault.use()
        self._active = [fault for fault in self._active if fault.count != 0 or fault.kind in _LASTING]
        return met

    def as_json(self) -> dict[str, Any]:
        """For the control route."""
        return {"clock_skew": self.clock_skew, "faults": [fault.as_json() for fault in self._active]}
