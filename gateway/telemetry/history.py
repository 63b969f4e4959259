"""The last 24 hours in steps. Pure and bounded: time is an argument, on the monotonic clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, get_args

import msgspec

from gateway.outcome import CacheResult

WIDTHS: Final = (10, 60, 300, 1200)
"""Seconds that a step covers, on each of four levels: 12 minutes in fine steps, 24 hours in coarse ones."""

POINTS: Final = 72
LEAST_POINTS: Final = 6
"""A chart has so many points: at first it covers one minute, then what there is, at most 24 hours."""

STEP_SECONDS: Final = WIDTHS[0]
HOUR_SECONDS: Final = 3600
SMOOTHING: Final = 3
"""Each point of a rate or latency chart covers this many steps: one with few requests says little."""

CACHE: Final[tuple[str, ...]] = get_args(CacheResult)
BOUNDS: Final = tuple(0.0001 * 10 ** (n / 4) for n in range(25))
"""Upper bounds of the latency buckets in seconds: four per decade, from 0.1 ms to 100 s."""


class Counts:
    """Counts of one span of time."""

    __slots__ = (
        "cache",
        "errors",
        "executions",
        "failures",
        "latency",
        "number",
        "reasons",
        "saved",
        "upstream",
        "upstream_errors",
    )

    def __init__(self, number: int = 0) -> None:
        self.number = number  # of the step, counted from the clock's zero
        self.cache = dict.fromkeys(CACHE, 0)
        self.latency = [0] * (len(BOUNDS) + 1)
        self.errors = 0  # responses of 500 and above
        self.reasons: dict[str, int] = {}  # of refusals and errors
        self.saved = 0.0  # seconds of warehouse time
        self.upstream = 0
        self.upstream_errors = 0
        self.executions = 0
        self.failures = 0  # of executions

    def add(self, other: Counts) -> None:
        """Add the counts of another span."""
        for name, count in other.cache.items():
            self.cache[name] += count
        for name, count in other.reasons.items():
            self.reasons[name] = self.reasons.get(name, 0) + count
        self.latency = list(map(int.__add__, self.latency, other.latency))
        self.errors += other.errors
        self.saved += other.saved
        self.upstream += other.upstream
        self.upstream_errors += other.upstream_errors
        self.executions += other.executions
        self.failures += other.failures

    @property
    def refused(self) -> int:
        """How many requests were refused: all that have a reason and are no errors."""
        return sum(self.reasons.values()) - self.errors

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
        made.add(step)
    return made


class Series(msgspec.Struct, frozen=True):
    """The time since the start, at most 24 hours, for charts, oldest first; the last point is not complete yet.

    None: no request then.
    """

    seconds_per_point: int
    current_seconds: float
    """How much of the last point is over."""
    requests: list[int]
    upstream_requests: list[int]
    hit_rate: list[float | None]
    p50_seconds: list[float | None]
    p99_seconds: list[float | None]
    errors: list[int]
    failed_runs: list[int]
    refused: list[int]


class History:
    """The counts of the last 24 hours; a step without records takes no memory."""

    def __init__(self) -> None:
        self._levels: tuple[deque[Counts], ...] = tuple(deque(maxlen=POINTS) for _ in WIDTHS)

    def step(self, now: float) -> Counts:
        """Return the step to count in at `now`; a time before the newest step counts there."""
        finest, number = self._levels[0], int(now // STEP_SECONDS)
        if not finest or finest[-1].number < number:
            if finest:
                self._roll_up(finest[-1])
            finest.append(Counts(number))
        return finest[-1]

    def _roll_up(self, closed: Counts) -> None:
        """Add a step that is over to the coarser levels."""
        for width, steps in zip(WIDTHS[1:], self._levels[1:], strict=True):
            number = closed.number * STEP_SECONDS // width
            if not steps or steps[-1].number < number:
                steps.append(Counts(number))
            steps[-1].add(closed)

    def hour(self, now: float) -> Counts:
        """Return the sum of the last hour."""
        return self.last(HOUR_SECONDS, now)

    def last(self, seconds: float, now: float) -> Counts:
        """Return the sum of the last so many seconds, in whole steps."""
        level = _level(seconds)
        first = int(now // WIDTHS[level]) - int(seconds // WIDTHS[level]) + 1
        return total(step for number, step in self._steps(level).items() if number >= first)

    def _steps(self, level: int) -> dict[int, Counts]:
        """Return the steps of a level by number, with what is being counted now."""
        steps = {step.number: step for step in self._levels[level]}
        if level and self._levels[0]:
            current = self._levels[0][-1]
            number = current.number * STEP_SECONDS // WIDTHS[level]
            steps[number] = total([steps[number], current]) if number in steps else current
        return steps

    def series(self, now: float, started: float) -> Series:
        """Return the time since `started` step by step, in steps that are as fine as the number of points allows."""
        level = _level(now - started + STEP_SECONDS)
        width, known = WIDTHS[level], self._steps(level)
        last, first = int(now // width), int(started // width)
        count = max(LEAST_POINTS, min(POINTS, last - first + 1))
        steps = [known.get(number, _EMPTY) for number in range(last - count + 1, last + 1)]
        smooth = [total(filter(_has_requests, steps[max(0, n - SMOOTHING) : n])) for n in range(1, count + 1)]
        return Series(
            seconds_per_point=width,
            current_seconds=round(now % width, 3),
            requests=[step.requests for step in steps],
            upstream_requests=[step.upstream for step in steps],
            hit_rate=[_rounded(counts.hit_rate()) for counts in smooth],
            p50_seconds=[_rounded(counts.quantile(0.5)) for counts in smooth],
            p99_seconds=[_rounded(counts.quantile(0.99)) for counts in smooth],
            errors=[step.errors for step in steps],
            failed_runs=[step.failures for step in steps],
            refused=[step.refused for step in steps],
        )


def _level(seconds: float) -> int:
    """Return the finest level that covers so many seconds."""
    return next((n for n, width in enumerate(WIDTHS) if seconds <= width * POINTS), len(WIDTHS) - 1)


_EMPTY: Final = Counts()


def _has_requests(counts: Counts) -> bool:
    return counts.requests > 0


def _rounded(value: float | None) -> float | None:
    """Round to four digits: more than a chart shows."""
    return None if value is None else float(f"{value:.4g}")
