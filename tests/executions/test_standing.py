"""What a follower has asked for, and which asks a result serves."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.executions.standing import UNASKED, Standing, is_within, served_by
from gateway.store.local_leases import LOCAL

NEEDS = st.dictionaries(st.integers(-50, 50), st.floats(0, 100), max_size=40)


@given(NEEDS, st.floats(0, 100))
def test_the_ranges_hold_exactly_the_asks_that_rows_of_that_moment_serve(
    needs: dict[int, float], rows_from: float
) -> None:
    ranges = served_by(needs, rows_from)
    for number in range(-60, 60):
        assert is_within(number, ranges) == (number in needs and needs[number] <= rows_from)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0, 100))
def test_a_caller_gets_the_number_of_an_ask_that_covers_it(moments: list[float], need: float) -> None:
    """Callers that come while an ask is under way are not covered by it: only by what was asked for then."""
    standing = Standing()
    standing.follow()
    for number, moment in enumerate(moments, 1):
        standing.asking = moment
        standing.note_ask(number)
    number = standing.ask_for(need)
    assert (number == UNASKED) == standing.lacks(need) == (need > max(moments))
    if number != UNASKED:
        assert standing.needs[number] >= need


@given(st.lists(st.floats(0, 100), max_size=30), st.sets(st.integers(1, 30)))
def test_rows_serve_callers_up_to_the_latest_ask_that_is_served(moments: list[float], served: set[int]) -> None:
    standing = Standing()
    standing.follow()
    for number, moment in enumerate(moments, 1):
        standing.asking = moment
        standing.note_ask(number)
    served_from = standing.served_from(tuple((number, number) for number in sorted(served)))
    asked = {number: need for need, number in standing.asks}
    assert served_from == max((asked[number] for number in served if number in asked), default=-math.inf)


def test_callers_that_accept_any_rows_need_no_ask() -> None:
    standing = Standing()
    standing.follow()
    assert standing.ask_for(-math.inf) == 0
    assert not standing.lacks(-math.inf)


def test_another_run_knows_nothing_of_what_was_asked_for_the_first_one() -> None:
    standing = Standing()
    standing.follow()
    standing.asking = 5.0
    standing.note_ask(7)
    standing.begin_anew()
    assert standing.needs == {}
    assert standing.covered == -math.inf


def test_who_leads_another_gateways_run_alone_writes_under_no_lease() -> None:
    """That gateway may lead it still: its record must not be replaced, least of all by an end."""
    standing = Standing()
    standing.follow()
    standing.fence = 5  # as its record says
    assert standing.written_under == 0
    standing.lead(LOCAL)
    assert standing.written_under == 0
    standing.go_apart()
    assert standing.written_under == 5
