"""How much work in Redash is spent within a time that moves along. Pure: time is an argument, in seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from gateway.config.units import Budget

_SLOTS: Final = 120
"""Spent seconds are kept by slots of the window, so that the account has a bound: they count up to 1/120 longer."""

_EXACT: Final = 1e-6
"""Sums of fractions of seconds are not more exact than this."""


class Reservation:
    """Seconds that a run in progress is expected to take."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class BudgetAccount:
    """What was spent of one budget, and what runs in progress will probably spend.

    Who starts a run reserves the seconds that its last run took, and settles when it has ended, however it ended.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._slot = budget.per_seconds / _SLOTS
        self._spent: deque[list[float]] = deque()  # [number of the slot, seconds], the oldest first
        self._reserved: set[Reservation] = set()

    def reserve(self, now: float, seconds: float) -> Reservation | None:
        """Reserve so many seconds; None if with them more would be spent or reserved than the budget allows."""
        if not self._fits(self.spent(now) + self.reserved, seconds):
            return None
        return self.hold(seconds)

    def hold(self, seconds: float) -> Reservation:
        """Reserve so many seconds for a run that is in progress already, whatever is left."""
        reservation = Reservation(seconds)
        self._reserved.add(reservation)
        return reservation

    def settle(self, reservation: Reservation, now: float, seconds: float) -> None:
        """Replace a reservation by what was really spent; nothing happens if it is settled already."""
        if reservation in self._reserved:
            self._reserved.remove(reservation)
            self.spend(now, seconds)

    def spend(self, now: float, seconds: float) -> None:
        """Add seconds that were spent without a reservation, or before a restart (then `now` is that moment)."""
        number = math.floor(now / self._slot)
        if seconds <= 0:
            return
        if self._spent and self._spent[-1][0] >= number:
            self._spent[-1][1] += seconds
        else:
            self._spent.append([number, seconds])
        while len(self._spent) > _SLOTS + 2:
            self._spent.popleft()

    def spent(self, now: float) -> float:
        """Return the seconds spent within the time of the budget."""
        while self._spent and self._over(self._spent[0][0]) <= now:
            self._spent.popleft()
        return sum(seconds for _, seconds in self._spent)

    @property
    def reserved(self) -> float:
        """Return the seconds that runs in progress will probably take."""
        return sum(reservation.seconds for reservation in self._reserved)

    def left(self, now: float) -> float:
        """Return the seconds that can still be reserved; never negative."""
        return max(0.0, self.budget.seconds - self.spent(now) - self.reserved)

    def resets_in(self, now: float) -> float:
        """Return in how many seconds nothing counts any more of what is spent now."""
        return self._over(self._spent[-1][0]) - now if self.spent(now) else 0.0

    def opens_in(self, now: float, seconds: float) -> float:
        """Return in how many seconds so many can be reserved, if nothing else is spent and no run in progress ends.

        inf if it takes the end of a run, or is more than the whole budget.
        """
        taken = self.spent(now) + self.reserved
        if self._fits(taken, seconds):
            return 0.0
        for number, spent in self._spent:
            taken -= spent
            if self._fits(taken, seconds):
                return max(0.0, self._over(number) - now)
        return math.inf

    def _fits(self, taken: float, seconds: float) -> bool:
        most = self.budget.seconds
        return taken < most - _EXACT and taken + seconds <= most + _EXACT

    def history(self) -> list[tuple[float, float]]:
        """Return when how many seconds were spent, for a restart: `spend` takes them back in this order."""
        return [((number + 0.5) * self._slot, seconds) for number, seconds in self._spent]

    def restore(self, history: Iterable[tuple[float, float]]) -> None:
        """Take back what `history` returned; its moments may be those of another clock, moved to this one."""
        for moment, seconds in sorted(history):
            self.spend(moment, seconds)

    def _over(self, number: float) -> float:
        """Return when the seconds of a slot do not count any more: when its end is out of the window."""
        return (number + 1) * self._slot + self.budget.per_seconds
