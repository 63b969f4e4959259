"""Schedules of queries: read in every form that Redash has had, and due when Redash would refresh them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model import Schedule
from gateway.redash.schedule import longest_age, parse_schedule, stands_for
from gateway.sandbox.schedules import should_refresh

DAY = 86_400.0
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FRIDAY = datetime(2027, 1, 15, 8, 0, 30, tzinfo=UTC)

INTERVALS = st.builds(
    lambda seconds, as_text: {"interval": str(seconds) if as_text else seconds, "time": None, "day_of_week": None},
    st.sampled_from([60, 300, 1_800, 3_600, 43_200]),
    st.booleans(),
)
DAILY = st.builds(
    lambda days, hour, minute: {"interval": days * 86_400, "time": f"{hour:02d}:{minute:02d}", "day_of_week": None},
    st.integers(1, 30),
    st.integers(0, 23),
    st.sampled_from([0, 15, 59]),
)
WEEKLY = st.builds(
    lambda weeks, day, hour: {"interval": weeks * 7 * 86_400, "time": f"{hour:02d}:00", "day_of_week": day},
    st.integers(1, 4),
    st.sampled_from(WEEKDAYS),
    st.integers(0, 23),
)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (None, None),
        ({}, None),
        ({"interval": None, "time": None, "day_of_week": None, "until": None}, None),
        ({"interval": 3600, "time": None, "day_of_week": None, "until": None}, Schedule(3600.0)),
        ({"interval": "3600"}, Schedule(3600.0)),
        ({"interval": 3600, "disabled": True}, None),
        ({"interval": 86400, "time": "18:30", "day_of_week": None}, Schedule(DAY, 18 * 60 + 30)),
        ({"interval": 604800, "time": "00:05", "day_of_week": "Sunday"}, Schedule(7 * DAY, 5, 6)),
        ({"interval": 60, "until": "1970-01-03"}, Schedule(60.0, until=2 * DAY)),
        ("3600", Schedule(3600.0)),  # Redash before version 6
        ("18:30", Schedule(DAY, 18 * 60 + 30)),
        ("", None),
        ("soon", None),
        ({"interval": "soon"}, None),
        ({"interval": True}, None),
        ({"interval": 0}, None),
        ({"interval": 86400, "time": "25:00"}, None),
        ({"interval": 604800, "time": "10:00", "day_of_week": "Someday"}, None),
        ({"interval": 604800, "day_of_week": "Monday"}, None),
        ({"interval": 60, "until": "tomorrow"}, None),
        ({"interval": 60, "until": "2027-02-30"}, None),
        ([60], None),
    ],
)
def test_every_form_is_read_and_what_redash_cannot_read_is_none(written: Any, meant: Schedule | None) -> None:
    assert parse_schedule(written) == meant


@settings(max_examples=150)
@given(st.one_of(INTERVALS, DAILY), MOMENTS)
def test_a_result_stands_in_exactly_until_redash_refreshes_it(written: dict[str, Any], made: datetime) -> None:
    schedule = parse_schedule(written)
    assert schedule is not None
    due = made + timedelta(seconds=stands_for(schedule, made.timestamp()))
    assert not should_refresh(made, due - timedelta(seconds=1), written)
    assert should_refresh(made, due + timedelta(seconds=1), written)


@settings(max_examples=100)
@given(WEEKLY, MOMENTS)
def test_a_result_of_a_weekly_schedule_stands_in_until_its_day(written: dict[str, Any], made: datetime) -> None:
    # Where somebody has run the query on another day, Redash may count from there; the schedule says its day.
    schedule = parse_schedule(written)
    assert schedule is not None
    due = made + timedelta(seconds=stands_for(schedule, made.timestamp()))
    assert (WEEKDAYS[due.weekday()], f"{due:%H:%M}") == (written["day_of_week"], written["time"])
    assert timedelta(0) <= due - made <= timedelta(seconds=written["interval"] + 60)
    if (WEEKDAYS[made.weekday()], f"{made:%H:%M}") == (written["day_of_week"], written["time"]):  # made by the schedule
        assert not should_refresh(made, due - timedelta(seconds=1), written)
        assert should_refresh(made, due + timedelta(seconds=1), written)


@settings(max_examples=150)
@given(st.one_of(INTERVALS, DAILY, WEEKLY), MOMENTS, st.floats(0, 1))
def test_what_is_asked_of_redash_is_not_older_than_what_stands_in(
    written: dict[str, Any], now: datetime, part: float
) -> None:
    # Else the gateway would take a result from Redash that it does not accept, and ask again for each request.
    schedule = parse_schedule(written)
    assert schedule is not None
    longest = longest_age(schedule, now.timestamp())
    assert stands_for(schedule, now.timestamp() - part * longest) >= part * longest - 1e-3
    older = now.timestamp() - longest - 1
    assert older + stands_for(schedule, older) <= now.timestamp() + 60  # Redash keeps the seconds of the last result


def test_a_schedule_that_is_over_keeps_nothing() -> None:
    schedule = Schedule(3600.0, until=FRIDAY.timestamp())
    assert stands_for(schedule, FRIDAY.timestamp() - 600) == 600
    assert longest_age(schedule, FRIDAY.timestamp() - 1) == 3600
    assert longest_age(schedule, FRIDAY.timestamp()) == 0
