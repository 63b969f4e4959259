"""Rate limits of clients: a token bucket for each, kept over a reload that does not change the rate."""

from __future__ import annotations

import math

from gateway import config
from gateway.concurrency.token_bucket import TokenBucket
from gateway.errors import TooManyRequests
from gateway.model import Clock
from gateway.outcome import Outcome, Quota
from gateway.policy.access import Caller
from gateway.policy.configured import Live


class Meter:
    """The token bucket of a client with a rate."""

    __slots__ = ("_bucket", "_monotonic", "_window", "rate")

    def __init__(self, rate: config.Rate, burst: int | None, clock: Clock) -> None:
        self.rate = rate
        self._monotonic = clock.monotonic
        self._window = max(1, math.ceil(rate.per_seconds))
        tokens = float(burst if burst is not None else max(1, rate.count))
        self._bucket = TokenBucket(rate.count / rate.per_seconds, tokens, clock.monotonic())

    def is_like(self, other: Meter) -> bool:
        """Whether `other` has the same rate and burst."""
        return (self._bucket.rate, self._bucket.burst) == (other._bucket.rate, other._bucket.burst)

    def take(self) -> Quota | None:
        """Count one request and return what is left; None, without counting, if nothing was left."""
        now = self._monotonic()
        return self.left(now) if self._bucket.take(now) else None

    def left(self, now: float) -> Quota:
        """Return what is left at `now`."""
        remaining = self._bucket.remaining(now)
        reset = math.ceil((self._bucket.burst - remaining) / self._bucket.rate)
        return Quota(self.rate.count, self._window, remaining, reset)

    def missing(self, now: float) -> float:
        """Return the seconds until the next request is allowed."""
        return self._bucket.seconds_until_token(now)


class Quotas:
    """The meters of all clients that have a rate."""

    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._configuration_changed()
        live.on_change.append(self._configuration_changed)

    def _configuration_changed(self) -> None:
        old, self._meters = self._meters, {}
        for name, client in self._live.settings.clients.items():
            if client.rate is not None:
                meter, before = Meter(client.rate, client.burst, self._clock), old.get(name)
                self._meters[name] = before if before is not None and before.is_like(meter) else meter

    def of(self, client: str) -> Meter | None:
        """Return the client's meter, None if it has no rate."""
        return self._meters.get(client)

    def take(self, caller: Caller, outcome: Outcome) -> None:
        """Count one request of the client and note in `outcome` what is left.

        Raises:
            TooManyRequests: nothing was left; says when to retry.
        """
        meter = self._meters.get(caller.name)
        if meter is None:
            return
        outcome.quota = meter.take()
        if outcome.quota is None:
            now = self._clock.monotonic()
            outcome.quota = meter.left(now)
            text = f"Client '{caller.name}' may send {meter.rate}; wait a little."
            raise TooManyRequests(text, retry_after=meter.missing(now))
