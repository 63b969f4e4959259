"""How a run stands among the gateways: whether this one leads it, and what its followers have asked the leader."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping

from gateway.concurrency.events import Event
from gateway.model import UNASKED
from gateway.store import Lease, LeaseLostError
from gateway.store.local_leases import LOCAL

Ranges = tuple[tuple[int, int], ...]


class Standing:
    """Of one execution. Callers of this gateway need rows from some moment on; a follower asks the leader for them."""

    def __init__(self) -> None:
        self.lease: Lease = LOCAL
        self.fence = 0
        """The number of the lease under which its record was written last, as far as this gateway knows."""
        self.follows = False
        """Another gateway leads the run."""
        self.joins = False
        """It has asked for the lease, and may be about to follow a run that it does not know yet."""
        self.inherits = False
        """Another process has led it before, or leads it."""
        self.led = False
        """This gateway has led it, and no other since, as far as it knows."""
        self.is_apart = False
        """The lease of its key is another run's: what it brings is for its own callers only."""
        self.follow_up = ""
        """The id of the later run that its leader has begun."""
        self.heard: Ranges = ()
        """The asks that its leader knew of when it began that run."""
        self.changed = Event()  # wakes the follower: there is news, or a caller that needs newer rows
        self.has_news = False
        self.hears_of = ""
        """The id of the run whose news it gets: that which it follows, or waits for."""
        self.noted = Event()  # wakes those who wait for their ask to be noted
        self.settled = Event()  # it is known whether this gateway leads
        self.asking = -math.inf
        """From which moment on rows are asked for just now: callers that come meanwhile do not count."""
        self.own: dict[int, float] = {}  # all asks of this gateway for this run, by number, whoever led it
        self.handed_over: set[str] = set()
        """The jobs that were recorded under the lease: whoever leads the run later has provided for them."""
        self.asks: list[tuple[float, int]] = []  # from which moment (monotonic) rows were asked for, and the number

    @property
    def needs(self) -> Mapping[int, float]:
        """From which moment (monotonic) on rows were asked for, by the number of the ask; here, too."""
        return {**self.lease.needs, **self.own}

    @property
    def covered(self) -> float:
        """Return the latest moment that was asked for."""
        return self.asks[-1][0] if self.asks else -math.inf

    @property
    def is_unsettled(self) -> bool:
        """Whether another gateway may lead it by now, and this one has not yet heard which."""
        if self.follows or self.is_apart:
            return False
        return self.lease.is_lost or (self.inherits and not self.lease.number)

    @property
    def is_unled(self) -> bool:
        """Whether it has yet to ask for the lease, or waits for the end of another run; a caller of another gateway
        may let that one lead it meanwhile."""
        return self.lease is LOCAL and not (self.follows or self.inherits or self.is_apart)

    @property
    def written_under(self) -> int:
        """Return the number of the lease under which its record is written now.

        It is 0 for a follower, and where another gateway has led the run, but the lease could not be asked for: it may
        be led there still.
        """
        alone = self.inherits and not self.lease.number and not self.is_apart
        return 0 if self.follows or alone else self.fence

    def note_ask(self, number: int) -> None:
        """Note the number under which the leader was asked for rows."""
        if self.asking > self.covered:
            self.asks.append((self.asking, number))
            self.own[number] = self.asking

    def lacks(self, need: float) -> bool:
        """Whether the leader is yet to be asked for rows from that moment on."""
        return self.follows and need > self.covered

    def ask_for(self, need: float) -> int:
        """Return the number of an ask for rows from that moment on: 0 if none is needed, `UNASKED` if there is none."""
        if need == -math.inf or not self.follows:
            return 0
        place = bisect.bisect_left(self.asks, (need, 0))
        return self.asks[place][1] if place < len(self.asks) else UNASKED

    def is_provided_for(self, need: float) -> bool:
        """Whether the leader has begun a follow-up, and knew of callers with this need."""
        heard = (moment for number, moment in self.own.items() if is_within(number, self.heard))
        return bool(self.follow_up) and need <= max(heard, default=-math.inf)

    def served_from(self, served: Ranges) -> float:
        """Return the latest moment that was asked for with an ask that is served."""
        return max((need for number, need in self.own.items() if is_within(number, served)), default=-math.inf)

    def news(self) -> None:
        """Let a follower see how far the run is."""
        self.has_news = True
        self.changed.wake()

    def lead(self, lease: Lease) -> None:
        """This gateway leads from now on."""
        self.lease, self.follows, self.is_apart = lease, False, False
        self.settle()
        self.noted.wake()

    def settle(self) -> None:
        """It is known now whether this gateway leads."""
        self.joins = False
        self.settled.set()

    async def confirm(self) -> None:
        """Make sure that a POST may be sent now.

        Raises:
            LeaseLostError: another gateway has the lease, or another run.
        """
        if self.is_apart:
            raise LeaseLostError
        await self.lease.confirm()

    def lead_no_more(self) -> None:
        """The lease was lost."""
        self.lease, self.inherits, self.is_apart = LOCAL, True, False

    def follow(self) -> None:
        """Another gateway leads."""
        self.lease, self.follows, self.inherits, self.is_apart = LOCAL, True, True, False
        self.led = False
        self.asks.clear()

    def be_follower(self) -> None:
        """The run has ended before this gateway could lead it."""
        self.lease, self.follows = LOCAL, True

    def go_apart(self) -> None:
        """The lease of its key is another run's, but this one goes on in Redash."""
        self.lead(LOCAL)
        self.is_apart = True

    def begin_anew(self) -> None:
        """There is nothing to follow any more."""
        self.follows = self.inherits = self.led = self.has_news = False
        self.fence = 0
        self.asks.clear()
        self.own.clear()
        self.handed_over.clear()


def is_within(number: int, ranges: Ranges) -> bool:
    """Whether a number is in one of the ranges."""
    return any(first <= number <= last for first, last in ranges)


def served_by(needs: Mapping[int, float], rows_from: float) -> Ranges:
    """Return the asks, by number, that rows from that moment on serve."""
    return ranges_of(number for number, need in needs.items() if need <= rows_from)


def ranges_of(numbers: Iterable[int]) -> Ranges:
    """Return numbers as ranges, ends included."""
    made: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if made and made[-1][1] == number - 1:
            made[-1] = (made[-1][0], number)
        else:
            made.append((number, number))
    return tuple(made)
