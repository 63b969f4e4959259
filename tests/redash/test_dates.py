"""Dynamic dates resolve as Redash's front end resolves them, in the configured time zone."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.redash.dates import date_names, range_names, resolve_date, resolve_range

BERLIN = ZoneInfo("Europe/Berlin")
WEDNESDAY = datetime(2024, 2, 28, 14, 5, 59, tzinfo=BERLIN)


def at(text: str, zone: str = "Europe/Berlin") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def days(name: str, now: datetime) -> tuple[str, str]:
    period = resolve_range(name, "date-range", now)
    assert period is not None
    return period["start"], period["end"]


def test_forms_are_those_of_the_parameter_type_and_times_are_cut_to_the_minute() -> None:
    assert resolve_date("d_now", "date", WEDNESDAY) == "2024-02-28"
    assert resolve_date("d_now", "datetime-local", WEDNESDAY) == "2024-02-28 14:05"
    assert resolve_date("d_now", "datetime-with-seconds", WEDNESDAY) == "2024-02-28 14:05:00"
    assert resolve_range("d_last_hour", "datetime-range-with-seconds", WEDNESDAY) == {
        "start": "2024-02-28 13:05:00",
        "end": "2024-02-28 14:05:00",
    }
    assert resolve_range("d_today", "datetime-range", WEDNESDAY) == {
        "start": "2024-02-28 00:00",
        "end": "2024-02-28 23:59",
    }
    assert resolve_range("d_last_7_days", "datetime-range-with-seconds", WEDNESDAY) == {
        "start": "2024-02-21 00:00:00",
        "end": "2024-02-28 23:59:59",
    }


@pytest.mark.parametrize(
    ("name", "now", "expected"),
    [
        ("d_yesterday", "2024-03-01T00:30", ("2024-02-29", "2024-02-29")),
        ("d_this_week", "2024-02-28T14:05", ("2024-02-25", "2024-03-02")),  # from Sunday
        ("d_this_week", "2024-03-03T00:00", ("2024-03-03", "2024-03-09")),
        ("d_last_week", "2024-03-02T23:59", ("2024-02-18", "2024-02-24")),
        ("d_this_month", "2024-02-29T12:00", ("2024-02-01", "2024-02-29")),
        ("d_this_month", "2023-02-28T12:00", ("2023-02-01", "2023-02-28")),
        ("d_last_month", "2024-03-31T12:00", ("2024-02-01", "2024-02-29")),
        ("d_last_month", "2024-01-01T00:00", ("2023-12-01", "2023-12-31")),
        ("d_this_year", "2024-12-31T23:59", ("2024-01-01", "2024-12-31")),
        ("d_last_year", "2024-02-29T00:00", ("2023-01-01", "2023-12-31")),
        ("d_last_12_months", "2024-02-29T12:00", ("2023-02-28", "2024-02-29")),
        ("d_last_30_days", "2024-03-01T12:00", ("2024-01-31", "2024-03-01")),
        ("d_last_8_hours", "2024-01-01T03:00", ("2023-12-31", "2024-01-01")),
    ],
)
def test_ranges_at_boundaries(name: str, now: str, expected: tuple[str, str]) -> None:
    assert days(name, at(now)) == expected


def test_hours_are_real_hours_when_the_clocks_change() -> None:
    # 31 March 2024 has no 02:30 in Berlin, 27 October has it twice.
    spring = resolve_range("d_last_8_hours", "datetime-range", at("2024-03-31T08:00"))
    autumn = resolve_range("d_last_8_hours", "datetime-range", at("2024-10-27T08:00"))
    assert spring == {"start": "2024-03-30 23:00", "end": "2024-03-31 08:00"}
    assert autumn == {"start": "2024-10-27 01:00", "end": "2024-10-27 08:00"}


def test_days_are_days_of_the_calendar_when_the_clocks_change() -> None:
    assert resolve_date("d_yesterday", "datetime-local", at("2024-04-01T02:30")) == "2024-03-31 03:30"
    assert resolve_date("d_yesterday", "datetime-local", at("2024-03-31T12:00")) == "2024-03-30 12:00"


def test_a_day_without_midnight_begins_when_it_begins() -> None:
    # Brazil's clocks went from 00:00 to 01:00 on 4 November 2018.
    now = at("2018-11-04T12:00", "America/Sao_Paulo")
    assert resolve_range("d_today", "datetime-range", now) == {"start": "2018-11-04 01:00", "end": "2018-11-04 23:59"}


def test_the_time_zone_decides_which_day_it_is() -> None:
    now = datetime(2024, 1, 1, 3, 0, tzinfo=ZoneInfo("UTC"))
    assert resolve_date("d_now", "date", now) == "2024-01-01"
    assert resolve_date("d_now", "date", now.astimezone(ZoneInfo("America/New_York"))) == "2023-12-31"


def test_names_are_those_of_redash() -> None:
    assert date_names() == ["d_now", "d_yesterday"]
    assert len(range_names()) == 17
    assert all(days(name, WEDNESDAY) for name in range_names())
    assert resolve_date("d_today", "date", WEDNESDAY) is None
    assert resolve_range("d_now", "date-range", WEDNESDAY) is None
