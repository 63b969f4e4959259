"""Watchers: woken a few at a time, by one timer for each query, and no news is lost while one of them is busy."""

from __future__ import annotations

import asyncio
import math
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from gateway.concurrency.watchers import AT_ONCE, Watch, Watchers


async def woken(watches: list[Watch]) -> set[int]:
    """The places of those that do not wait any more after a few turns of the event loop."""
    for _ in range(4 + len(watches) // AT_ONCE):
        await asyncio.sleep(0)
    return {place for place, watch in enumerate(watches) if watch._event.is_set}


@given(st.lists(st.sampled_from([1, 2, 3]), max_size=8), st.lists(st.sampled_from([1, 2, 3]), max_size=3))
def test_news_of_a_query_wake_those_who_watch_it(queries: list[int], news: list[int]) -> None:
    async def run() -> None:
        watchers = Watchers(lambda: math.inf)
        with ExitStack() as stack:
            watches = [stack.enter_context(watchers.watching(query)) for query in queries]
            assert watchers.count == len(queries)
            for query in news:
                watchers.note(query)
            assert await woken(watches) == {place for place, query in enumerate(queries) if query in news}
        assert (watchers.count, watchers._topics, watchers._by_key) == (0, {}, {})

    asyncio.run(run())


async def test_news_that_come_while_one_is_busy_are_not_lost() -> None:
    watchers = Watchers(lambda: math.inf)
    with watchers.watching(1) as watch:
        watchers.note(1)
        await watch.wait(math.inf)
        watchers.note(1)  # it works on the first news
        await watch.wait(math.inf)
        await watch.wait(0.01)  # and nothing wakes it twice
        assert not watch._event.is_set


async def test_many_are_woken_over_several_turns_of_the_event_loop() -> None:
    # Each of them judges its rights then: all in one turn would hold up every other request.
    watchers = Watchers(lambda: math.inf)
    with ExitStack() as stack:
        watches = [stack.enter_context(watchers.watching(1)) for _ in range(3 * AT_ONCE)]
        watchers.note(1)
        assert sum(watch._event.is_set for watch in watches) == AT_ONCE
        watchers.note(1)  # those that still wait for their turn are not woken twice
        assert await woken(watches) == set(range(len(watches)))


async def test_what_another_gateway_has_stored_wakes_by_its_key() -> None:
    watchers = Watchers(lambda: math.inf)
    with watchers.watching(1) as one, watchers.watching(1) as other:
        watchers.follow(one, b"old")
        watchers.follow(one, b"key")
        watchers.note_stored([b"old", b"unknown"])
        assert await woken([one, other]) == set()
        watchers.note_stored([b"key"])
        assert await woken([one, other]) == {0}
        watchers.note_stored(None)
        assert await woken([one, other]) == {0, 1}


async def test_who_hears_nothing_looks_after_a_while() -> None:
    watchers = Watchers(lambda: 0.01)
    with watchers.watching(1) as watch:
        await asyncio.wait_for(watch.wait(math.inf), 5)
        await asyncio.wait_for(watch.wait(math.inf), 5)
