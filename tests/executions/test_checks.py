"""Checks of a stored result: who accepts rows of any age asks Redash at times whether they are still the newest.

Redash runs nothing for such a POST where it has rows, so no lease is held, and another run may be in progress. Where
it has none, or where rows of any age are no longer enough, the check becomes a run: one for its key at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

from support import gateways as several
from support.fault_proxy import FaultProxy
from support.gateways import edit, ended
from support.waiting import until
from support.world import World

from gateway.executions.execution import Execution
from gateway.executions.waits import Waits

SECONDS = {"seconds": 0.01}
"""Not the values of the query itself: its definition names the newest result of those, and no check is needed."""

EXECUTE = "^/api/queries/[0-9]+/results$"


async def begun(world: World) -> str:
    return await several.begun(world, parameters=SECONDS)


async def any_age(world: World, **more: Any) -> Any:
    return await world.post("slow_seconds", max_age=-1, parameters=SECONDS, **more)


async def stored(*worlds: World) -> int:
    """Rows that each of these gateways has, and would check for the next caller of any age."""
    for world in worlds:
        shown = await world.post("slow_seconds", max_age=86_400, parameters=SECONDS, wait=20)
    worlds[0].clock.turn(61)
    result: int = shown.json["query_result"]["id"]
    return result


@contextmanager
def before_the_check(world: World, act: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """Something that happens between the look-up of the caller and the POST of its check."""
    waits, apart = world.runtime.executions.flights.waits, Waits.apart

    @asynccontextmanager
    async def acting(execution: Execution) -> AsyncIterator[None]:
        patch.stop()
        await act()
        async with apart(waits, execution):
            yield

    patch = mock.patch.object(waits, "apart", acting)
    patch.start()
    yield


async def test_a_check_waits_for_no_run(bare: World) -> None:
    await bare.start()
    result = await stored(bare)
    with bare.sandbox.hold():
        await begun(bare)
        assert (await any_age(bare, wait=20)).json["query_result"]["id"] == result


async def test_new_data_that_comes_just_before_the_post_makes_it_a_run(bare: World) -> None:
    await bare.start()
    await stored(bare)

    async def load() -> None:
        await bare.purge({"query": bare.named["slow_seconds"]})
        jobs.append(await begun(bare))

    jobs: list[str] = []
    with bare.sandbox.hold(), before_the_check(bare, load):
        jobs.append((await any_age(bare)).job["id"])
        assert bare.sandbox.counters.posts[bare.named["slow_seconds"]] == 2
    forced, checked = [await ended(bare, job) for job in jobs]
    assert checked == forced
    assert bare.started == 2


async def test_it_joins_the_run_of_another_gateway(gateways: list[World]) -> None:
    one, two, _ = gateways
    query = one.named["slow_seconds"]
    await stored(one, two)
    jobs: list[str] = []

    async def load() -> None:
        await one.purge({"query": query})
        await two.purge({"query": query})  # which it has been told, too, but the test would have to wait for it
        jobs.append(await begun(one))

    before = one.sandbox.counters.posts[query]
    with one.sandbox.hold(), before_the_check(two, load):
        jobs.append((await any_age(two)).job["id"])
        assert one.sandbox.counters.posts[query] == before + 1
    forced, checked = [await ended(two, job) for job in jobs]
    assert checked == forced


async def test_others_join_it_where_redash_has_lost_the_rows(gateways: list[World]) -> None:
    # Redash removes results that no query names as its latest after some days (CONTRACT 6).
    one, two, three = gateways
    query, sandbox = one.named["slow_seconds"], one.sandbox
    lost = await stored(one, two, three)
    sandbox.database.remove_result(lost)
    with sandbox.hold():
        first = (await any_age(one)).job["id"]
        posts = sandbox.counters.posts[query]
        second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
        assert sandbox.counters.posts[query] == posts
    assert await ended(three, first) == await ended(three, second) != lost


async def test_an_edit_that_it_finds_makes_it_a_run_of_the_new_text(gateways: list[World]) -> None:
    one, two, _ = gateways
    query, sandbox = one.named["slow_seconds"], one.sandbox
    await stored(one, two)
    jobs: list[str] = []

    async def change() -> None:
        edit(sandbox, one, two)
        jobs.append(await begun(one))

    before = sandbox.counters.posts[query]
    with sandbox.hold(), before_the_check(two, change):
        jobs.append((await any_age(two)).job["id"])
        assert sandbox.counters.posts[query] == before + 1
    assert len({await ended(two, job) for job in jobs}) == 1


async def test_nobody_joins_a_check_that_began_before_a_purge(behind: World, proxy: FaultProxy) -> None:
    await behind.start()
    old = await stored(behind)
    slow = proxy.add("slow_head", EXECUTE, seconds=0.5)
    checking = asyncio.create_task(any_age(behind, wait=20))
    await until(lambda: slow.hits > 0)
    proxy.stop()
    await behind.purge({"query": behind.named["slow_seconds"]})
    new = await stored(behind)
    assert (await any_age(behind, wait=20)).json["query_result"]["id"] == new > old
    assert (await checking).json["query_result"]["id"] == old
