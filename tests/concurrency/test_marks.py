"""When something last happened to a key, in bounded memory: too late a mark is safe, too early a one is not."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from support.world import World

from gateway.concurrency.marks import MOST_KEYS, Marks


@given(st.lists(st.integers(-1, 9)), st.integers(1, 5))
def test_no_mark_is_earlier_than_the_last_one(keys: list[int], most: int) -> None:
    marks, last = Marks(-math.inf, most), dict.fromkeys(range(10), -math.inf)
    for now, key in enumerate(keys):
        if key < 0:  # all of them
            marks.set_all(now)
            last = dict.fromkeys(last, float(now))
        else:
            marks.set(key, now)
            last[key] = now
        for other, mark in last.items():
            assert mark <= marks.get(other) <= now
        assert marks.get(max(key, 0)) == now


def test_a_key_that_is_not_forgotten_keeps_its_own_mark() -> None:
    marks = Marks(-math.inf, most=3)
    for now, key in enumerate([1, 2, 1, 3, 4]):
        marks.set(key, now)
    assert [marks.get(key) for key in (1, 3, 4)] == [2, 3, 4]
    assert marks.get(99) == 1, "the newest mark that was forgotten: that of 2"


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_no_mark_is_earlier_in_the_next_process(before: list[int], after: list[int], most: int) -> None:
    """The next process may set marks before it can read what the last one has recorded."""
    old, new, last = Marks[int](-math.inf), Marks[int](-math.inf), dict.fromkeys(range(10), -math.inf)
    for now, (marks, key) in enumerate([*((old, key) for key in before), *((new, key) for key in after)]):
        marks.set(key, now)
        last[key] = now
    new.restore(*old.newest(most))
    for key, mark in last.items():
        assert mark <= new.get(key) <= len(before + after)
        assert len(set(before)) > most or new.get(key) == mark, "nothing was left out, so nothing is later"


def test_all_that_is_marked_before_the_record_is_read_stays_marked() -> None:
    old, new = Marks[int](-math.inf), Marks[int](-math.inf)
    old.set(1, 10)
    new.set_all(20)
    new.restore(*old.newest(5))
    assert (new.get(1), new.get(2)) == (20, 20)


async def test_ids_that_are_written_or_purged_leave_nothing_behind(world: World) -> None:
    # Each id, known to Redash or not, left a number for good: a client with `write` could fill the memory.
    results = world.runtime.results
    for query_id in range(1, 2 * MOST_KEYS):
        await results.definitions.delete(query_id)
        results.cache._purges.note(None, query_id, query_id)
    assert len(results.definitions._known._generations._by_key) == MOST_KEYS
    assert len(results.cache._purges._purged._by_key) == MOST_KEYS


async def test_a_result_of_before_a_purge_is_not_stored_after_it(world: World) -> None:
    with world.sandbox.hold():
        pending = await world.post("by_country", max_age=0)
        await world.sandbox.wait_executions(1)
        await world.purge({"query": world.named["by_country"]})
        for query_id in range(10_000, 10_000 + MOST_KEYS):  # the purge itself is forgotten
            world.runtime.results.cache._purges.note(None, query_id, world.clock.monotonic())
    assert (await world.finish(pending.job["id"]))["status"] == 3
    assert "fwd=" in (await world.post("by_country", max_age=60, wait=5)).cache
