"""The judge of the long runs: it accepts what the sandbox made, and nothing that differs in a byte, run or second."""

from __future__ import annotations

import time

import pytest
from support.made import RUN, Made, older_than_allowed
from support.world import World


@pytest.fixture
def made(world: World) -> Made:
    return Made(world.sandbox)


def query(world: World) -> int:
    return world.sandbox.add_query("judged", f"select 'a' as x, {RUN}")


async def test_a_result_is_known_by_its_run_in_every_form(world: World, made: Made) -> None:
    query_id = query(world)
    bodies = {}
    for _ in range(2):
        bodies["full"] = (await world.post(query_id, max_age=0, wait=10)).body
    bodies["csv"] = (await world.get(f"/api/queries/{query_id}/results.csv?max_age=60")).body
    (first, second) = made.by_run.values()
    assert made.shown_by(bodies["full"], "full") is second is not first
    assert made.shown_by(bodies["csv"], "csv") is second
    assert made.shown_by(bodies["full"], "reduced") is None
    assert first.is_shown_by(bodies["full"], "full") is False


async def test_a_byte_that_differs_is_found(world: World, made: Made) -> None:
    body = (await world.post(query(world), max_age=0, wait=10)).body
    assert made.shown_by(body, "full") is not None
    for wrong in (body[:-1], body + b" ", body.replace(b'"x": "a"', b'"x": "b"'), b"", b"<html>"):
        assert made.shown_by(wrong, "full") is None


async def test_digests_are_enough(world: World, made: Made) -> None:
    query_id = query(world)
    old, new = [(await world.post(query_id, max_age=0, wait=10)).body for _ in range(2)]
    assert len(made.forget_before(time.time() + 60)) == 1, "all but the newest"
    assert made.forget_before(time.time() + 60) == []
    for body in (old, new):
        assert made.shown_by(body, "full") is not None


async def test_the_age_counts_from_the_end_of_the_run(world: World, made: Made) -> None:
    await world.post(query(world), max_age=0, wait=10)
    (one,) = made.by_run.values()
    for sent, max_age, stale, allowed in [
        (10, 10, 0, True),
        (10.1, 10, 0, False),
        (10.1, 10, 1, True),
        (11.1, 10, 1, False),
        (0.1, 0, 3600, False),  # max_age 0 never gets a stale result
        (-1, 0, 0, True),
        (1e9, None, 0, True),
    ]:
        assert (older_than_allowed(one, one.ended + sent, max_age, stale) == "") is allowed, (sent, max_age, stale)
