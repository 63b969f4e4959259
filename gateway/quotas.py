"""Rates of clients: a bucket for each, kept over a reload that does not change the rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gateway import config
from gateway.access import Caller
from gateway.errors import TooManyRequests
from gateway.limits import Bucket
from gateway.model import Clock
from gateway.outcome import Outcome, Quota


class Quotas:
    """The buckets of all clients that have a rate."""

    def __init__(self, clients: Mapping[str, config.Client], clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[config.Rate, Bucket]] = {}
        self.configure(clients)

    def configure(self, clients: Mapping[str, config.Client]) -> None:
        """Take over the clients of a new configuration."""
        old, self._buckets = self._buckets, {}
        for name, client in clients.items():
            if client.rate is not None:
                bucket = _bucket(client.rate, client.burst, self._clock.monotonic())
                known = old.get(name)
                same = known is not None and (known[1].rate, known[1].burst) == (bucket.rate, bucket.burst)
                self._buckets[name] = known if same and known is not None else (client.rate, bucket)

    def take(self, caller: Caller, outcome: Outcome) -> None:
        """Count one request of the client; `outcome` learns what is left.

        Raises:
            TooManyRequests: nothing was left; says when to come again.
        """
        rate, bucket = self._buckets.get(caller.name, (None, None))
        if rate is None or bucket is None:
            return
        now = self._clock.monotonic()
        missing = bucket.take(now)
        remaining = bucket.remaining(now)
        reset = math.ceil((bucket.burst - remaining) / bucket.rate)
        outcome.quota = Quota(rate.count, max(1, math.ceil(rate.per_seconds)), remaining, reset)
        if missing > 0:
            raise TooManyRequests(f"Client '{caller.name}' may send {rate}; wait a little.", retry_after=missing)


def _bucket(rate: config.Rate, burst: int | None, now: float) -> Bucket:
    return Bucket(rate.count / rate.per_seconds, float(burst if burst is not None else max(1, rate.count)), now)
