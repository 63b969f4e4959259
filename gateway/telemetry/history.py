"""The last hour in steps of one minute. Pure and bounded: time is an argument, on the monotonic clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, get_args

import msgspec

from gateway.outcome import CacheResult

STEP_SECONDS: Final = 60
STEPS: Final = 60
SMOOTHING: Final = 3
"""Each point of a rate or latency chart covers this many steps: one minute with few requests says little."""

CACHE: Final[tuple[str, ...]] = get_args(CacheResult)
BOUNDS: Final = tuple(0.0001 * 10 ** (n / 4) for n in range(25))
"""Upper bounds of the latency buckets in seconds: four per decade, from 0.1 ms to 100 s."""


class Counts:
    """Counts of one span of time."""

    __slots__ = ("cache", "executions", "failures", "latency", "number", "saved", "upstream", "upstream_errors")

    def __init__(self, number: int = 0) -> None:
        self.number = number  # of the step, counted from the clock's zero
        self.cache = dict.fromkeys(CACHE, 0)
        self.latency = [0] * (len(BOUNDS) + 1)
        self.saved = 0.0  # seconds of warehouse time
        self.upstream = 0
        self.upstream_errors = 0
        self.executions = 0
        self.failures = 0  # of executions

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return sum(self.cache.values())

    def hit_rate(self) -> float | None:
        """Return the share of `without_run` in `lookups`; None without lookups."""
        return rate(without_run(self.cache), lookups(self.cache))

    def quantile(self, q: float) -> float | None:
        """Return the seconds within which a share `q` of the requests was answered; None without requests."""
        return quantile(self.latency, q)


def without_run(cache: dict[str, int]) -> int:
    """Count the requests that were answered without a run of their own: from the store, or with another caller's."""
    return cache["hit"] + cache["stale"] + cache["collapsed"]


def lookups(cache: dict[str, int]) -> int:
    """Count the cacheable requests: no writes, job polls, rejected requests, or responses that are never stored."""
    return cache["hit"] + cache["stale"] + cache["miss"] + cache["collapsed"]


def rate(part: float, whole: float) -> float | None:
    """Return `part / whole`, None where there is no whole."""
    return part / whole if whole else None


def quantile(counts: Sequence[int], q: float) -> float | None:
    """Estimate a quantile from buckets; interpolation within a bucket is geometric, as its bounds are."""
    wanted, passed = q * sum(counts), 0
    for place, count in enumerate(counts):
        if count and passed + count >= wanted:
            upper = BOUNDS[min(place, len(BOUNDS) - 1)]
            lower = BOUNDS[place - 1] if 0 < place < len(BOUNDS) else upper if place else upper / 10
            return float(lower * (upper / lower) ** ((wanted - passed) / count))
        passed += count
    return None


def total(steps: Iterable[Counts]) -> Counts:
    """Return the sum of several spans of time."""
    made = Counts()
    for step in steps:
        for name, count in step.cache.items():
            made.cache[name] += count
        made.latency = list(map(int.__add__, made.latency, step.latency))
        made.saved += step.saved
        made.upstream += step.upstream
        made.upstream_errors += step.upstream_errors
        made.executions += step.executions
        made.failures += step.failures
    return made


class Series(msgspec.Struct, frozen=True):
    """The last hour for charts, oldest first; the last point is not complete yet. None: no request then."""

    seconds_per_point: int
    requests: list[int]
    upstream_requests: list[int]
    hit_rate: list[float | None]
    p50_seconds: list[float | None]
    p99_seconds: list[float | None]


class History:
    """The counts of the last hour; a minute without records takes no memory."""

    def __init__(self) -> None:
        self._steps: deque[Counts] = deque(maxlen=STEPS)

    def step(self, now: float) -> Counts:
        """Return the step to count in at `now`; a time before the newest step counts there."""
        number = int(now // STEP_SECONDS)
        if not self._steps or self._steps[-1].number < number:
            self._steps.append(Counts(number))
        return self._steps[-1]

    def hour(self, now: float) -> Counts:
        """Return the sum of the last hour."""
        return self.last(STEPS, now)

    def last(self, steps: int, now: float) -> Counts:
        """Return the sum of the last so many steps."""
        first = int(now // STEP_SECONDS) - steps + 1
        return total(step for step in self._steps if step.number >= first)

    def series(self, now: float) -> Series:
        """Return the last hour step by step."""
        last = int(now // STEP_SECONDS)
        known = {step.number: step for step in self._steps}
        steps = [known.get(number, _EMPTY) for number in range(last - STEPS + 1, last + 1)]
        smooth = [total(filter(_has_requests, steps[max(0, n - SMOOTHING) : n])) for n in range(1, STEPS + 1)]
        return Series(
            seconds_per_point=STEP_SECONDS,
            requests=[step.requests for step in steps],
            upstream_requests=[step.upstream for step in steps],
            hit_rate=[_rounded(counts.hit_rate()) for counts in smooth],
            p50_seconds=[_rounded(counts.quantile(0.5)) for counts in smooth],
            p99_seconds=[_rounded(counts.quantile(0.99)) for counts in smooth],
        )


_EMPTY: Final = Counts()


def _has_requests(counts: Counts) -> bool:
    return counts.requests > 0


def _rounded(value: float | None) -> float | None:
    """Round to four digits: more than a chart shows."""
    return None if value is None else float(f"{value:.4g}")
