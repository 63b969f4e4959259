"""How far Redash's clock is ahead, by the `Date` of its responses: where it differs from the own one, it is never
underestimated, and soon known well.

A result that ended before a caller asked must not count as newer, however the clocks differ: the bound that matters is
the upper one. (The own wall clock stands at 0 in most of these tests, far from Redash's.)
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.redash_clock import WINDOW_SECONDS, RedashClock

SKEWS = st.floats(-1e6, 1e6).map(lambda skew: 1.8e9 + skew)
STEPS = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=50)
"""For each response: seconds since the one before, how long it took, when within that Redash looked at its clock."""


@given(ahead=SKEWS, steps=STEPS)
def test_the_true_difference_is_never_more_than_said(ahead: float, steps: list[tuple[float, float, float]]) -> None:
    clock, now = RedashClock(), 1_000.0
    for pause, took, part in steps:
        sent, now = now + pause, now + pause + took
        clock.record(math.floor(sent + part * took + ahead), sent, now)
        assert clock.most_ahead(0.0, now) >= ahead - 1e-3


@given(ahead=SKEWS)
def test_a_run_of_polls_shows_it_to_a_fraction_of_a_second(ahead: float) -> None:
    clock = RedashClock()
    for poll in range(12):
        sent = 1_000.0 + poll * 0.1
        clock.record(math.floor(sent + ahead), sent, sent + 0.005)
    assert clock.most_ahead(0.0, 1_002.0) - ahead < 0.2


@pytest.mark.parametrize("step", [-3600.0, -2.0, 2.0, 3600.0])
def test_a_clock_that_is_set_is_noticed_at_the_next_response(step: float) -> None:
    clock, ahead = RedashClock(), 1.8e9
    for poll in range(30):
        clock.record(math.floor(poll * 0.1 + ahead), poll * 0.1, poll * 0.1 + 0.005)
    clock.record(math.floor(4 + ahead + step), 4.0, 4.005)
    assert ahead + step <= clock.most_ahead(0.0, 4.005) <= ahead + step + 1.1


def test_old_bounds_do_not_count_for_ever() -> None:
    # Two clocks drift apart by seconds in a week.
    clock = RedashClock()
    clock.record(1_000, 0.0, 0.001)
    later = 3 * WINDOW_SECONDS
    clock.record(1_000 + later, later - 0.5, later)
    assert clock.most_ahead(0.0, later) > 1_001.4


def test_the_own_clock_counts_until_a_response_contradicts_it() -> None:
    """Clocks agree mostly; a second of doubt would run short queries twice for callers that share a run."""
    clock = RedashClock()
    assert clock.most_ahead(5_000.0, 1_000.0) == 4_000.0  # without any `Date`
    clock.record(5_000.0, 1_000.2, 1_000.3)
    assert clock.most_ahead(5_000.3, 1_000.3) == 4_000.0


@given(ahead=st.floats(0.3, 5.0))
def test_an_own_clock_that_is_behind_is_contradicted_soon(ahead: float) -> None:
    clock = RedashClock()
    for poll in range(12):
        sent = 1_000.0 + poll * 0.1
        clock.record(math.floor(sent + ahead), sent, sent + 0.005)
    assert clock.most_ahead(1_001.2, 1_001.2) >= ahead
