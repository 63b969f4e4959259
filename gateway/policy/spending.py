"""What one client spends of its budgets: a run must fit into each. Pure: time is an argument, in unix seconds.

They are those of one clock that is never set, so that slots are the same for all who count, also after a restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from gateway.config.units import Budget
from gateway.policy.budget import BudgetAccount, Reservation

LEAST_SECONDS = 1.0
"""Nobody is sent back sooner."""


class BudgetState(msgspec.Struct, frozen=True):
    """One budget of a client, and what it spends of it, in seconds."""

    budget: Budget
    spent: float
    reserved: float
    resets_in: float
    """In how many seconds all of what is spent now counts no more."""

    @property
    def left(self) -> float:
        """Return what can still be reserved."""
        return max(0.0, self.budget.seconds - self.spent - self.reserved)


class OpenRun(msgspec.Struct, frozen=True):
    """What is reserved for a run that has not ended, and since when."""

    seconds: float
    since: float


class Record(msgspec.Struct, frozen=True):
    """What outlives a process: when how many seconds were spent, by the length of the window, and the open runs."""

    spent: dict[float, list[tuple[float, float]]]
    open: dict[str, OpenRun]


class Spending:
    """The budgets of one client together."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self.accounts = [BudgetAccount(budget) for budget in budgets]
        self.open: dict[str, OpenRun] = {}
        self._reservations: dict[str, list[Reservation]] = {}

    def reserve(self, run: str, now: float, seconds: float) -> bool:
        """Reserve so many seconds for a run, once; False if that is more than is left of one of the budgets."""
        if run not in self.open:
            if self.opens_in(now, seconds) > 0:
                return False
            self._hold(run, OpenRun(seconds, now))
        return True

    def settle(self, run: str, now: float, seconds: float) -> None:
        """Replace what is reserved for a run by what it has really spent; nothing happens if that is done."""
        if self.open.pop(run, None) is not None:
            for account, reservation in zip(self.accounts, self._reservations.pop(run), strict=True):
                account.settle(reservation, now, seconds)

    def opens_in(self, now: float, seconds: float) -> float:
        """Return in how many seconds a run of this length can start; inf if it is longer than a budget.

        Where that takes the end of a run in progress, it is the moment at which the next one should end.
        """
        return max((self._opens_in(account, now, seconds) for account in self.accounts), default=0.0)

    def _opens_in(self, account: BudgetAccount, now: float, seconds: float) -> float:
        opens = account.opens_in(now, seconds)
        if opens < math.inf or seconds > account.budget.seconds:
            return opens
        return max(LEAST_SECONDS, min((run.since + run.seconds for run in self.open.values()), default=now) - now)

    def states(self, now: float) -> list[BudgetState]:
        """Return how each budget stands."""
        return [BudgetState(one.budget, one.spent(now), one.reserved, one.resets_in(now)) for one in self.accounts]

    def record(self) -> Record:
        """Return what outlives this process."""
        return Record({one.budget.per_seconds: one.history() for one in self.accounts}, dict(self.open))

    def restore(self, record: Record, now: float) -> None:
        """Take back what another process has recorded, or this one with other budgets.

        A budget with a time that is new takes what is known: from the next longer time, else from the longest one.
        """
        for account in self.accounts:
            longer = [length for length in record.spent if length >= account.budget.per_seconds]
            history = record.spent[min(longer) if longer else max(record.spent)] if record.spent else []
            account.restore((min(moment, now), seconds) for moment, seconds in history)
        for run, held in record.open.items():
            self._hold(run, held)

    def give_up(self, runs: Iterable[str], now: float) -> None:
        """Count what is reserved for runs that nobody follows any more as spent."""
        for run in list(runs):
            self.settle(run, now, self.open[run].seconds)

    def _hold(self, run: str, held: OpenRun) -> None:
        if run not in self.open:
            self.open[run] = held
            self._reservations[run] = [account.hold(held.seconds) for account in self.accounts]
