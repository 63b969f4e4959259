"""When Redash refreshes a query by its schedule, and how long a result stands in until then. Pure; all times are UTC.

Redash keeps `{"interval", "time", "day_of_week", "until"}` with the query; until version 5 a text: seconds, or a time
of the day. A result is due an `interval` after it was made; with a time, that counts from the last such moment before.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from gateway.model import Schedule

_DAY: Final = 86_400.0
_LONGEST: Final = 10 * 366 * _DAY
_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FIRST_WEEKDAY: Final = _WEEKDAYS.index("Thursday")
"""Of the first day of Unix time."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_TIME: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def parse_schedule(value: object) -> Schedule | None:
    """Read a query's `schedule`; None if it has none, is disabled, or has one that Redash could not read either."""
    if isinstance(value, str):  # before version 6: "3600", or "18:30"
        value = {"interval": _DAY, "time": value} if _TIME.fullmatch(value) else {"interval": value}
    if not isinstance(value, dict) or value.get("disabled"):
        return None
    interval, time, day, until = (value.get(name) for name in ("interval", "time", "day_of_week", "until"))
    seconds, minute = _seconds(interval), _minute(time)
    weekday = _WEEKDAYS.index(day) if day in _WEEKDAYS else None
    end = _moment(until)
    unreadable = (time and minute is None) or (day and (weekday is None or minute is None)) or (until and end is None)
    if seconds is None or unreadable:
        return None
    return Schedule(seconds, minute, weekday, end)


def _seconds(interval: object) -> float | None:
    if isinstance(interval, str) and _SECONDS.fullmatch(interval):
        interval = int(interval)
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not 1 <= interval <= _LONGEST:
        return None
    return float(interval)


def _minute(time: object) -> int | None:
    found = _TIME.fullmatch(time) if isinstance(time, str) else None
    return int(found[1]) * 60 + int(found[2]) if found else None


def _moment(until: object) -> float | None:
    try:
        return datetime.fromisoformat(f"{until}T00:00:00Z").timestamp() if _DATE.fullmatch(str(until)) else None
    except ValueError:
        return None


def stands_for(schedule: Schedule, retrieved: float) -> float:
    """Return for how many seconds a result stands in that was made at this moment (unix): until the next one is due."""
    due = retrieved + schedule.interval
    if schedule.minute is not None:
        # Redash keeps the seconds of the last result.
        due = _last_moment(schedule, retrieved) + schedule.interval + retrieved % 60
    return max(0.0, min(due, _end(schedule)) - retrieved)


def longest_age(schedule: Schedule, now: float) -> float:
    """Return how old a result may be now (unix) that is not due yet; 0 where there is none, or the schedule is over."""
    if now >= _end(schedule):
        return 0.0
    if schedule.minute is None:
        return schedule.interval
    first = _last_moment(schedule, now - schedule.interval) + _period(schedule)
    return max(0.0, now - first)


def _last_moment(schedule: Schedule, moment: float) -> float:
    """Return when it was last the time of the schedule, on its day of the week if it has one."""
    phase = (schedule.minute or 0) * 60.0
    if schedule.weekday is not None:
        phase += (schedule.weekday - _FIRST_WEEKDAY) * _DAY
    return moment - (moment - phase) % _period(schedule)


def _period(schedule: Schedule) -> float:
    return _DAY if schedule.weekday is None else 7 * _DAY


def _end(schedule: Schedule) -> float:
    return _LATEST if schedule.until is None else schedule.until


_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
