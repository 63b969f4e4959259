"""A token bucket that several processes share. Each takes tokens out of it in small portions, ahead of their use, so
that most uses cost no round trip. Where the bucket is, and how it fills, is the source's matter."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from gateway.concurrency.token_bucket import TokenBucket

PORTIONS: Final = 4
"""All sharers together hold at most one in so many tokens of a full bucket, but each may hold one token."""

IDLE_SECONDS: Final = 1.0
"""A portion that was not used for so long, or for up to twice so long, is given back."""


class Granted(NamedTuple):
    """What came of an exchange: whole tokens, and the level of the bucket without them."""

    tokens: int
    level: float


class TokenSource(Protocol):
    """Where the shared buckets are."""

    @property
    def up(self) -> bool:
        """Whether they can be reached. If not, each sharer has its part of rate and burst for itself."""

    @property
    def sharers(self) -> int:
        """How many processes take from them, this one included, as far as known; at least 1."""

    async def exchange(
        self, name: str, rate: float, burst: float, *, want: int, back: int, at_most: float | None
    ) -> Granted | None:
        """Give `back` tokens to the bucket `name`, then take up to `want`; None if it cannot be reached.

        A bucket that is not there yet is full. With `at_most`, what it holds is reduced to that first. Never raises,
        and returns within bounded time.
        """


class LeasedBucket:
    """The part of a shared bucket that this process holds; used in the same way as a `TokenBucket`."""

    def __init__(
        self, name: str, rate: float, burst: float, source: TokenSource, monotonic: Callable[[], float]
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._name = name
        self._source = source
        self._monotonic = monotonic
        self._tokens = 0
        self._low = 0  # with so few, the next ones are fetched
        self._level, self._level_at = burst, monotonic()
        self._empty_until = self._level_at
        self._alone: TokenBucket | None = None
        self._at_most: float | None = None
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._exchanging: asyncio.Task[None] | None = None
        self._used = False
        self._idle: asyncio.TimerHandle | None = None

    def take(self, now: float) -> bool:
        """Take one token of those that are here; returns whether there was one."""
        if self._source.up == (self._alone is not None):
            self._switch(now)
        if self._alone is not None:
            return self._alone.take(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self._used = True
        if self._tokens <= self._low and now >= self._empty_until:
            self._exchange_soon()
        return True

    def may_fetch(self, now: float) -> bool:
        """Whether the shared bucket may have a token, as far as known, while there is none here."""
        return self._alone is None and self._tokens < 1 and now >= self._empty_until

    async def fetch(self) -> bool:
        """Take one token out of the shared bucket; returns whether there was one. All who wait share a round trip."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._exchange_soon()
        return await waiter

    def seconds_until_token(self, now: float) -> float:
        """Return the seconds until there may be a token."""
        if self._alone is not None:
            return self._alone.seconds_until_token(now)
        return 0.0 if self._tokens else max(0.0, self._empty_until - now)

    def remaining(self, now: float) -> int:
        """Return the number of whole tokens now, with those of the shared bucket as far as known."""
        if self._alone is not None:
            return self._alone.remaining(now)
        return min(int(self.burst), self._tokens + int(self._level_now(now)))

    def _level_now(self, now: float) -> float:
        return min(self.burst, self._level + (now - self._level_at) * self.rate)

    def _switch(self, now: float) -> None:
        """Go on alone with a part of rate and burst, because the source cannot be reached; or share again.

        What was used alone counts: the shared bucket is reduced to what all had left if all had used as much.
        """
        sharers = self._source.sharers
        if self._alone is None:
            burst = max(1.0, self.burst / sharers)
            level = min(burst, self._tokens + self._level_now(now) / sharers)
            self._alone = TokenBucket(self.rate / sharers, burst, now, level)
        else:
            self._at_most = min(self.burst, self._alone.level(now) * sharers)
            self._level, self._level_at = self._at_most, now
            self._alone = None
        self._tokens, self._empty_until = 0, now

    def _exchange_soon(self) -> None:
        if self._exchanging is None:
            self._exchanging = asyncio.get_running_loop().create_task(self._exchange())

    async def _exchange(self) -> None:
        """Take a portion, and a token for each who waits, until nobody waits any more."""
        try:
            while True:
                waiting = len(self._waiting)
                portion = max(1, int(self.burst) // (PORTIONS * self._source.sharers))
                want, self._low = min(int(self.burst), waiting + max(0, portion - self._tokens)), portion // 2
                if not self._serve(waiting, want, await self._ask(want, 0)):
                    return
        finally:
            self._exchanging = None
            self._distribute(len(self._waiting))

    async def _ask(self, want: int, back: int) -> Granted | None:
        at_most, self._at_most = self._at_most, None
        return await self._source.exchange(self._name, self.rate, self.burst, want=want, back=back, at_most=at_most)

    def _serve(self, waiting: int, want: int, granted: Granted | None) -> bool:
        """Answer the first so many who wait, and all if there is no more; returns whether others wait."""
        now = self._monotonic()
        if granted is None:
            if self._alone is None:
                self._switch(now)
            return False
        self._tokens += granted.tokens
        self._level, self._level_at = granted.level, now
        self._watch()
        if granted.tokens < want:
            self._empty_until = now + max(0.0, 1.0 - granted.level) / self.rate
            return False
        self._distribute(waiting)
        return bool(self._waiting)

    def _distribute(self, count: int) -> None:
        """Give the first so many who wait a token each, as long as there are some."""
        now = self._monotonic()
        for _ in range(count):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(self._take_here(now))

    def _take_here(self, now: float) -> bool:
        if self._alone is not None:
            return self._alone.take(now)
        had, self._tokens = self._tokens > 0, max(0, self._tokens - 1)
        self._used |= had
        return had

    def _watch(self) -> None:
        """Give the tokens back when they are not used for a while."""
        if self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._give_idle)

    def _give_idle(self) -> None:
        self._idle = None
        if self._used:
            self._used = False
            self._watch()
        elif self._tokens and self._exchanging is None:
            back, self._tokens = self._tokens, 0
            self._exchanging = asyncio.get_running_loop().create_task(self._give(back))

    async def _give(self, back: int) -> None:
        try:
            if (granted := await self._ask(0, back)) is not None:
                self._level, self._level_at = granted.level, self._monotonic()
        finally:
            self._exchanging = None
            if self._waiting:
                self._exchange_soon()
