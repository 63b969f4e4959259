"""What a client spends on all gateways together: the place where that is counted, as its user sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Ended(NamedTuple):
    """A run that has ended, and what it has spent. `surely`: it counts even if nothing is reserved for it."""

    run: str
    seconds: float
    surely: bool = False


class Wanted(NamedTuple):
    """A run that is to start, and what is to be reserved for it."""

    run: str
    seconds: float


class Spent(NamedTuple):
    """How it stands after an exchange. Times are those of the place, in seconds."""

    granted: bool
    windows: dict[float, list[tuple[float, float]]]
    """By the length of the window: when how many seconds were spent."""
    open: dict[str, tuple[float, float]]
    """By run: what is reserved, and since when."""


class SpendingSource(Protocol):
    """Where the spending is counted that gateways share. Nothing here raises; all returns within bounded time."""

    @property
    def sharers(self) -> int:
        """How many gateways there are, as last known; at least 1."""

    def now(self) -> float:
        """Return the time there, in seconds."""

    async def exchange(
        self,
        client: str,
        budgets: Sequence[tuple[float, float]],
        ended: Sequence[Ended] = (),
        wanted: Wanted | None = None,
    ) -> Spent | None:
        """Settle, then reserve if it fits into all budgets (seconds, window); None if it cannot be reached."""

    async def owner(self, run: str) -> str | None:
        """Return for which client something is reserved for that run; None if for none, or if it is not known."""
