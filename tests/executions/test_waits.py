"""What a run may wait for: one caller's mistake or slow query never holds up the others on its data source."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.waiting import until, within
from support.world import World

from gateway.concurrency.turns import TurnsByText
from gateway.errors import ServiceUnavailable
from gateway.executions.ending import Ending
from gateway.executions.execution import Execution, Phase
from gateway.sandbox.sample_objects import parameter

SECTION = "select {{#x}}'{{x}}'{{/x}}{{^x}}'none'{{/x}} as x"


def own_key(query: int) -> str:
    """A credential that is this query's own key, for the client `narrow`."""
    return f'[credentials.own-{query}]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n'


async def posted(world: World, count: int) -> None:
    await world.sandbox.wait_executions(count)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("select {{ n }} as n", "n"),
        ("select '{{ d.start }}' as a, '{{d.end}}' as b, {{ n }} as c", "d.end, d.start, n"),
        ("select 1 as one{{#x}}, {{ y }} as y{{/x}}", "x, y"),
        ("{{=<% %>=}}select <% n %> as n", "n"),
    ],
)
async def test_missing_parameters_are_refused_in_redashs_words(world: World, text: str, missing: str) -> None:
    # CONTRACT 6: no defaults are applied. It does not cost a run, a turn or a slot.
    query = world.sandbox.add_query("missing", text)
    reply = await world.post(query, client="sql", max_age=0)
    assert reply.status == 400, reply.body
    assert reply.json == {"job": {"status": 4, "error": f"Missing parameter value for: {missing}"}}
    assert world.sandbox.counters.posts[query] == 0


async def test_missing_parameters_of_free_sql_and_refresh_are_refused(world: World) -> None:
    body = {"query": "select {{ n }}", "data_source_id": 1, "max_age": 0}
    query = world.sandbox.add_query("missing", "select {{ n }} as n")
    for path, sent in [("/api/query_results", body), (f"/api/queries/{query}/refresh?p_other=1", {})]:
        reply = await world.call("POST", path, sent, client="sql")
        assert reply.status == 400, reply.body
        assert reply.json == {"job": {"status": 4, "error": "Missing parameter value for: n"}}
    assert world.sandbox.counters.started == 0


async def test_names_in_an_inverted_section_are_left_to_redash(world: World) -> None:
    # Redash does not look for names there.
    query = world.sandbox.add_query("inverted", "select 1 as one{{^x}}, {{ {{y}} }} 2 as two{{/x}}")
    await world.post(query, client="sql", max_age=0)
    assert world.sandbox.counters.posts[query] == 1


@pytest.mark.parametrize("text", [SECTION, "select '{{{x}}}' as x"])
async def test_a_users_run_waits_for_no_other_text(world: World, text: str) -> None:
    # Query keys are configured, but these responses carry their SQL: the guard can tell whose rows they are.
    slow = world.named["slow_seconds"]
    section = world.sandbox.add_query("section", text)
    async with world.sandbox.hold(slow), world.sandbox.hold(section), within(5):
        await world.post(slow, client="sql", max_age=0, parameters={"seconds": 0})
        for count, value in enumerate(("New York", "Paris"), start=2):
            await world.post(section, client="sql", max_age=0, parameters={"x": value})
            await posted(world, count)
        await world.rows("by_country", max_age=0)


async def test_query_keys_wait_for_no_other_query_on_their_source(bare: World) -> None:
    one = bare.sandbox.add_query("one", SECTION, parameters=[parameter("x", "enum", "a b", enumOptions="a b\nab\nc")])
    two = bare.sandbox.add_query("two", SECTION.replace("as x", "as y"))
    await bare.start(own_key(one) + own_key(two), narrow="text_parameters = true")
    async with bare.sandbox.hold(one), bare.sandbox.hold(two), within(5):
        await bare.post(one, client="narrow", max_age=0, parameters={"x": "a b"})
        await posted(bare, 1)
        await bare.post(two, client="narrow", max_age=0, parameters={"x": "ab"})
        await posted(bare, 2)
        await bare.post(one, client="narrow", max_age=0, parameters={"x": "c"})
        await posted(bare, 3)


async def test_colliding_texts_of_a_query_key_wait_within_a_limit(bare: World) -> None:
    query = bare.sandbox.add_query("one", SECTION, parameters=[parameter("x", "enum", "ab", enumOptions="a b\nab")])
    await bare.start(own_key(query), upstream='queue_timeout = "300ms"')
    async with bare.sandbox.hold(query), within(5):
        await bare.post(query, client="narrow", max_age=0, parameters={"x": "a b"})
        await posted(bare, 1)
        second = (await bare.post(query, client="narrow", max_age=0, parameters={"x": "ab"})).job
        assert await bare.metric("redash_gateway_waiting", kind="collision") == 1
        ended = await bare.finish(second["id"], client="narrow")
        assert ended["status"] == 4
        assert "busy" in ended["error"]
        assert await bare.metric("redash_gateway_waiting", kind="collision") == 0
        assert bare.sandbox.counters.started == 1


async def test_a_run_waits_for_an_earlier_one_of_its_key_within_a_limit(bare: World) -> None:
    # An edit makes the key's next run another one; the run of the old SQL may take hours.
    query = bare.sandbox.add_query("edited", "select 1 as x")
    await bare.start(upstream='queue_timeout = "300ms"', cache='definition_check = "0s"')
    async with bare.sandbox.hold(query), within(5):
        await bare.post(query, max_age=0)
        await posted(bare, 1)
        bare.sandbox.edit_query(query, query="select 2 as x")
        await bare.post(query, max_age=0)
        assert await bare.metric("redash_gateway_waiting", kind="earlier_run") == 1
        await posted(bare, 2)
        assert await bare.metric("redash_gateway_waiting", kind="earlier_run") == 0


async def test_who_waits_for_a_post_waits_no_longer_than_redash_may_take(bare: World) -> None:
    # The second caller may not join: its limit is narrower. It waits for the first POST, then sends its own.
    await bare.start(upstream='read_timeout = "300ms"')
    silent = bare.sandbox.faults.add("hang", route="/api/queries/<query_id>/results", method="POST")
    async with within(10):
        first = asyncio.create_task(bare.post("never_run", max_age=600))
        await until(lambda: silent.hits == 1)
        second = asyncio.create_task(bare.post("never_run", max_age=60))
        assert [(await first).status, (await second).status] == [504, 504]
    assert not bare.runtime.executions.flights.running


async def test_a_cancel_while_a_run_ends_does_not_keep_it(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody may wait for an execution that is over, nor may it count against `max_executions`.
    await bare.start(upstream="max_executions = 1")
    flights = bare.runtime.executions.flights
    record, ending, go = flights.record, asyncio.Event(), asyncio.Event()

    async def slow(execution: Execution, end: Ending | None = None) -> None:
        if end is not None and execution.phase is Phase.QUEUED:
            ending.set()
            await go.wait()
        await record(execution, end)

    monkeypatch.setattr(flights, "record", slow)
    async with bare.sandbox.hold(), within(10):
        await bare.post("now", max_age=0)
        jobs = [(await bare.post("never_run", client=client, max_age=0)).job for client in ("dashboard", "second")]
        bare.clock.turn(61)  # neither of them was polled lately
        path = f"/api/jobs/{jobs[0]['id']}"
        first = asyncio.create_task(bare.call("DELETE", path))
        await ending.wait()
        assert (await first).status == 200
        assert (await bare.call("DELETE", f"/api/jobs/{jobs[1]['id']}", client="second")).status == 200
        go.set()
        await until(lambda: len(flights.running) == 1)


@pytest.mark.parametrize("source", ["1", "01", 1.0, True, [1], {}])
async def test_data_sources_are_named_by_whole_numbers_only(world: World, source: Any) -> None:
    # Redash takes "1" and 1.0 for 1; texts are kept apart by data source.
    body = {"query": "select 1", "data_source_id": source, "max_age": 0}
    reply = await world.call("POST", "/api/query_results", body, client="sql")
    assert reply.status == 400, reply.body
    assert "data_source_id" in reply.json["detail"]
    assert world.sandbox.counters.started == 0


# -- turns


class Runs:
    """Runs that hold a turn until they are told to leave."""

    def __init__(self) -> None:
        self.turns = TurnsByText()
        self.inside: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[Any]] = []

    async def start(self, name: str, text: str, *, blind: bool, timeout: float = 60) -> asyncio.Task[None]:
        self.leave[name] = asyncio.Event()
        task = asyncio.create_task(self._run(name, text.encode(), blind=blind, timeout=timeout))
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def _run(self, name: str, text: bytes, *, blind: bool, timeout: float) -> None:
        async with self.turns.hold(b"key", text, blind=blind, timeout=timeout):
            self.inside.append(name)
            await self.leave[name].wait()
            self.inside.remove(name)

    async def end(self, name: str) -> None:
        self.leave[name].set()
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def runs() -> Any:
    made = Runs()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    assert made.turns._lines == {}  # nothing is kept


async def test_runs_that_can_be_checked_do_not_wait_for_each_other(runs: Runs) -> None:
    await runs.start("one", "a b", blind=False)
    await runs.start("two", "ab", blind=False)
    assert runs.inside == ["one", "two"]


async def test_a_blind_run_meets_no_other_text(runs: Runs) -> None:
    await runs.start("user", "a b", blind=False)
    await runs.start("blind", "ab", blind=True)
    await runs.start("same", "a b", blind=False)
    assert runs.inside == ["user", "same"]
    assert runs.turns.waiting == 1
    await runs.end("user")
    await runs.end("same")
    assert runs.inside == ["blind"]
    await runs.start("joins", "ab", blind=False)
    await runs.start("other", "a b", blind=False)
    assert runs.inside == ["blind", "joins"]
    await runs.end("blind")
    assert runs.inside == ["joins", "other"]


async def test_no_blind_run_starves(runs: Runs) -> None:
    await runs.start("first", "a b", blind=True)
    await runs.start("second", "ab", blind=True)
    await runs.start("third", "a b", blind=True)
    assert runs.inside == ["first"]
    await runs.end("first")
    assert runs.inside == ["second"]
    await runs.end("second")
    assert runs.inside == ["third"]


async def test_who_gives_up_holds_up_nobody(runs: Runs) -> None:
    await runs.start("first", "a b", blind=True)
    late = await runs.start("second", "ab", blind=True, timeout=0.01)
    await runs.start("third", "a b", blind=True)
    assert runs.inside == ["first"]
    with pytest.raises(ServiceUnavailable):
        await late
    await until(lambda: runs.inside == ["first", "third"])


async def test_who_is_cancelled_with_his_turn_gives_it_on(runs: Runs) -> None:
    await runs.start("first", "a b", blind=True)
    second = await runs.start("second", "ab", blind=True)
    await runs.start("third", "a b", blind=True)
    runs.leave["first"].set()
    await asyncio.sleep(0)
    second.cancel()
    await until(lambda: runs.inside == ["third"])
