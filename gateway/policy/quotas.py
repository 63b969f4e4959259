"""Rate limits of clients: a token bucket for each, kept over a reload that does not change the rate.

With a store that several gateways share, the buckets are shared, too, unless `redis.rates` says otherwise.
"""

from __future__ import annotations

import math
from typing import NoReturn

from gateway import config
from gateway.concurrency.leased_bucket import LeasedBucket, TokenSource
from gateway.concurrency.token_bucket import TokenBucket
from gateway.errors import TooManyRequests
from gateway.model import Clock
from gateway.outcome import Outcome, Quota
from gateway.policy.access import Caller
from gateway.policy.configured import Live


class Meter:
    """The token bucket of a client with a rate."""

    __slots__ = ("_bucket", "_monotonic", "_window", "rate")

    def __init__(self, client: str, rate: config.Rate, burst: int | None, clock: Clock, tokens: TokenSource | None):
        self.rate = rate
        self._monotonic = clock.monotonic
        self._window = max(1, math.ceil(rate.per_seconds))
        size = float(burst if burst is not None else max(1, rate.count))
        per_second = rate.count / rate.per_seconds
        self._bucket: TokenBucket | LeasedBucket
        if tokens is None:
            self._bucket = TokenBucket(per_second, size, clock.monotonic())
        else:  # another rate is another bucket, as in one gateway
            self._bucket = LeasedBucket(f"{client}:{rate}:{size:g}", per_second, size, tokens, clock.monotonic)

    def is_like(self, other: Meter) -> bool:
        """Whether `other` has the same rate and burst, and is shared if this one is."""
        mine, its = self._bucket, other._bucket
        return (type(mine), mine.rate, mine.burst) == (type(its), its.rate, its.burst)

    def take(self) -> Quota | None:
        """Count one request and return what is left; None, without counting, if nothing was left."""
        now = self._monotonic()
        return self.left(now) if self._bucket.take(now) else None

    @property
    def to_ask(self) -> LeasedBucket | None:
        """Return the bucket if nothing is left here, but it is shared, and there may be something where it is."""
        bucket = self._bucket
        return bucket if isinstance(bucket, LeasedBucket) and bucket.may_fetch(self._monotonic()) else None

    def left(self, now: float) -> Quota:
        """Return what is left at `now`."""
        remaining = self._bucket.remaining(now)
        reset = math.ceil((self._bucket.burst - remaining) / self._bucket.rate)
        return Quota(self.rate.count, self._window, remaining, reset)

    def missing(self, now: float) -> float:
        """Return the seconds until the next request is allowed."""
        return self._bucket.seconds_until_token(now)


class TokensNeeded(Exception):  # noqa: N818 - no error: admission goes on when the bucket has been asked
    """A request must wait for what the shared bucket of its client says. Hits from memory mostly need not."""

    def __init__(self, bucket: LeasedBucket) -> None:
        super().__init__()
        self.bucket = bucket


class Quotas:
    """The meters of all clients that have a rate."""

    def __init__(self, live: Live, clock: Clock, tokens: TokenSource | None = None) -> None:
        """`tokens`: where buckets are that all gateways share, if there is such a place."""
        self._live = live
        self._clock = clock
        self._tokens = tokens
        self._meters: dict[str, Meter] = {}
        self._configuration_changed()
        live.on_change.append(self._configuration_changed)

    def _configuration_changed(self) -> None:
        old, self._meters = self._meters, {}
        tokens = self._tokens if self._live.settings.redis.rates == "shared" else None
        for name, client in self._live.settings.clients.items():
            if client.rate is not None:
                meter, before = Meter(name, client.rate, client.burst, self._clock, tokens), old.get(name)
                self._meters[name] = before if before is not None and before.is_like(meter) else meter

    def of(self, client: str) -> Meter | None:
        """Return the client's meter, None if it has no rate."""
        return self._meters.get(client)

    def take(self, caller: Caller, outcome: Outcome) -> None:
        """Count one request of the client, unless it is counted, and note in `outcome` what is left.

        Raises:
            TooManyRequests: nothing was left; says when to retry.
            TokensNeeded: the shared bucket must be asked; call `settle` with what it said, then this again.
        """
        meter = self._meters.get(caller.name)
        if meter is None or outcome.quota is not None:
            return
        outcome.quota = meter.take()
        if outcome.quota is None:
            if (bucket := meter.to_ask) is not None:
                raise TokensNeeded(bucket)
            self._refuse(caller.name, meter, outcome)

    def settle(self, outcome: Outcome, *, counted: bool) -> None:
        """Note whether the shared bucket had a token for the request of this outcome.

        Raises:
            TooManyRequests: it had none; says when to retry.
        """
        meter = self._meters.get(outcome.client)
        if meter is None:  # a reload has taken the rate away meanwhile
            return
        if not counted:
            self._refuse(outcome.client, meter, outcome)
        outcome.quota = meter.left(self._clock.monotonic())

    def _refuse(self, client: str, meter: Meter, outcome: Outcome) -> NoReturn:
        now = self._clock.monotonic()
        outcome.quota = meter.left(now)
        text = f"Client '{client}' may send {meter.rate}; wait a little."
        raise TooManyRequests(text, retry_after=meter.missing(now))
