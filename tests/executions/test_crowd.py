"""Crowds: a thousand callers of a few runs, a third of whom hang up; and the cost when many callers leave."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import aiohttp
import pytest
from support.http import Reply
from support.inside import waiters
from support.waiting import until
from support.world import World

from gateway.concurrency.events import Event
from gateway.concurrency.flights import Flights
from gateway.executions.polling import pause

CALLERS = 1_000
KEYS = 4
Wait = Callable[[], Awaitable[object]]


async def test_a_thousand_callers_a_third_of_whom_hang_up(bare: World) -> None:
    """One execution per distinct key, whoever leaves; callers that stay get a response; nothing is left behind."""
    await bare.start(upstream="max_executions = 8")
    query = bare.named["slow_seconds"]
    quiet = asyncio.all_tasks()
    chance = random.Random(20260207)
    hold = bare.sandbox.hold(query)
    callers = [asyncio.create_task(_call(bare, chance)) for _ in range(CALLERS)]
    leavers = chance.sample(callers, CALLERS // 3)
    await bare.sandbox.wait_executions(KEYS)
    await _hang_up(leavers, chance)
    await until(lambda: waiters(bare.runtime) == CALLERS - len(leavers))  # all have come, or left
    hold.release()
    replies = await asyncio.gather(*(caller for caller in callers if caller not in leavers))
    # Each parameter value has its own key (Redash does not distinguish 0 and "0", so each value is a number here).
    assert bare.sandbox.counters.started == KEYS
    assert bare.sandbox.counters.posts[query] == KEYS
    assert len(replies) == CALLERS - len(leavers)
    for wanted, reply in replies:
        assert reply.status == 200
        assert reply.rows == [{"slept": "", "orders": 2000}]
        assert f"sleep({wanted})" in reply.json["query_result"]["query"]
    assert all(task.cancelled() for task in leavers)
    await bare.session.close()  # the gateway's tasks for open connections end with them
    await _only(quiet)
    bare.session = aiohttp.ClientSession()


async def test_a_cold_start_with_many_callers_reads_the_definition_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Callers that looked on the disk before Redash responded to the first must not send another request.
    first_is_answered, looks = asyncio.Event(), 0
    get = world.runtime.store.get

    async def slow(key: bytes) -> object:
        nonlocal looks
        looks += 1
        if looks > 1:
            await first_is_answered.wait()
        return await get(key)

    monkeypatch.setattr(world.runtime.store, "get", slow)
    callers = [asyncio.create_task(world.get(f"/api/queries/{world.named['kb1']}/results.json")) for _ in range(20)]
    known = world.runtime.results.definitions._known
    await until(lambda: bool(known))
    first_is_answered.set()
    assert {reply.status for reply in await asyncio.gather(*callers)} == {200}
    assert looks >= 20
    assert world.sandbox.counters.by_route["GET /api/queries/<query_id>"] == 1


async def _call(world: World, chance: random.Random) -> tuple[float, Reply]:
    """One caller: some wait in one request, some poll, some use the GET form; any max_age joins a run in progress."""
    wanted = chance.randrange(KEYS) / 1000
    max_age = chance.choice([0, 0, 1, 60, 3600, None, -1])
    way = chance.choice(["wait", "poll", "get"])
    await asyncio.sleep(chance.random() / 2)
    query = world.named["slow_seconds"]
    if way == "get":
        age = -1 if max_age is None else max_age
        return wanted, await world.get(f"/api/queries/{query}/results.json?p_seconds={wanted}&max_age={age}")
    body: dict[str, Any] = {"max_age": max_age, "parameters": {"seconds": wanted}}
    reply = await world.post(query, wait=50 if way == "wait" else None, **body)
    if "job" in reply.json:
        job = await world.finish(reply.job["id"])
        assert job["status"] == 3, job
        reply = await world.get(f"/api/queries/{query}/results/{job['query_result_id']}.json")
    return wanted, reply


async def _hang_up(leavers: list[asyncio.Task[Any]], chance: random.Random) -> None:
    for leaver in leavers:
        leaver.cancel()
        if chance.random() < 0.05:
            await asyncio.sleep(0.01)
    await asyncio.gather(*leavers, return_exceptions=True)


async def _only(quiet: set[asyncio.Task[Any]]) -> None:
    """Wait until only the tasks that were there before are left."""
    async with asyncio.timeout(10):
        while left := {task for task in asyncio.all_tasks() - quiet if not task.done()}:
            await asyncio.wait(left, timeout=0.1)


async def test_redash_is_polled_once_for_any_number_of_callers(world: World) -> None:
    """The gateway polls once for all; callers' polls are served from what it knows."""
    query = world.named["slow_seconds"]
    async with world.sandbox.hold(query):
        posted = [world.post(query, max_age=0, parameters={"seconds": 0}) for _ in range(50)]
        ids = [reply.job["id"] for reply in await asyncio.gather(*posted)]
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 3.0:
            await asyncio.gather(*(world.get(f"/api/jobs/{job}") for job in ids))
            await asyncio.sleep(0.25)
    assert {job["status"] for job in await asyncio.gather(*(world.finish(job) for job in ids))} == {3}
    # A definition, a POST, a result, and the polls of about 3 s; some room for a machine that stalls.
    assert world.sandbox.counters.requests <= 3 + _polls_of(5.0)


def test_a_run_of_ten_seconds_costs_fewer_than_thirty_requests() -> None:
    # Definition, POST, polls, result, and the definition again because the run has ended.
    assert _polls_of(10.0) + 4 < 30
    # No caller waits longer than a fifth of the run, or 2 s, for a result that is ready.
    assert all(pause(elapsed, 0.0) <= max(0.1, min(2.0, elapsed / 5)) for elapsed in (0.0, 0.3, 1.0, 5.0, 10.0, 600.0))


def _polls_of(seconds: float) -> int:
    """How often a run of so many seconds is polled, if the polls themselves take no time."""
    elapsed, polls = 0.0, 0
    while elapsed < seconds:
        elapsed += pause(elapsed, 0.0)
        polls += 1
    return polls


async def _never() -> None:
    await asyncio.Event().wait()


def _event() -> Wait:
    return Event().wait


def _flight() -> Wait:
    flights: Flights[None] = Flights()
    return lambda: flights.share("key", _never)


def _asyncio_event() -> Wait:
    return asyncio.Event().wait


def _asyncio_shield() -> Wait:
    task = asyncio.ensure_future(_never())
    return lambda: asyncio.shield(task)


@pytest.mark.parametrize("make", [_event, _flight])
def test_the_cost_of_leaving_does_not_grow_with_the_number_of_waiters(make: Callable[[], Wait]) -> None:
    assert _growth(make) < 1.2


@pytest.mark.parametrize("make", [_asyncio_event, _asyncio_shield])
def test_the_cost_of_leaving_asyncio_events_grows_with_the_number_of_waiters(make: Callable[[], Wait]) -> None:
    """The reason for `Event`, and the proof that the measurement notices a search through the waiters."""
    assert _growth(make) > 2


def _growth(make: Callable[[], Wait]) -> float:
    """How much more each waiter costs when 1,000 leave instead of 20."""
    with asyncio.Runner(loop_factory=_PythonLoop) as runner:
        few, many = (runner.run(_cost_of_leaving(make, number)) / number for number in (20, 1_000))
    return many / few


class _PythonFuture(asyncio.futures._PyFuture):  # type: ignore[name-defined,misc]
    """Each comparison in a search for it is a line of Python, also if a list or a deque searches."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


class _PythonLoop(asyncio.SelectorEventLoop):
    """Futures and tasks in pure Python, so that all their work can be counted."""

    def create_future(self) -> asyncio.Future[Any]:
        return _PythonFuture(loop=self)

    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:
        return asyncio.tasks._PyTask(coro, loop=self, **more)  # type: ignore[attr-defined,no-any-return]


async def _cost_of_leaving(make: Callable[[], Wait], number: int) -> int:
    """The lines of Python that run while so many waiters leave: unlike time, the same on every machine."""
    before = asyncio.all_tasks()
    wait = make()

    async def waiting() -> None:
        await wait()

    waiters = [asyncio.create_task(waiting()) for _ in range(number)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    random.Random(number).shuffle(waiters)
    with _counted_lines() as counted:
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
    assert all(waiter.cancelled() for waiter in waiters)
    for call in asyncio.all_tasks() - before:  # the call itself continues when all have left
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    return counted[0]


@contextmanager
def _counted_lines() -> Iterator[list[int]]:
    count = [0]

    def trace(_frame: FrameType, event: str, _: object) -> Any:
        count[0] += event == "line"
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(previous)
