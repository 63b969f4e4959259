"""What callers ask for: which saved queries with which values, how often, how fresh. Bounded. No I/O and no clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.model import Key
from gateway.policy.plan import Plan
from gateway.redash.footprint import footprint
from gateway.redash.parameters import is_raw_sql
from gateway.redash.requests import Execute

LIMIT_BYTES: Final = 4 * 10**6
_SLOTS: Final = 24
"""A time is counted in this many parts: what was asked before it counts up to 1/24 longer."""

_OVERHEAD_BYTES: Final = 2_500
"""Of one pair with all its counts."""


class Pair(msgspec.Struct, kw_only=True):
    """A query and its values. Times are monotonic seconds."""

    key: Key
    query_id: int
    parameters: dict[str, object]
    auto_limit: bool | None
    marker: str
    raw_sql: bool
    """Whether the query, as this marker has it, takes text that becomes SQL: then its callers may send some."""
    bound: float
    """The smallest effective max_age that was asked for since the last renewal."""
    counts: dict[float, int] = {}
    """How often it was asked for, by the beginning of each part of the time."""
    elsewhere: dict[str, int] = {}
    """How often other gateways were asked for it within the time, by their names."""
    last_request: float = -math.inf
    """When it was asked for last."""
    renewed: float = -math.inf
    """When its last renewal was started."""
    would_expire: float = math.inf
    """Until when its last result would have served, had it not been renewed; inf once that was counted."""
    size: int = 0


class Demand:
    """The pairs of one scope that were asked for within a time; the least recently asked ones give way."""

    def __init__(self, within: float, limit_bytes: int = LIMIT_BYTES) -> None:
        self._slot = within / _SLOTS
        self._within = within
        self._limit = limit_bytes
        self._bytes = 0
        self._pairs: dict[Key, Pair] = {}  # the least recently asked first

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def bytes(self) -> int:
        """What they take in memory, about."""
        return self._bytes

    def get(self, key: Key) -> Pair | None:
        """Return the pair with this key."""
        return self._pairs.get(key)

    def note(self, plan: Plan, now: float) -> None:
        """Note what a caller asks for; how often is counted by `count`.

        What accepts any age or forces a run gains nothing. A query whose schedule is followed is left to Redash.
        """
        operation = plan.operation
        if not isinstance(operation, Execute) or operation.refresh or plan.definition is None:
            return
        if plan.max_age is None or plan.max_age <= 0 or plan.standing is not None:
            if plan.standing is not None:
                self.remove(plan.key)
            return
        pair = self._pairs.pop(plan.key, None)
        if pair is None:
            pair = self._new(plan, operation, plan.max_age)
        pair.bound = plan.max_age if pair.last_request <= pair.renewed else min(pair.bound, plan.max_age)
        if pair.marker != plan.marker:
            pair.marker, pair.raw_sql = plan.marker, is_raw_sql(plan.definition)
        pair.last_request = now
        self.put(pair)

    def _new(self, plan: Plan, operation: Execute, bound: float) -> Pair:
        return Pair(
            key=plan.key,
            query_id=operation.query_id,
            parameters=operation.parameters,
            auto_limit=operation.auto_limit,
            marker="",
            raw_sql=False,
            bound=bound,
            size=footprint(operation.parameters) + _OVERHEAD_BYTES,
        )

    def put(self, pair: Pair) -> None:
        """Add a pair as the most recently asked one."""
        self.remove(pair.key)
        self._pairs[pair.key] = pair
        self._bytes += pair.size
        while self._bytes > self._limit:
            self.remove(next(iter(self._pairs)))

    def remove(self, key: Key) -> None:
        """Remove a pair, if it is there."""
        if (pair := self._pairs.pop(key, None)) is not None:
            self._bytes -= pair.size

    def count(self, keys: Mapping[Key, int], came: float) -> list[Pair]:
        """Count requests for known pairs that came at `came` or later; return these pairs."""
        slot, found = math.floor(came / self._slot) * self._slot, []
        for key, times in keys.items():
            if (pair := self._pairs.get(key)) is not None:
                pair.counts = {at: count for at, count in pair.counts.items() if self._counts(at, came)}
                pair.counts[slot] = pair.counts.get(slot, 0) + times
                pair.last_request = max(pair.last_request, came)
                found.append(pair)
        return found

    def times(self, pair: Pair, now: float) -> int:
        """Return how often a pair was asked for within the time."""
        return sum(count for at, count in pair.counts.items() if self._counts(at, now)) + sum(pair.elsewhere.values())

    def clear_elsewhere(self) -> None:
        """Drop what other gateways were asked for: it is about to be merged anew."""
        for pair in self._pairs.values():
            pair.elsewhere = {}

    def merge(self, gateway: str, other: Pair, now: float) -> None:
        """Add what another gateway was asked for."""
        times = self.times(msgspec.structs.replace(other, elsewhere={}), now)
        pair = self._pairs.get(other.key)
        if pair is None:
            pair = msgspec.structs.replace(other, counts={}, elsewhere={}, renewed=-math.inf, would_expire=math.inf)
            self.put(pair)
        elif other.last_request > pair.renewed:
            pair.bound = other.bound if pair.last_request <= pair.renewed else min(pair.bound, other.bound)
        pair.elsewhere[gateway] = times
        pair.last_request = max(pair.last_request, other.last_request)

    def _counts(self, at: float, now: float) -> bool:
        return at > now - self._within - self._slot

    def most_asked(self, most: int, now: float) -> list[Pair]:
        """Return the pairs that were asked for most within the time, the first one most often."""
        requests = (
            (self.times(pair, now), pair.last_request, number) for number, pair in enumerate(self._pairs.values())
        )
        best = heapq.nlargest(most, (item for item in requests if item[0] > 0))
        pairs = list(self._pairs.values())
        return [pairs[number] for _, _, number in best]


def moved(pair: Pair, seconds: float) -> Pair:
    """Return a copy with its moments on another clock, which is so many seconds ahead."""
    return msgspec.structs.replace(
        pair,
        counts={at + seconds: count for at, count in pair.counts.items()},
        last_request=pair.last_request + seconds,
        renewed=pair.renewed + seconds,
        would_expire=pair.would_expire + seconds,
    )
