"""Token bucket, fair slots, breaker: what keeps callers from Redash, and Redash's troubles from callers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.errors import BreakerOpen, ServiceUnavailable


class Bucket:
    """A token bucket: `burst` at once, `rate` per second in the long run. Time is an argument."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; returns whether there was one."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def missing(self, now: float) -> float:
        """Seconds until there will be a whole token."""
        return max(0.0, (1.0 - min(self.burst, self._tokens + (now - self._at) * self.rate)) / self.rate)

    def remaining(self, now: float) -> int:
        """Whole tokens there are now."""
        return int(min(self.burst, self._tokens + (now - self._at) * self.rate))


class FairSlots:
    """So many at once; those who wait are served by turns of their owners, so that no owner starves another."""

    def __init__(self, size: int, *, timeout: float, queue: int = 10_000) -> None:
        self.size = size
        self.timeout = timeout
        self._queue = queue
        self._taken = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def taken(self) -> int:
        """How many hold a slot."""
        return self._taken

    @property
    def queued(self) -> int:
        """How many wait for one."""
        return sum(len(line) for line in self._waiting.values())

    def free(self) -> bool:
        """Whether the next `hold` would not wait."""
        return self._taken < self.size and not self._waiting

    def hold(self, owner: str) -> Slot:
        """Return what holds a slot while it is entered.

        Raises (on entering):
            ServiceUnavailable: none was free within the timeout, or the queue is full.
        """
        return Slot(self, owner)

    async def take(self, owner: str) -> None:
        """Take a slot, waiting for it if need be; who does must `give` it back."""
        if self.free():
            self._taken += 1
        else:
            await self._wait(owner)

    def give(self) -> None:
        """Give a slot back."""
        self._taken -= 1
        self._wake()

    async def _wait(self, owner: str) -> None:
        if self.queued >= self._queue:
            raise ServiceUnavailable("The gateway's queue for Redash is full; try again soon.", retry_after=5)
        turn = asyncio.get_running_loop().create_future()
        line = self._waiting.setdefault(owner, deque())
        line.append(turn)
        try:
            async with asyncio.timeout(self.timeout):
                await turn
        except TimeoutError:
            self._give_back(turn)
            raise ServiceUnavailable(
                "Redash is busy: no slot became free in time; try again soon.", retry_after=5
            ) from None
        except asyncio.CancelledError:
            self._give_back(turn)
            raise
        finally:
            self._leave(owner, turn)

    def _give_back(self, turn: asyncio.Future[None]) -> None:
        # The slot may have been handed over in the very moment in which the waiter gave up.
        if turn.done() and not turn.cancelled():
            self._taken -= 1
            self._wake()

    def _leave(self, owner: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(owner)
        if line is None:
            return
        if turn in line:
            line.remove(turn)
        if not line:
            del self._waiting[owner]

    def _wake(self) -> None:
        while self._waiting and self._taken < self.size:
            owner, line = next(iter(self._waiting.items()))
            turn = line.popleft()
            del self._waiting[owner]
            if line:
                self._waiting[owner] = line  # to the back: the next turn is another owner's
            if not turn.done():
                self._taken += 1
                turn.set_result(None)


class Slot:
    """One of `FairSlots`, taken on entering and given back on leaving."""

    __slots__ = ("_owner", "_slots")

    def __init__(self, slots: FairSlots, owner: str) -> None:
        self._slots = slots
        self._owner = owner

    async def __aenter__(self) -> None:
        await self._slots.take(self._owner)

    async def __aexit__(self, *_: object) -> None:
        self._slots.give()


class TurnsByText:
    """Lets those in together who bring the same text for a key; another text waits until all of them have left.

    Redash takes some different texts for one another, and joins runs of them (CONTRACT 7): those must not meet there.
    """

    def __init__(self) -> None:
        self._inside: dict[bytes, tuple[bytes, int]] = {}
        self._waiting: dict[bytes, deque[tuple[bytes, asyncio.Future[None]]]] = {}

    def would_wait(self, key: bytes, text: bytes) -> bool:
        """Whether `hold` would have to wait now."""
        inside = self._inside.get(key)
        return inside is not None and (inside[0] != text or bool(self._waiting.get(key)))

    @asynccontextmanager
    async def hold(self, key: bytes, text: bytes) -> AsyncIterator[None]:
        """Be inside with `text`; whoever waits here has a deadline of its own, which is the end of the runs before."""
        if self.would_wait(key, text):
            await self._wait(key, text)
        else:
            self._enter(key, text)
        try:
            yield
        finally:
            self._leave(key)

    async def _wait(self, key: bytes, text: bytes) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append((text, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # let in at the very moment of giving up
                self._leave(key)
            raise

    def _enter(self, key: bytes, text: bytes) -> None:
        self._inside[key] = (text, self._inside.get(key, (text, 0))[1] + 1)

    def _leave(self, key: bytes) -> None:
        text, count = self._inside.pop(key)
        if count > 1:
            self._inside[key] = (text, count - 1)
            return
        line = self._waiting.get(key, deque())
        while line and (key not in self._inside or line[0][0] == self._inside[key][0]):
            text, turn = line.popleft()
            if not turn.done():  # else its waiter has been cancelled
                self._enter(key, text)
                turn.set_result(None)
        if not line:
            self._waiting.pop(key, None)


class Breaker:
    """Opens after so many failures in a row; after a while lets one call through, whose outcome decides."""

    def __init__(self, failures: int, reset: float, monotonic: Callable[[], float]) -> None:
        self.failures = failures
        self.reset = reset
        self._monotonic = monotonic
        self._count = 0
        self._opened_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are refused just now."""
        return self._count >= self.failures and self._monotonic() - self._opened_at < self.reset

    def check(self) -> None:
        """Let the call pass or refuse it.

        Raises:
            BreakerOpen: with the seconds to wait.
        """
        if self._count < self.failures:
            return
        left = self.reset - (self._monotonic() - self._opened_at)
        if left > 0:
            raise BreakerOpen("Redash has just failed several times in a row; try again soon.", retry_after=left)
        self._opened_at = self._monotonic()  # this call is the probe; the others wait for its outcome

    def succeeded(self) -> None:
        """Redash answered, whatever it said."""
        self._count = 0

    def failed(self) -> None:
        """Redash could not be reached, hung, or a proxy before it said 502-504."""
        self._count += 1
        if self._count >= self.failures:
            self._opened_at = self._monotonic()
