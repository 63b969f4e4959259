"""`[[warm]]`: queries and dashboards kept fresh without requests for them, and never at the expense of requests."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest
from support.waiting import until
from support.world import World

import gateway.warming.rounds
import gateway.warming.state
from gateway.sandbox.sample_objects import parameter

pytestmark = pytest.mark.standing_clock


class Naps:
    """Replaces asyncio in the warmer: its sleeps end when a test says so."""

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self._sleeping: list[asyncio.Future[None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        nap = asyncio.get_running_loop().create_future()
        self.lengths.append(seconds)
        self._sleeping.append(nap)
        await nap

    async def asleep(self, count: int = 1) -> None:
        """Wait until so many entries sleep."""
        await until(lambda: sum(not nap.done() for nap in self._sleeping) >= count)

    async def wake(self, count: int = 1) -> None:
        """Wake all of them when so many sleep."""
        await self.asleep(count)
        sleeping, self._sleeping = self._sleeping, []
        for nap in sleeping:
            if not nap.done():
                nap.set_result(None)

    async def round(self, count: int = 1) -> None:
        """Let so many entries make one round each."""
        await self.wake(count)
        await self.asleep(count)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    made = Naps()
    monkeypatch.setattr(gateway.warming.rounds, "asyncio", made)
    return made


def entry(*, every: str = "10m", credential: str = "analyst", **what: Any) -> str:
    """One entry of the configuration; `parameters` is TOML."""
    lines = [f"{name} = {value}" for name, value in what.items()]
    return "\n".join(["", "[[warm]]", *lines, f'every = "{every}"', f'credential = "{credential}"', ""])


def state(world: World, number: int = 0) -> gateway.warming.state.WarmState:
    return world.runtime.warmer.states[number]


async def counted(world: World) -> dict[str, float]:
    return {
        r: await world.metric("redash_gateway_warm_runs_total", result=r) for r in ("success", "failure", "skipped")
    }


# -- kept fresh


async def test_a_query_is_kept_fresh(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["now"]))
    await naps.round()
    runs = []
    for _ in range(3):
        reply = await bare.post("now", max_age=600)
        assert "hit" in reply.cache
        runs.append(reply.rows[0]["run"])
        bare.clock.turn(601)
        await naps.round()
    assert runs[1:] == [runs[0] + 1, runs[0] + 2]
    assert bare.started == 3
    assert (await counted(bare))["success"] == 4


async def test_with_the_parameters_it_names_and_defaults_for_the_rest(bare: World, naps: Naps) -> None:
    enum = parameter("country", "enum", "DE", enumOptions="DE\nFR")
    query_id = bare.sandbox.add_query(
        "two", "select '{{ country }}' as country, {{ n }} as n", parameters=[enum, parameter("n", "number", 7)]
    )
    await bare.start(entry(query=query_id, parameters='{ country = "FR" }'))
    await naps.round()
    assert "hit" in (await bare.post(query_id, max_age=600, parameters={"country": "FR", "n": 7})).cache
    assert "hit" in (await bare.get(f"/api/queries/{query_id}/results.json?p_country=FR&max_age=600")).cache
    assert bare.started == 1


async def test_dynamic_defaults_are_evaluated_at_each_round(bare: World, naps: Naps) -> None:
    # Nobody needs "the last seven days" of yesterday.
    query_id = bare.sandbox.add_query("d", "select '{{ d }}' as d", parameters=[parameter("d", "date", "d_now")])
    await bare.start(entry(query=query_id))
    await naps.round()
    assert "hit" in (await bare.post(query_id, max_age=600, parameters={"d": "2027-01-15"})).cache
    bare.clock.turn(86_400)
    await naps.round()
    assert "hit" in (await bare.post(query_id, max_age=600, parameters={"d": "2027-01-16"})).cache


@pytest.mark.parametrize("redash_version", ["8", "10", "26"])
@pytest.mark.parametrize("board", ["1", '"sales-overview"'])
async def test_every_query_on_a_dashboard(bare: World, naps: Naps, board: str) -> None:
    shown = bare.sandbox.database.queries_on(1)
    assert len(shown) > 2
    await bare.start(entry(dashboard=board, credential="admin"))
    await naps.round()
    before = bare.sandbox.counters.posts.copy()
    assert set(before) == shown
    bare.clock.turn(601)
    await naps.round()
    assert bare.sandbox.counters.posts == {query_id: count + 1 for query_id, count in before.items()}
    assert state(bare).name == f"warm dashboard {board}".replace('"', "")
    assert "hit" in (await bare.post("by_country", max_age=600, client="writer")).cache


async def test_a_query_new_on_the_dashboard_is_warmed_from_the_next_round_on(bare: World, naps: Naps) -> None:
    board = bare.sandbox.database.add_dashboard("Bare", 1, is_draft=False).id
    await bare.start(entry(dashboard=board))
    await naps.round()
    assert bare.sandbox.counters.posts.total() == 0
    shown = bare.sandbox.database.visualizations_of(bare.named["kb1"])[0]
    bare.sandbox.database.add_widget(board, shown.id)
    await naps.round()
    assert set(bare.sandbox.counters.posts) == {bare.named["kb1"]}


async def test_one_bad_query_leaves_the_others_of_a_dashboard_fresh(bare: World, naps: Naps) -> None:
    """Whole dashboards are kept fresh; one query that fails or is refused must not make the others stale."""
    board = bare.sandbox.database.add_dashboard("Mixed", 1, is_draft=False).id
    for name in ("by_country", "restricted", "failing", "kb1"):
        bare.sandbox.database.add_widget(board, bare.sandbox.database.visualizations_of(bare.named[name])[0].id)
    await bare.start(entry(dashboard=board))
    await naps.round()
    assert state(bare).failures == 1
    assert state(bare).last_error
    for name in ("by_country", "kb1"):
        assert "hit" in (await bare.post(name, max_age=600)).cache, name


async def test_a_fresh_result_is_not_run_again(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["now"]))
    await naps.round()
    await bare.rows("now", max_age=0)
    bare.clock.turn(300)
    count = bare.started
    await naps.round()
    assert bare.started == count
    # It checks again when the result of another client's run reaches its limit.
    assert 0.9 * 300 <= naps.lengths[-1] <= 300


async def test_an_edit_is_noticed(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["never_run"]))
    await naps.round()
    bare.sandbox.edit_query(bare.named["never_run"], query="select 8 as never_run_value")
    bare.clock.turn(121)
    await naps.round()
    reply = await bare.post("never_run", max_age=600)
    assert "hit" in reply.cache
    assert reply.rows == [{"never_run_value": 8}]


# -- spread


async def test_many_entries_do_not_start_at_once(bare: World, naps: Naps, monkeypatch: pytest.MonkeyPatch) -> None:
    # A start with many entries causes no burst on the warehouse, and nothing is run before the first pause.
    monkeypatch.setattr(gateway.warming.rounds, "random", random.Random(7))
    await bare.start("".join(entry(query=bare.named["now"]) for _ in range(20)))
    await naps.asleep(20)
    assert bare.sandbox.counters.requests == 0
    assert len({round(length, 3) for length in naps.lengths}) == 20
    assert min(naps.lengths) >= 0
    assert max(naps.lengths) <= 60
    assert max(naps.lengths) - min(naps.lengths) > 5


async def test_rounds_drift_apart(bare: World, naps: Naps) -> None:
    await bare.start("".join(entry(query=bare.named[name]) for name in ("now", "kb1", "by_country")))
    await naps.round(3)
    lengths = naps.lengths[3:]
    assert all(0.9 * 600 <= length <= 600 for length in lengths)
    assert len(set(lengths)) == 3


# -- giving way to callers


async def test_nothing_is_requested_while_the_breaker_is_open(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["now"]), upstream="breaker_failures = 2")
    await naps.asleep()
    await bare.sandbox.disconnect()
    while not bare.runtime.upstream.breaker.is_open:
        assert (await bare.get("/api/dashboards")).status in (502, 503)
    await bare.sandbox.reconnect()
    await naps.round()
    assert bare.sandbox.counters.requests == 0
    assert await counted(bare) == {"success": 0, "failure": 0, "skipped": 1}
    assert naps.lengths[-1] <= 10  # soon again: Redash may be back
    bare.clock.turn(11)
    await naps.round()
    assert await counted(bare) == {"success": 1, "failure": 0, "skipped": 1}


async def test_nothing_is_run_while_the_slots_are_taken(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["now"]), upstream="max_executions = 1")
    await naps.asleep()
    async with bare.sandbox.hold():
        job = (await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job
        await bare.sandbox.wait_executions(1)
        await naps.round()
        assert bare.sandbox.counters.posts[bare.named["now"]] == 0
        assert (await counted(bare))["skipped"] == 1
    await bare.finish(job["id"])
    await naps.round()
    assert (await counted(bare))["success"] == 1


async def test_a_dashboard_gives_way_between_its_queries(bare: World, naps: Naps) -> None:
    """Callers may have taken the slots since the round began: a long dashboard checks before each of its queries."""
    board = bare.sandbox.database.add_dashboard("Two", 1, is_draft=False).id
    for name in ("slow_seconds", "now"):  # in order of their ids
        bare.sandbox.database.add_widget(board, bare.sandbox.database.visualizations_of(bare.named[name])[0].id)
    bare.clock.turn(86_400)  # Redash's own results are too old
    await bare.start(entry(dashboard=board), upstream="max_executions = 1")
    first = bare.sandbox.hold(bare.named["slow_seconds"])
    callers = bare.sandbox.hold(bare.named["kb1"])
    await naps.wake()
    await bare.sandbox.wait_executions(1)
    job = (await bare.post("kb1", max_age=0)).job  # queued behind the first
    first.release()
    await bare.sandbox.wait_until(lambda: bare.sandbox.counters.started_by_query[bare.named["kb1"]] == 1)
    await naps.asleep()
    assert bare.sandbox.counters.posts[bare.named["now"]] == 0
    callers.release()
    await bare.finish(job["id"])


async def test_callers_get_a_slot_whatever_is_being_warmed(bare: World, naps: Naps) -> None:
    """A caller that waits for its rows must not wait behind warming, which no caller requested."""
    bare.clock.turn(86_400)
    entries = "".join(entry(query=bare.named[name]) for name in ("now", "by_country", "above"))
    await bare.start(entries, upstream="max_executions = 2")
    holds = [bare.sandbox.hold(bare.named[name]) for name in ("now", "by_country", "above")]
    await naps.wake(3)
    await bare.sandbox.wait_executions(1)
    try:
        async with asyncio.timeout(5):
            reply = await bare.post("kb1", max_age=0, wait=3)
        assert reply.status == 200
        assert "query_result" in reply.json
    finally:
        for hold in holds:
            hold.release()


async def test_a_caller_joins_a_warming_run(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["never_run"]))
    async with bare.sandbox.hold():
        await naps.wake()
        await bare.sandbox.wait_executions(1)
        call = asyncio.create_task(bare.post("never_run", max_age=60, wait=10))
        await until(lambda: any(x.callers > 1 for x in bare.runtime.executions.flights.running))
    assert (await call).rows == [{"never_run_value": 7}]
    assert bare.started == 1


# -- failures


async def test_failures_are_counted_and_visible(bare: World, naps: Naps, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    query_id = bare.sandbox.add_query("broken", "select * from not_there")
    await bare.start(entry(query=query_id))
    for _ in range(3):
        await naps.round()
        bare.clock.turn(601)
    assert await counted(bare) == {"success": 0, "failure": 3, "skipped": 0}
    async with bare.session.get(f"{bare.admin}/api/status") as response:
        shown = (await response.json())["warm"]
    assert [(warm["name"], warm["state"], warm["failures"]) for warm in shown] == [
        (f"warm query {query_id}", "failing", 3)
    ]
    said = [record.getMessage() for record in caplog.records if record.name == "gateway.warm"]
    assert len(said) == 1, "the same trouble is told once"
    assert "not_there" in said[0]
    bare.sandbox.edit_query(query_id, query="select 1 as x")
    bare.clock.turn(121)
    await naps.round()
    assert await counted(bare) == {"success": 1, "failure": 3, "skipped": 0}
    async with bare.session.get(f"{bare.admin}/api/status") as response:
        assert (await response.json())["warm"][0]["state"] == "fresh"
    said = [record.getMessage() for record in caplog.records if record.name == "gateway.warm"]
    assert said[1:] == [f"warm query {query_id}: works again"]


@pytest.mark.parametrize("what", ["gone", "refused", "away", "html", "no-dashboard"])
async def test_after_any_error_the_next_round_follows(bare: World, naps: Naps, what: str) -> None:
    # A task that ends with an error would leave its entry cold for ever, and it would not be noticed.
    number = {"gone": 999_999, "refused": bare.named["restricted"]}.get(what, bare.named["now"])
    await bare.start(entry(dashboard=999_999) if what == "no-dashboard" else entry(query=number))
    await naps.asleep()
    if what == "away":
        await bare.sandbox.disconnect()
    if what == "html":
        bare.sandbox.faults.add("html")
    for failures in (1, 2):
        await naps.round()
        bare.clock.turn(601)
        assert state(bare).failures == failures
        assert state(bare).last_error
        assert naps.lengths[-1] >= 1


async def test_no_internal_error_ends_an_entry(bare: World, naps: Naps, monkeypatch: pytest.MonkeyPatch) -> None:
    await bare.start(entry(query=bare.named["now"]))
    await naps.asleep()
    with monkeypatch.context() as patch:

        async def broken(*_: object) -> None:
            raise KeyError("a mistake of ours")

        patch.setattr(bare.runtime.results.definitions, "get", broken)
        await naps.round()
    assert state(bare).failures == 1
    await naps.round()
    assert state(bare).runs == 1


# -- reload and stop


async def test_a_reload_starts_the_new_entries(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["now"]))
    await naps.round()
    bare.reconfigure(bare.text.replace(entry(query=bare.named["now"]), entry(query=bare.named["kb1"], every="5m")))
    assert [(s.name, s.every) for s in bare.runtime.warmer.states] == [(f"warm query {bare.named['kb1']}", 300.0)]
    bare.sandbox.reset_counters()
    bare.clock.turn(601)
    await naps.round()
    assert set(bare.sandbox.counters.posts) == {bare.named["kb1"]}
    bare.reconfigure(bare.text.partition("[[warm]]")[0])
    assert bare.runtime.warmer.states == []


async def test_a_reload_does_not_end_the_run_in_progress(bare: World, naps: Naps) -> None:
    # Other callers may be waiting for it, too.
    await bare.start(entry(query=bare.named["never_run"]))
    async with bare.sandbox.hold():
        await naps.wake()
        await bare.sandbox.wait_executions(1)
        bare.reconfigure(bare.text.partition("[[warm]]")[0])
        call = asyncio.create_task(bare.post("never_run", max_age=60, wait=10))
        await until(lambda: any(x.callers > 1 for x in bare.runtime.executions.flights.running))
    assert (await call).rows == [{"never_run_value": 7}]
    assert bare.started == 1


async def test_stopping_does_not_wait_for_a_round(bare: World, naps: Naps) -> None:
    await bare.start(entry(query=bare.named["never_run"]))
    async with bare.sandbox.hold():
        await naps.wake()
        await bare.sandbox.wait_executions(1)
        async with asyncio.timeout(5):
            await bare.stop()
    del bare.session


async def test_with_real_time(bare: World) -> None:
    """Nothing is replaced: an entry of one second is run again and again."""
    await bare.start(entry(query=bare.named["now"], every="1s"))
    await until(lambda: bare.runtime.warmer.states[0].runs == 1)
    bare.clock.turn(2)
    count = bare.started
    await until(lambda: bare.started > count)
