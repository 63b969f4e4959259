"""Budgets of work in Redash: in whatever order runs start and end, no window has more than the budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import units
from gateway.config.units import Budget
from gateway.policy.budget import BudgetAccount, Reservation

MINUTES_AN_HOUR = Budget(600.0, 3600.0)

STEPS = st.lists(st.tuples(st.floats(0, 900), st.floats(0.01, 400), st.booleans()), max_size=60)
"""Time that passes, the seconds of a run that wants to start, and whether the oldest run in progress ends first."""


@settings(max_examples=60)
@given(STEPS)
def test_no_window_has_more_than_the_budget_if_runs_take_what_they_reserve(
    steps: list[tuple[float, float, bool]],
) -> None:
    account, now, running = BudgetAccount(MINUTES_AN_HOUR), 0.0, list[Reservation]()
    spent: list[tuple[float, float]] = []
    for pause, seconds, ends in steps:
        now += pause
        if ends and running:
            ended = running.pop(0)
            account.settle(ended, now, ended.seconds)
            spent.append((now, ended.seconds))
        within = sum(taken for at, taken in spent if now - at < 3600)
        reserved = sum(reservation.seconds for reservation in running)
        reservation = account.reserve(now, seconds)
        if reservation is not None:
            running.append(reservation)
            assert within + reserved + seconds <= 600 + 1e-3
        elif not account.spent(now) + reserved >= within + reserved + 1e-3:  # no second counts longer than it must
            assert within + reserved + seconds > 600 - 1e-3 or within + reserved >= 600 - 1e-3


@settings(max_examples=60)
@given(STEPS, st.floats(0.01, 600))
def test_it_opens_exactly_when_it_says(steps: list[tuple[float, float, bool]], seconds: float) -> None:
    account, now = BudgetAccount(MINUTES_AN_HOUR), 0.0
    for pause, taken, _ in steps:
        now += pause
        account.spend(now, taken)
    opens = account.opens_in(now, seconds)
    assert opens <= 3600 * (1 + 2 / 120)
    if opens > 1e-3:
        assert account.reserve(now + opens - 1e-3, seconds) is None
    assert account.reserve(now + opens + 1e-3, seconds) is not None


def test_what_runs_is_reserved_until_it_is_settled() -> None:
    account = BudgetAccount(MINUTES_AN_HOUR)
    first = account.reserve(0.0, 400.0)
    assert first is not None
    assert account.reserve(0.0, 201.0) is None
    assert account.opens_in(0.0, 201.0) == math.inf  # only the end of the run can make room
    account.settle(first, 10.0, 100.0)
    account.settle(first, 10.0, 100.0)
    assert (account.spent(10.0), account.reserved, account.left(10.0)) == (100.0, 0.0, 500.0)


def test_a_run_longer_than_the_budget_never_starts() -> None:
    account = BudgetAccount(MINUTES_AN_HOUR)
    assert account.reserve(0.0, 600.5) is None
    assert account.opens_in(0.0, 600.5) == math.inf


def test_nothing_starts_when_all_is_spent_even_if_it_is_not_known_how_long_it_takes() -> None:
    account = BudgetAccount(MINUTES_AN_HOUR)
    account.spend(0.0, 600.0)
    assert account.reserve(1.0, 0.0) is None
    assert account.reserve(3600.0 * (1 + 2 / 120), 0.0) is not None


@settings(max_examples=30)
@given(STEPS)
def test_a_restart_changes_nothing(steps: list[tuple[float, float, bool]]) -> None:
    before, now = BudgetAccount(MINUTES_AN_HOUR), 0.0
    for pause, taken, _ in steps:
        now += pause
        before.spend(now, taken)
    after = BudgetAccount(MINUTES_AN_HOUR)
    after.restore(before.history())
    for moment in (now, now + 1000.0, now + 3700.0):
        assert after.spent(moment) == pytest.approx(before.spent(moment))


def test_it_takes_no_more_memory_than_its_slots() -> None:
    account = BudgetAccount(MINUTES_AN_HOUR)
    for number in range(10_000):
        account.spend(number * 1.7, 0.1)
    assert len(account.history()) <= 122


@given(st.integers(1, 999), st.sampled_from("smhd"), st.sampled_from("smhdw"))
def test_budgets_survive_being_written_and_read(count: int, unit: str, per: str) -> None:
    budget = units.budget(f"{count}{unit}/{per}")
    assert units.budget(str(budget)) == budget
    assert units.budget("10m/h") == MINUTES_AN_HOUR
    assert str(MINUTES_AN_HOUR) == "10m/h"


@pytest.mark.parametrize(
    "wrong", ["10m", "m/h", "10/h", "0s/h", "10m/y", "10m/h/h", 600, "-1m/h", "", "10m/" * 50, None]
)
def test_what_is_no_budget_is_refused_with_an_example(wrong: object) -> None:
    with pytest.raises(ValueError, match="10m/h"):
        units.budget(wrong)
