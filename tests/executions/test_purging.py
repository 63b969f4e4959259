"""Purges by those who load data: `POST /gateway/purge`, within the scopes and the binding of the client that asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.calls import AS_OPERATOR
from support.http import Reply
from support.world import World

LOADER = 'can = ["read", "execute", "purge"]\n'
DAY = 86_400


async def purge(world: World, what: object, client: str = "dashboard") -> Reply:
    return await world.call("POST", "/gateway/purge", what, client=client)


async def purged(world: World, what: object, client: str = "dashboard") -> dict[str, Any]:
    reply = await purge(world, what, client)
    assert reply.status == 200, reply.body
    shown: dict[str, Any] = reply.json
    return shown


async def stored(world: World, *names: str, client: str = "dashboard") -> None:
    """Let the gateway have results of these queries."""
    for name in names:
        await world.post(name, client=client, wait=20, max_age=DAY)
        assert await is_hit(world, name, client=client), name


async def is_hit(world: World, name: str, client: str = "dashboard") -> bool:
    # Without a wait, and not forced: what is stored is the response, and nothing is run for the question.
    query = world.named[name]
    head = await world.call("HEAD", f"/api/queries/{query}/results.json?max_age={DAY}", client=client)
    return "; hit" in head.cache


async def data_source(world: World, name: str) -> int:
    source: int = (await world.get(f"/api/queries/{world.named[name]}")).json["data_source_id"]
    return source


async def test_only_a_client_that_may_can_purge(world: World) -> None:
    await stored(world, "kb1")
    refused = await purge(world, {"query": world.named["kb1"]})
    assert refused.status == 403
    assert "'purge'" in refused.json["detail"]
    assert await is_hit(world, "kb1")


@pytest.mark.parametrize(
    "what",
    [
        *({}, [], "x", None, b"{", {"query": 0}, {"query": True}, {"query": "1"}, {"query": 2**60}, {"tag": ""}),
        b'{"query": 1, "query": 2}',  # one of them would stay
        *({"tag": "x" * 201}, {"data_source": 1.0}, {"query": 1, "tag": "x"}, {"all": True}, {"scope": "analyst"}),
    ],
)
async def test_nothing_else_can_be_purged(bare: World, what: object) -> None:
    # A client names neither scopes nor everything: it has only its own.
    await bare.start(dashboard=LOADER)
    body = b"null" if what is None else what
    assert (await purge(bare, body)).status == 400


async def test_a_query_a_data_source_and_a_tag(bare: World) -> None:
    await bare.start(dashboard=LOADER)
    bare.sandbox.queries[bare.named["kb100"]].tags = ["sales"]
    names = ("by_country", "kb100", "kb1")
    for what, gone in (
        ({"query": bare.named["kb1"]}, {"kb1"}),
        ({"tag": "sales"}, {"by_country", "kb100"}),
        ({"tag": "daily"}, {"by_country"}),
        ({"tag": "none"}, set()),
        ({"data_source": await data_source(bare, "kb1")}, set(names)),
        ({"data_source": 99}, set()),
    ):
        await stored(bare, *names)
        shown = await purged(bare, what)
        assert {name for name in names if not await is_hit(bare, name)} == gone, what
        assert shown["queries"] == len(gone), shown
        assert bool(shown["purged"]) == bool(gone)
        assert "notes" not in shown


async def test_dashboards_see_new_data_at_once(bare: World) -> None:
    # Redash knows of no purge: asked for rows of the last day, it would give those from before the load.
    await bare.start(dashboard=LOADER)
    await stored(bare, "now", "kb1")
    before = await bare.rows("now", max_age=DAY)
    for what in ({"query": bare.named["now"]}, {"data_source": await data_source(bare, "now")}):
        bare.clock.turn(10)
        await purged(bare, what)
        bare.clock.turn(3)
        started = bare.started
        after = await bare.rows("now", max_age=DAY)
        assert after != before, what
        assert await bare.rows("now", max_age=DAY) == after
        assert bare.started == started + 1
        before = after
    bare.clock.turn(60)
    assert await bare.rows("now") == before, "rows of any age: those from after the purge are as good as new ones"
    assert bare.started == started + 1


async def test_what_is_not_known_of_a_query_is_said_and_the_query_purged(bare: World) -> None:
    await bare.start(dashboard=LOADER)
    await stored(bare, "kb1")
    definitions = bare.runtime.results.definitions
    definitions._known.pop(bare.named["kb1"])  # out of memory; the store has it
    assert (await purged(bare, {"data_source": 99}))["queries"] == 0

    async def lost(query_id: int, scope: str) -> None:
        return None

    definitions.remembered = lost  # type: ignore[method-assign]
    shown = await purged(bare, {"tag": "none"})
    assert (shown["queries"], len(shown["notes"])) == (1, 1), shown
    assert not await is_hit(bare, "kb1")


async def test_another_scope_keeps_what_it_has(bare: World) -> None:
    await bare.start(dashboard=LOADER)
    await stored(bare, "by_country")
    await stored(bare, "by_country", client="writer")
    for what in ({"query": bare.named["by_country"]}, {"tag": "sales"}, {"data_source": 1}):
        await stored(bare, "by_country")
        await purged(bare, what)
        assert not await is_hit(bare, "by_country")
        assert await is_hit(bare, "by_country", client="writer"), what


async def test_a_bound_client_purges_its_queries_only(bare: World) -> None:
    only = bare.named["by_country"]
    bare.sandbox.queries[bare.named["kb100"]].tags = ["sales"]
    await bare.start(dashboard=f"{LOADER}queries = [{only}]")
    await stored(bare, "by_country", "kb100", "kb1", client="second")  # the same scope
    refused = await purge(bare, {"query": bare.named["kb1"]})
    assert refused.status == 403
    assert (await purged(bare, {"tag": "sales"}))["queries"] == 1
    assert [await is_hit(bare, name, "second") for name in ("by_country", "kb100", "kb1")] == [0, 1, 1]
    await stored(bare, "by_country", client="second")
    assert (await purged(bare, {"data_source": 1}))["queries"] == 1
    assert [await is_hit(bare, name, "second") for name in ("by_country", "kb100", "kb1")] == [0, 1, 1]


def board_with(world: World, name: str) -> int:
    """The id of a dashboard that shows one query."""
    database = world.sandbox.database
    board = database.add_dashboard("Bound", 1, is_draft=False).id
    database.add_widget(board, database.visualizations_of(world.named[name])[0].id)
    return board


@pytest.mark.parametrize("what", [{"data_source": 1}, {"tag": "sales"}])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("binding", ["queries", "dashboards"])
async def test_a_bound_client_purges_also_what_only_redash_has(
    bare: World, what: dict[str, Any], known: bool, binding: str
) -> None:
    # Its own query, whether its source and tags are known or not, and no other one, though that is covered, too.
    own, other = "kb1", "by_country"
    bare.sandbox.queries[bare.named[own]].tags = ["sales"]
    bound = [bare.named[own]] if binding == "queries" else [board_with(bare, own)]
    await bare.start(dashboard=f"{LOADER}{binding} = {bound}")
    for name in (own, other) if known else ():
        assert not await is_hit(bare, name, client="second")  # this reads its definition
    old = {name: await bare.sandbox.execute_directly(bare.named[name]) for name in (own, other)}
    bare.clock.turn(10)
    assert (await purged(bare, what))["queries"] == known, "of which anything is stored: a definition"
    for name, same in ((own, False), (other, True)):
        reply = await bare.post(name, client="second", wait=20, max_age=DAY)
        assert (reply.json["query_result"]["id"] == old[name].id) is same, name


async def test_a_bound_client_s_purge_leaves_its_other_queries(bare: World) -> None:
    await bare.start(dashboard=f"{LOADER}queries = [{bare.named['kb1']}]")
    assert not await is_hit(bare, "kb1", client="second")  # known: it has neither the tag nor the source
    old = await bare.sandbox.execute_directly(bare.named["kb1"])
    bare.clock.turn(10)
    for what in ({"tag": "none"}, {"data_source": 99}):
        await purged(bare, what)
    assert (await bare.post("kb1", wait=20, max_age=DAY)).json["query_result"]["id"] == old.id


async def test_rows_of_a_run_from_before_the_load_are_not_taken_from_redash_either(bare: World) -> None:
    # Their end is after the load, so by its age Redash would give them; they may have been read before it.
    await bare.start(dashboard=LOADER)
    with bare.sandbox.hold():
        first = asyncio.create_task(bare.post("by_country", wait=20, max_age=0))
        await bare.sandbox.wait_executions(1)
        await purged(bare, {"tag": "sales"})
        bare.clock.turn(30)
    old = (await first).json["query_result"]["id"]
    bare.clock.turn(5)
    reply = await bare.post("by_country", wait=20, max_age=DAY)
    assert (reply.json["query_result"]["id"] != old, bare.started) == (True, 2)


@pytest.mark.parametrize("what", ["query", "data_source", "tag"])
async def test_a_run_that_is_under_way_brings_rows_from_before_the_load(bare: World, what: str) -> None:
    await bare.start(dashboard=LOADER)
    target = {"query": bare.named["by_country"], "data_source": 1, "tag": "sales"}[what]
    with bare.sandbox.hold():
        first = asyncio.create_task(bare.post("by_country", wait=20, max_age=0))
        await bare.sandbox.wait_executions(1)
        await purged(bare, {what: target})
        later = asyncio.create_task(bare.post("by_country", wait=20, max_age=DAY))
        await asyncio.sleep(0.05)
    assert (await first).status == 200
    assert "fwd=uri-miss" in (await later).cache
    assert "collapsed" not in (await later).cache, "who comes after the load does not join a run from before it"
    assert bare.started == 2
    assert (await first).json["query_result"]["id"] != (await later).json["query_result"]["id"]
    assert await is_hit(bare, "by_country")


@pytest.mark.parametrize("what", ["query", "data_source", "tag"])
async def test_a_restart_brings_no_rows_from_before_the_load_back(bare: World, what: str) -> None:
    # The store has deleted them, but Redash has them still, and would give them by their age.
    await bare.start(dashboard=LOADER)
    await stored(bare, "by_country")
    await purged(bare, {what: {"query": bare.named["by_country"], "data_source": 1, "tag": "sales"}[what]})
    before = bare.started
    await bare.restart()
    assert not await is_hit(bare, "by_country")
    await bare.post("by_country", wait=20, max_age=DAY)
    assert bare.started == before + 1
    await bare.post("by_country", wait=20, max_age=DAY)
    assert bare.started == before + 1, "rows from after the load count by their age, as before"


async def test_a_restart_brings_no_rows_of_a_run_back_that_the_load_has_overtaken(bare: World) -> None:
    # It ends after the load, and after the restart: as a result of the store, and as one that only Redash has.
    await bare.start(dashboard=LOADER)
    with bare.sandbox.hold():
        first = asyncio.create_task(bare.post("by_country", max_age=0))
        await bare.sandbox.wait_executions(1)
        await purged(bare, {"tag": "sales"})
        await first
        await bare.restart()
        bare.clock.turn(30)
    await bare.finish((await first).job["id"])
    await bare.restart()
    assert not await is_hit(bare, "by_country")
    await bare.post("by_country", wait=20, max_age=DAY)
    assert bare.started == 2


async def test_who_accepts_any_age_joins_the_run_that_new_data_makes_necessary(bare: World) -> None:
    # A run that the load has overtaken ends later, so the stored result of other values counts as out of date, too;
    # Redash would run the query for a request of its own, not only say which result is the newest.
    await bare.start(dashboard=LOADER, cache='any_age_confirm = "10s"')
    query = bare.named["slow_seconds"]
    overtaken = (await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0.3})).job["id"]
    await bare.sandbox.wait_executions(1)
    await purged(bare, {"query": query})
    await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0}, wait=20)
    await bare.finish(overtaken)
    bare.clock.turn(11)
    with bare.sandbox.hold():
        running = (await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job["id"]
        await bare.sandbox.wait_executions(3)
        joined = (await bare.post("slow_seconds", max_age=-1, parameters={"seconds": 0})).job["id"]
    ends = [await bare.finish(job) for job in (running, joined)]
    assert ends[0]["query_result_id"] == ends[1]["query_result_id"]
    assert bare.sandbox.counters.posts[query] == 3


async def test_free_sql_of_a_source_is_purged_and_has_no_tags(bare: World) -> None:
    await bare.start()
    sql = {"query": "select 1 as one", "data_source_id": 1, "max_age": DAY}
    for _ in range(2):
        reply = await bare.call("POST", "/api/query_results", sql, client="sql", headers={"Prefer": "wait=10"})
    assert "; hit" in reply.cache
    for what, kept in (({"tag": "sales"}, True), ({"data_source": 1}, False)):
        await bare.purge(what)
        reply = await bare.call("POST", "/api/query_results", sql, client="sql", headers={"Prefer": "wait=10"})
        assert ("; hit" in reply.cache) is kept, what


async def test_an_operator_purges_in_all_scopes(world: World) -> None:
    for what in ({"tag": "sales"}, {"data_source": 1}, {"query": world.named["by_country"]}):
        await stored(world, "by_country")
        await stored(world, "by_country", client="writer")
        async with world.session.post(f"{world.admin}/purge", json=what, headers=AS_OPERATOR) as response:
            assert response.status == 200
            assert (await response.json())["purged"] >= 2
        assert not await is_hit(world, "by_country")
        assert not await is_hit(world, "by_country", client="writer")


async def test_where_the_store_cannot_be_listed_all_of_the_scope_is_purged(bare: World) -> None:
    await bare.start(dashboard=LOADER)
    await stored(bare, "kb1")

    async def unlisted(_: str) -> None:
        return None

    bare.runtime.results.cache.queries = unlisted  # type: ignore[assignment]
    shown = await purged(bare, {"tag": "none"})
    assert len(shown["notes"]) == 1
    assert not await is_hit(bare, "kb1")


@pytest.mark.parametrize("what", [{"all": True}, {"scope": "analyst"}])
async def test_an_operator_s_purge_of_everything_is_no_less_than_that_of_a_query(
    bare: World, what: dict[str, Any]
) -> None:
    # Redash would give the rows from before it: those that were stored here, and others.
    await bare.start()
    await stored(bare, "by_country")
    await bare.sandbox.execute_directly(bare.named["kb1"])
    bare.clock.turn(10)
    started = bare.started
    await bare.purge(what)
    await bare.restart()
    bare.clock.turn(5)
    for name in ("by_country", "kb1", "by_country", "kb1"):
        await bare.post(name, wait=20, max_age=DAY)
    assert bare.started == started + 2, "each once"


async def test_purging_a_scope_runs_nothing_in_another_one(bare: World) -> None:
    await bare.start()
    old = await bare.sandbox.execute_directly(bare.named["by_country"])
    bare.clock.turn(10)
    await bare.purge({"scope": "analyst"})
    reply = await bare.post("by_country", client="writer", wait=20, max_age=DAY)
    assert reply.json["query_result"]["id"] == old.id


async def test_where_the_store_cannot_be_listed_only_what_was_named_is_run_again(bare: World) -> None:
    # All of the scope is deleted, because nobody knows better; but Redash need not run all of it again for that.
    await bare.start(dashboard=LOADER)
    old = await bare.sandbox.execute_directly(bare.named["kb1"])
    bare.clock.turn(10)

    async def unlisted(_: str) -> None:
        return None

    bare.runtime.results.cache.queries = unlisted  # type: ignore[assignment]
    await purged(bare, {"tag": "none"})
    assert (await bare.post("kb1", wait=20, max_age=DAY)).json["query_result"]["id"] == old.id
