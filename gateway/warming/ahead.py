"""Refresh ahead: which popular results are renewed just before they expire, within a budget. Pure: time is an argument.

A pair is renewed if somebody has asked for it since its last renewal and its result is about to be too old for them.
The seconds that its last run took are reserved at the start; nothing starts when the budget does not have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from gateway import config
from gateway.config.units import Budget
from gateway.model import Entry, Key
from gateway.policy.budget import BudgetAccount, Reservation
from gateway.policy.plan import Plan
from gateway.warming.demand import Demand, Pair, moved

Peek = Callable[[Key], Entry | None]

RANK_SECONDS: Final = 30.0
"""So often it is looked up anew what is popular."""

_LEAD_SECONDS: Final = 2.0
_LEAD_RUNTIMES: Final = 1.25
"""A renewal starts so long before the result expires, but never in the first half of its life."""

MOST_KEPT: Final = 2_000
"""Pairs that survive a restart."""


class AheadStats(msgspec.Struct):
    """What it did and saved, since the configuration was loaded."""

    renewed: int = 0
    failed: int = 0
    over_budget: int = 0
    """Renewals that were due, but for which the budget had no room."""
    seconds: float = 0.0
    """Of work in Redash."""
    saved_waits: int = 0
    """Requests that got a renewed result where the earlier one would have been too old."""
    saved_seconds: float = 0.0
    """How long these would have waited for a run, by its runtime."""

    @classmethod
    def together(cls, all_of_them: Iterable[AheadStats]) -> AheadStats:
        """Return the sum."""
        added = list(all_of_them)
        return cls(**{name: sum(getattr(one, name) for one in added) for name in cls.__struct_fields__})


class Saved(msgspec.Struct, frozen=True):
    """What survives a restart, and what gateways that share a store learn of each other. Moments count from now."""

    pairs: tuple[Pair, ...] = ()
    spent: tuple[tuple[float, float], ...] = ()


class RefreshAhead:
    """One `[[warm]]` entry with `popular`: what is asked for in its scope, and what it may spend."""

    def __init__(self, entry: config.Warm, scope: str) -> None:
        self.entry = entry
        self.scope = scope
        self.stats = AheadStats()
        self.demand = Demand(entry.within or 0.0)
        self.account = BudgetAccount(entry.budget or Budget(0.0, 1.0))
        self._running: set[Key] = set()
        self._over: set[Key] = set()
        self._best: list[Pair] = []
        self._ranked = -math.inf

    def note(self, plan: Plan, now: float) -> None:
        """Note what a caller asks for, before it is looked up."""
        if plan.credential.scope == self.scope:
            self.demand.note(plan, now)

    def count(self, keys: Mapping[Key, int], came: float, peek: Peek) -> None:
        """Count requests that came at `came` or later."""
        for pair in self.demand.count(keys, came):
            if came >= pair.would_expire:
                pair.would_expire = math.inf
                entry = peek(pair.key)
                self.stats.saved_waits += 1
                self.stats.saved_seconds += entry.runtime if entry is not None else 0.0

    def popular(self, now: float) -> list[Pair]:
        """Return the pairs that are asked for most."""
        if now - self._ranked >= RANK_SECONDS:
            self._best, self._ranked = self.demand.most_asked(self.entry.popular or 0, now), now
        return self._best

    def due(self, now: float, minute: int, peek: Peek) -> Iterator[Pair]:
        """Yield what is to be renewed now, the most popular first. `minute` is that of the day, where the hours are."""
        if self.entry.quiet is not None and self.entry.quiet.covers(minute):
            return
        for pair in self.popular(now):
            entry = peek(pair.key)
            if entry is not None and self._is_due(pair, entry, now):
                yield pair

    def _is_due(self, pair: Pair, entry: Entry, now: float) -> bool:
        if pair.key in self._running or pair.last_request <= pair.renewed:
            return False
        lead = min(_LEAD_RUNTIMES * entry.runtime + _LEAD_SECONDS, pair.bound / 2)
        return pair.bound - entry.age(now) <= lead

    def begin(self, pair: Pair, entry: Entry, now: float) -> Reservation | None:
        """Reserve what the last run took, and note that a renewal starts; None if the budget has no room for it."""
        reservation = self.account.reserve(now, entry.runtime)
        if reservation is None:
            if pair.key not in self._over:  # once for each renewal that is left out
                self._over.add(pair.key)
                self.stats.over_budget += 1
            return None
        self._over.discard(pair.key)
        self._running.add(pair.key)
        pair.renewed = now
        pair.would_expire = now + max(0.0, pair.bound - entry.age(now))
        return reservation

    def end(self, pair: Pair, reservation: Reservation, now: float, seconds: float, *, renewed: bool) -> None:
        """Note the end of a renewal, and the seconds that it took in Redash."""
        self._running.discard(pair.key)
        self.account.settle(reservation, now, seconds)
        self.stats.seconds += seconds
        if renewed:
            self.stats.renewed += 1
        else:
            self.stats.failed += 1
            pair.would_expire = math.inf

    def saved(self, now: float) -> Saved:
        """Return what survives a restart."""
        spent = self.account.history()
        if self.account.reserved:  # a process that is killed never settles
            spent.append((now, self.account.reserved))
        best = self.demand.most_asked(MOST_KEPT, now)
        return Saved(tuple(moved(pair, -now) for pair in best), tuple((at - now, taken) for at, taken in spent))

    def restore(self, saved: Saved, at: float) -> None:
        """Take back what was saved at that moment (monotonic); pairs that are known here already stay."""
        for pair in reversed(saved.pairs):
            if self.demand.get(pair.key) is None:
                self.demand.put(moved(pair, at))
        self.account = BudgetAccount(self.account.budget)
        self.account.restore((at + moment, seconds) for moment, seconds in saved.spent)

    def merge(self, others: Mapping[str, tuple[Saved, float]]) -> None:
        """Add what other gateways were asked for, by their names, with the moments at which they saved it."""
        self.demand.clear_elsewhere()
        for name, (saved, at) in others.items():
            for pair in saved.pairs:
                self.demand.merge(name, moved(pair, at), at)
