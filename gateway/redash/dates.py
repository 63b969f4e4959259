"""Dynamic dates (`d_now`, `d_last_7_days` …): Redash's own list, which only its front end resolves (CONTRACT 6).

The rules are those of Redash's DateParameter and DateRangeParameter: weeks begin on Sunday (moment's English locale),
past days begin at midnight, hours are counted in elapsed time. Time is an argument, truncated to the minute.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_FORMATS = {
    "date": "%Y-%m-%d",
    "datetime-local": "%Y-%m-%d %H:%M",
    "datetime-with-seconds": "%Y-%m-%d %H:%M:%S",
    "date-range": "%Y-%m-%d",
    "datetime-range": "%Y-%m-%d %H:%M",
    "datetime-range-with-seconds": "%Y-%m-%d %H:%M:%S",
}
DATES = frozenset(kind for kind in _FORMATS if "range" not in kind)
RANGES = frozenset(kind for kind in _FORMATS if "range" in kind)
ALL = DATES | RANGES

_ZONE = r"(?:Z|[+-]\d\d(?::?\d\d)?)?"
_ISO = re.compile(
    rf"\d{{4}}-\d\d-\d\d(?:[T ]\d\d(?::\d\d(?::\d\d(?:[.,]\d{{1,9}})?)?)?{_ZONE})?"
    rf"|\d{{8}}(?:T\d{{4}}(?:\d\d)?{_ZONE})?",
    re.ASCII,
)


def is_date(text: str) -> bool:
    """Whether it is a date, or date and time, as Redash's front end sends them or in ISO 8601: nothing that is SQL."""
    if not _ISO.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def resolve_date(name: str, kind: str, now: datetime) -> str | None:
    """Return the text for a dynamic date, in the form of parameter type `kind`; None if `name` is not one."""
    moment = _MOMENTS.get(name)
    return None if moment is None else _real(moment(_minute(now))).strftime(_FORMATS[kind])


def resolve_range(name: str, kind: str, now: datetime) -> dict[str, str] | None:
    """Return `start` and `end` of a dynamic range, in the form of parameter type `kind`; None if `name` is not one."""
    period = _PERIODS.get(name)
    if period is None:
        return None
    start, end = period(_minute(now))
    return {"start": _real(start).strftime(_FORMATS[kind]), "end": _real(end).strftime(_FORMATS[kind])}


def date_names() -> list[str]:
    """Return the names that `resolve_date` knows."""
    return list(_MOMENTS)


def range_names() -> list[str]:
    """Return the names that `resolve_range` knows."""
    return list(_PERIODS)


Period = tuple[datetime, datetime]


def _minute(now: datetime) -> datetime:
    return now.replace(second=0, microsecond=0)


def _real(moment: datetime) -> datetime:
    """Move a local time that is skipped in spring to the time that clocks show instead, as browsers do."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo)


def _first(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, fold=0)


def _last(moment: datetime) -> datetime:
    return moment.replace(hour=23, minute=59, second=59, fold=1)


def _days(first: datetime, last: datetime) -> Period:
    return _first(first), _last(last)


def _week(day: datetime) -> Period:
    sunday = day - timedelta(days=day.isoweekday() % 7)
    return _days(sunday, sunday + timedelta(days=6))


def _month(day: datetime) -> Period:
    first = day.replace(day=1)
    return _days(first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1))


def _year(year: int, now: datetime) -> Period:
    return _days(now.replace(year=year, month=1, day=1), now.replace(year=year, month=12, day=31))


def _a_year_ago(now: datetime) -> datetime:
    leap_day = (now.month, now.day) == (2, 29)
    return now.replace(year=now.year - 1, day=28 if leap_day else now.day)


def _last_days(count: int) -> Callable[[datetime], Period]:
    return lambda now: _days(now - timedelta(days=count), now)


def _last_hours(count: int) -> Callable[[datetime], Period]:
    return lambda now: ((now.astimezone(UTC) - timedelta(hours=count)).astimezone(now.tzinfo), now)


_MOMENTS: dict[str, Callable[[datetime], datetime]] = {
    "d_now": lambda now: now,
    "d_yesterday": lambda now: now - timedelta(days=1),
}

_PERIODS: dict[str, Callable[[datetime], Period]] = {
    "d_today": lambda now: _days(now, now),
    "d_yesterday": lambda now: _days(now - timedelta(days=1), now - timedelta(days=1)),
    "d_this_week": _week,
    "d_this_month": _month,
    "d_this_year": lambda now: _year(now.year, now),
    "d_last_week": lambda now: _week(now - timedelta(days=7)),
    "d_last_month": lambda now: _month(now.replace(day=1) - timedelta(days=1)),
    "d_last_year": lambda now: _year(now.year - 1, now),
    "d_last_hour": _last_hours(1),
    "d_last_8_hours": _last_hours(8),
    "d_last_24_hours": _last_hours(24),
    **{f"d_last_{count}_days": _last_days(count) for count in (7, 14, 30, 60, 90)},
    "d_last_12_months": lambda now: _days(_a_year_ago(now), now),
}
