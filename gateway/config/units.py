"""Parsers for durations, sizes, rates and dates. Pure; a ValueError says what to write instead."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time

import msgspec

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_LONGEST_SECONDS = 100 * 366 * 86400.0
"""Longer than any use, and short enough for the event loop's timers."""

_LONGEST_WAIT_SECONDS = 3600.0
"""Nobody waits longer for one request, start or stop."""

_FLOOR_KEYS = frozenset({"runtimes", "at_least", "at_most"})
_MOST_RUNTIMES = 1e6

_SIZE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_LARGEST_BYTES = 2**62

_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)", re.ASCII)
_RATE = re.compile(r"([0-9]{1,9}) ?/ ?([smhd])", re.ASCII)
_QUIET = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_BUDGET = re.compile(r"([^/]+?) ?/ ?([smhdw])", re.ASCII)


class Rate(msgspec.Struct, frozen=True):
    """`count` requests in every `per_seconds`."""

    count: int
    per_seconds: float

    def __str__(self) -> str:
        units = {seconds: unit for unit, seconds in _DURATION_UNITS.items()}
        return f"{self.count}/{units.get(self.per_seconds, f'{self.per_seconds:g}s')}"


class Budget(msgspec.Struct, frozen=True):
    """`seconds` of work in Redash in any `per_seconds`."""

    seconds: float
    per_seconds: float

    @property
    def per(self) -> str:
        """Return the unit of its time, as it is written."""
        return _short(self.per_seconds).removeprefix("1")

    def __str__(self) -> str:
        return f"{_short(self.seconds)}/{self.per}"


class RuntimeFloor(msgspec.Struct, frozen=True):
    """A floor of so many `runtimes` of the query's last run, but not less than `at_least` nor more than `at_most`."""

    runtimes: float
    at_least: float = 0.0
    at_most: float = math.inf

    def seconds(self, runtime: float) -> float:
        """Return the floor after a run of so many seconds; 0 where that is not known."""
        return min(max(self.runtimes * runtime, self.at_least), self.at_most)

    def __str__(self) -> str:
        most = "" if self.at_most == math.inf else f", at most {_short(self.at_most)}"
        return f"{self.runtimes:g} runtimes, at least {_short(self.at_least)}{most}"


class Quiet(msgspec.Struct, frozen=True):
    """The hours of a day in which nothing is done, as minutes of the day; they may go over midnight."""

    begin: int
    end: int

    def covers(self, minute: int) -> bool:
        """Whether this minute of the day is one of them."""
        if self.begin <= self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def __str__(self) -> str:
        return f"{_clock(self.begin)}-{_clock(self.end)}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _short(seconds: float) -> str:
    """Write a duration with the largest unit that gives a whole number."""
    units = sorted(_DURATION_UNITS.items(), key=lambda unit: -unit[1])
    name, size = next(((name, size) for name, size in units if seconds % size == 0), ("s", 1.0))
    return f"{seconds / size:g}{name}"


def duration(value: object) -> float:
    """Parse seconds from "500ms", "50s", "10m", "2h", "1d", "1w", or from a plain number of seconds."""
    seconds = _plain_number(value)
    if seconds is None:
        seconds = _with_unit(value, _DURATION_UNITS)
    if seconds is None or not math.isfinite(seconds):
        raise ValueError('is not a duration; write for example "500ms", "50s", "10m", "2h" or "1d"')
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise ValueError("is out of range; a duration is between 0 and a hundred years")
    return seconds


def positive_duration(value: object) -> float:
    """Parse a duration that must not be zero."""
    seconds = duration(value)
    if seconds < 0.001:
        raise ValueError("is too short; write at least 1ms")
    return seconds


def wait(value: object) -> float:
    """Parse a duration for which somebody waits."""
    seconds = duration(value)
    if seconds > _LONGEST_WAIT_SECONDS:
        raise ValueError("is longer than anybody should wait; write at most 1h")
    return seconds


def positive_wait(value: object) -> float:
    """Parse a duration for which somebody waits, and that must not be zero."""
    return min(wait(value), positive_duration(value))


def size(value: object) -> int:
    """Parse bytes from "64MB" (10**6 each), "64MiB" (2**20 each), or from a plain whole number of bytes."""
    number = _plain_number(value) if isinstance(value, int) else _with_unit(value, _SIZE_UNITS)
    if number is None:
        raise ValueError('is not a size; write for example "512KB", "64MB", "4GB" or "256MiB"')
    if not 1 <= number <= _LARGEST_BYTES:
        raise ValueError("is out of range; a size is at least one byte")
    return int(number)


def rate(value: object) -> Rate:
    """Parse a rate such as "50/s", "100/m", "1000/h" or "5000/d"."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError('is not a rate; write for example "50/s" or "100/m"')
    return Rate(int(match[1]), _DURATION_UNITS[match[2]])


def budget(value: object) -> Budget:
    """Parse a budget such as "10m/h" or "2h/d"."""
    match = _BUDGET.fullmatch(value) if isinstance(value, str) and len(value) <= 100 else None
    seconds = _with_unit(match[1], _DURATION_UNITS) if match else None
    if match is None or seconds is None or not 0.001 <= seconds <= _LONGEST_SECONDS:
        raise ValueError('is not a budget; write for example "10m/h" or "2h/d": seconds of work within a time')
    return Budget(seconds, _DURATION_UNITS[match[2]])


def floor(value: object) -> float | RuntimeFloor:
    """Parse a floor: a duration, or { runtimes = 10, at_least = "30s", at_most = "1h" }."""
    if not isinstance(value, dict):
        return duration(value)
    if value.keys() - _FLOOR_KEYS:
        raise ValueError("has an unknown key; it may have runtimes, at_least and at_most")
    runtimes = value.get("runtimes")
    if isinstance(runtimes, bool) or not isinstance(runtimes, int | float) or not 0 < runtimes <= _MOST_RUNTIMES:
        raise ValueError("has no usable runtimes; write { runtimes = 10 }: a number above 0, of times the last runtime")
    least, most = (duration(value[name]) if name in value else None for name in ("at_least", "at_most"))
    made = RuntimeFloor(float(runtimes), least or 0.0, math.inf if most is None else most)
    if made.at_least > made.at_most:
        raise ValueError("has an at_least above its at_most")
    return made


def quiet(value: object) -> Quiet:
    """Parse hours such as "22:00-06:00"."""
    match = _QUIET.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('is not a time of quiet; write for example "22:00-06:00"')
    begin, end = (int(match[hour]) * 60 + int(match[hour + 1]) for hour in (1, 3))
    if begin == end:
        raise ValueError("begins when it ends; to do nothing at all, leave the table out")
    return Quiet(begin, end)


def expiry(value: object) -> float:
    """Parse unix seconds from a TOML date (the end of that day in UTC) or a datetime (UTC if it has no offset)."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time(tzinfo=UTC)).timestamp() + 86400.0
    raise ValueError("is not a date; write 2027-06-30 or 2027-06-30T12:00:00Z, without quotes")


def _plain_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > _LARGEST_BYTES:
        return math.copysign(_LARGEST_BYTES * 2.0, value)  # out of any range, without overflowing a float
    return value


def _with_unit(value: object, units: dict[str, float] | dict[str, int]) -> float | None:
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        return None
    return float(match[1]) * factor
