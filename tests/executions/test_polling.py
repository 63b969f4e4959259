"""When Redash is polled: around the end that the last run of the query lets expect, and seldom otherwise."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.inside import polling_every
from support.waiting import within
from support.world import World

from gateway.executions import jobs, polling
from gateway.executions.expectations import Expectation
from gateway.executions.polling import Polls, pause

FINISHED = 3
NESTED_JOB = "GET /api/queries/<query_id>/jobs/<job_id>"
LONGEST_USUAL = 2.0
RUNTIMES = st.floats(0.001, 3600.0)
EXPECTED = st.one_of(st.just(0.0), st.floats(0.006, 3600.0))
SPANS = st.floats(0.001, 600.0)


def usual(elapsed: float) -> float:
    """The pause of a run about which nothing is known: an end is noticed a fifth of the run too late, at most 2 s."""
    return min(LONGEST_USUAL, max(0.1, elapsed / 5))


def times(pause_at: Callable[[float], float]) -> Iterator[float]:
    """When a run is polled, if the polls take no time."""
    elapsed = 0.0
    while True:
        elapsed += pause_at(elapsed)
        yield elapsed


def polls_until(ended: float, pause_at: Callable[[float], float]) -> list[float]:
    """The polls of a run that ends then; the last one finds it ended."""
    polled = list(itertools.takewhile(lambda at: at < ended, times(pause_at)))
    return [*polled, next(at for at in times(pause_at) if at >= ended)]


# -- the schedule


@given(EXPECTED, SPANS)
def test_a_run_costs_no_more_polls_than_without_an_expectation(expected: float, ended: float) -> None:
    # If it ends as expected, or earlier. A late one costs at most four more, all of them in its first 200 ms.
    mine, others = polls_until(ended, lambda at: pause(at, expected)), polls_until(ended, usual)
    assert len(mine) <= len(others) + (4 if ended > expected else 0)


@given(RUNTIMES)
def test_one_poll_falls_on_the_expected_end(expected: float) -> None:
    assert polls_until(expected - 1e-9, lambda at: pause(at, expected))[-1] == pytest.approx(expected)


@given(EXPECTED, SPANS)
def test_an_end_is_never_noticed_much_later_than_usual(expected: float, ended: float) -> None:
    # An early one: half a pause later, and the pause before the expected end may be longer by another one.
    # A late one: in the first 200 ms as late as the run already is, so at most twice.
    noticed = polls_until(ended, lambda at: pause(at, expected))[-1]
    late = ended - expected
    assert noticed - ended <= (max(0.02, late, usual(ended)) if late > 0 else 2.5 * usual(ended)) + 1e-9


@given(EXPECTED, st.floats(0.0, 600.0), st.floats(0.0, 600.0))
def test_pauses_of_a_late_run_grow_until_they_are_the_usual_ones(expected: float, one: float, other: float) -> None:
    sooner, later = sorted((one, other))
    first, second = pause(expected + sooner, expected), pause(expected + later, expected)
    assert 0.02 <= first <= LONGEST_USUAL
    assert first <= second or sooner < 0.2 <= later  # from the doubled pauses back to the usual ones
    assert later < 10.0 or second == usual(expected + later)


@given(st.floats(0.0, 3600.0), st.floats(0.0, 43_200.0))
def test_no_expectation_stops_the_polls(elapsed: float, expected: float) -> None:
    # Redash may claim any runtime.
    assert 0.0 < pause(elapsed, expected) <= 2.5 * LONGEST_USUAL


def test_a_run_of_unknown_length_is_polled_soon_and_then_as_usual() -> None:
    first = list(itertools.islice(times(lambda at: pause(at, 0.0)), 7))
    assert first == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.42, 0.52])
    for ended in (0.3, 1.0, 5.0, 60.0):
        assert len(polls_until(ended, lambda at: pause(at, 0.0))) <= len(polls_until(ended, usual)) + 2


# -- what the last run lets expect


def after_runs(count: int, runtime: float, overhead: float) -> tuple[Expectation, list[int]]:
    """What so many equal runs let expect, and how many polls each has cost."""
    expectation, counts = Expectation(), []
    for _ in range(count):
        expected = expectation.seconds()
        polls, seen = Polls(0.0, expected), polls_until(runtime + overhead, lambda at, e=expected: pause(at, e))
        for at in seen:
            polls.record(FINISHED if at >= runtime + overhead else 2, at)
        counts.append(len(seen))
        expectation = expectation.after(runtime, polls)
    return expectation, counts


@pytest.mark.parametrize("runtime", [0.02, 0.3, 5.0, 60.0])
def test_a_second_run_is_noticed_in_time(runtime: float) -> None:
    took = runtime + 0.002
    expectation, _ = after_runs(1, runtime, 0.002)
    noticed = polls_until(took, lambda at: pause(at, expectation.seconds()))
    assert noticed[-1] <= 1.1 * took + 0.015
    assert len(noticed) <= len(polls_until(took, usual))


@given(st.floats(0.02, 60.0), st.floats(0.0, 0.5))
def test_the_overhead_of_redash_is_learned(runtime: float, overhead: float) -> None:
    # A worker that takes 60 ms to start must not cost each run of 20 ms three polls in vain.
    expectation, counts = after_runs(20, runtime, overhead)
    today = len(polls_until(runtime + overhead, usual))
    assert sum(counts[4:]) / 16 <= today + 1.0
    assert expectation.seconds() <= 1.3 * (runtime + overhead) + 0.1


@given(st.floats(0.05, 60.0))
def test_runs_without_a_runtime_are_expected_by_their_polls(seconds: float) -> None:
    # Results for query keys do not contain it (CONTRACT 8).
    expectation, counts = after_runs(20, 0.0, seconds)
    assert 0.7 * seconds <= expectation.seconds() <= 1.4 * seconds + 0.1
    assert sum(counts[4:]) / 16 <= len(polls_until(seconds, usual)) + 1.0


def test_a_wait_in_redashs_queue_says_nothing_about_the_next_run() -> None:
    polls = Polls(0.0, 0.05)
    for status, at in ((1, 0.05), (2, 5.0), (3, 6.0)):
        polls.record(status, at)
    assert Expectation(0.04, 0.02).after(0.04, polls) == Expectation(0.04, 0.02)


# -- a gateway


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What each run was expected to take when it was polled first."""
    seen: list[float] = []
    original = polling.pause

    def watched(elapsed: float, seconds: float) -> float:
        seen.append(seconds)
        return original(elapsed, seconds)

    monkeypatch.setattr(polling, "pause", watched)
    return seen


async def runtime_of(world: World, seconds: float) -> float:
    reply = await world.post("slow_seconds", max_age=0, wait=30, parameters={"seconds": seconds})
    return float(reply.json["query_result"]["runtime"])


async def test_the_second_run_of_a_query_is_expected_to_take_as_long_as_the_first(
    world: World, expected: list[float]
) -> None:
    runtime = await runtime_of(world, 0.03)
    assert set(expected) == {0.0}
    expected.clear()
    await runtime_of(world, 0.03)
    assert set(expected) == {max(expected)}
    assert expected[0] >= runtime
    assert world.sandbox.counters.by_route["GET /api/jobs/<job_id>"] >= 2


async def test_other_parameters_are_expected_to_take_as_long_as_the_last_ones(
    world: World, expected: list[float]
) -> None:
    # Dashboards ask for another day every day.
    runtime = await runtime_of(world, 0.03)
    expected.clear()
    await runtime_of(world, 0.001)
    assert expected[0] >= runtime
    expected.clear()
    await runtime_of(world, 0.03)  # its own stored result says more than the last run
    assert expected[0] >= runtime


async def test_a_stored_result_lets_the_next_process_expect_the_end(world: World, expected: list[float]) -> None:
    runtime = await runtime_of(world, 0.03)
    await world.restart()
    expected.clear()
    await runtime_of(world, 0.03)
    assert expected[0] >= runtime


async def test_free_sql_is_expected_by_its_last_run(world: World, expected: list[float]) -> None:
    body = {"query": "select sleep(0.03) as slept", "data_source_id": 1, "max_age": 0}
    for _ in range(2):
        await world.call("POST", "/api/query_results", body, client="sql", headers={"Prefer": "wait=30"})
    assert expected[0] == 0.0
    assert expected[-1] >= 0.03


async def test_runs_by_a_query_key_are_expected_by_their_polls(world: World, expected: list[float]) -> None:
    # Their results do not contain the runtime (CONTRACT 8).
    async with world.sandbox.hold():
        first = asyncio.create_task(
            world.post("in_country", client="narrow", wait=30, max_age=0, parameters={"country": "FR"})
        )
        await world.sandbox.wait_until(lambda: world.sandbox.counters.by_route[NESTED_JOB] >= 2)
    assert "query_result" in (await first).json
    assert set(expected) == {0.0}
    await world.post("in_country", client="narrow", wait=30, max_age=0, parameters={"country": "FR"})
    assert expected[-1] > 0.0


# -- callers that poll


async def test_a_caller_that_polls_waits_for_a_poll_that_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else it would learn the end only by its next request, a second later: clients of Redash poll once a second.
    monkeypatch.setattr(jobs, "NEAR_SECONDS", 30.0)
    with polling_every(0.02):
        job = (await world.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job
        await world.sandbox.wait_until(lambda: world.sandbox.counters.finished == 1)
        assert (await world.get(f"/api/jobs/{job['id']}")).job["status"] == FINISHED


async def test_a_caller_that_polls_gets_what_the_next_poll_shows(world: World) -> None:
    # It does not wait for the end of the run: a caller may have its own limit.
    with polling_every(0.02):
        async with world.sandbox.hold(), within(5):
            job = (await world.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job
            await world.sandbox.wait_executions(1)
            for _ in range(3):
                assert (await world.get(f"/api/jobs/{job['id']}")).job["status"] in (1, 2)


async def test_a_caller_that_polls_between_two_polls_gets_a_response_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with polling_every(60.0):
        async with world.sandbox.hold(), within(5):
            job = (await world.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job
            monkeypatch.setattr(jobs, "wait_for", None)  # it would fail
            assert (await world.get(f"/api/jobs/{job['id']}")).job["status"] in (1, 2)
            monkeypatch.undo()
