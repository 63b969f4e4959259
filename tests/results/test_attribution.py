"""Whose result is it? Redash shows any result below the path of any query (CONTRACT 2, 20.9), finds results by a hash
that is blind to white space (CONTRACT 7), and gives result ids again after its database was set back.
"""

from __future__ import annotations

import pytest
from security.front import client
from support.calls import token
from support.http import Reply
from support.inside import polling_every
from support.world import World

SHOP, BACK_OFFICE = 1, 2
CHECK_SECONDS = 61.0
"""Just longer than `definition_check`."""

FORMS = ("json", "csv", "tsv", "xlsx")


def analysts(world: World) -> int:
    return next(group.id for group in world.sandbox.database.groups.values() if group.name == "Analysts")


def open_back_office(world: World) -> None:
    """The analyst's key may read the back office from now on."""
    world.sandbox.database.sources[BACK_OFFICE].groups[analysts(world)] = False


def close_back_office(world: World) -> None:
    del world.sandbox.database.sources[BACK_OFFICE].groups[analysts(world)]


async def run(world: World, query: int, *, client: str = "dashboard") -> int:
    """Run a query anew; the id of its result."""
    job = await world.finish((await world.post(query, client=client, max_age=0)).job["id"], client=client)
    assert job["status"] == 3, job
    result_id: int = job["query_result_id"]
    return result_id


async def as_client(world: World, who: str, path: str) -> Reply:
    return await world.call("GET", path, client=None, headers={"Authorization": f"Key {token(who)}"})


# -- through another query's path


@pytest.mark.parametrize("form", FORMS)
async def test_a_revoked_source_closes_a_result_below_every_path(world: World, form: str) -> None:
    # The source of the *result* decides in Redash, whatever query the path names (CONTRACT 2).
    open_back_office(world)
    result_id = await run(world, world.named["restricted"])
    path = f"/api/queries/{world.named['by_country']}/results/{result_id}.{form}"
    assert (await world.get(path)).status == 200
    assert (await world.get(path)).status == 200
    close_back_office(world)
    world.clock.turn(CHECK_SECONDS)
    assert (await world.get(path)).status == 403
    assert (await world.get(f"/api/query_results/{result_id}.{form}")).status == 403


@pytest.mark.parametrize("form", FORMS)
async def test_a_result_that_nobody_ran_here_is_asked_of_redash_again(world: World, form: str) -> None:
    open_back_office(world)
    result_id = (await world.sandbox.execute_directly(world.named["restricted"])).id
    paths = [
        f"/api/queries/{world.named['by_country']}/results/{result_id}.{form}",
        f"/api/query_results/{result_id}.{form}",
    ]
    for path in paths * 2:
        assert (await world.get(path)).status == 200
    close_back_office(world)
    world.clock.turn(CHECK_SECONDS)
    for path in paths:
        assert (await world.get(path)).status == 403, path


async def test_a_query_that_moved_to_another_source_does_not_open_its_old_results(world: World) -> None:
    # CONTRACT 11: access to the old result goes by the old source.
    open_back_office(world)
    query = world.sandbox.add_query("moves", "select 3 as n", data_source_id=BACK_OFFICE)
    result_id = await run(world, query)
    assert (await world.get(f"/api/query_results/{result_id}.json")).status == 200
    world.sandbox.edit_query(query, data_source_id=SHOP)
    close_back_office(world)
    world.clock.turn(CHECK_SECONDS)
    for path in (f"/api/query_results/{result_id}.json", f"/api/queries/{query}/results/{result_id}.csv"):
        assert (await world.get(path)).status == 403, path
    assert (await world.get(f"/api/queries/{query}/results.json")).status == 403


async def test_a_result_of_two_queries_is_open_through_either(world: World) -> None:
    first, second = (world.sandbox.add_query(name, "select 4 as n") for name in ("one", "two"))
    result_id = await run(world, first)
    assert (await world.get(f"/api/queries/{second}/results.json")).json["query_result"]["id"] == result_id
    for query in (first, second):
        assert "hit" in (await world.get(f"/api/queries/{query}/results.json")).cache
        assert "hit" in (await world.get(f"/api/queries/{query}/results/{result_id}.json")).cache


# -- bound clients


@pytest.fixture
async def bound(bare: World) -> World:
    """`own` may use the query "mine" only, `free` all."""
    mine = bare.sandbox.add_query("mine", "select 'a b' as v")
    bare.named["mine"] = mine
    tables = [client("own", f"queries = [{mine}]", credentials='"analyst"'), client("free", credentials='"analyst"')]
    await bare.start("\n".join(tables))
    return bare


@pytest.mark.parametrize("sql", ["select 'a b' as v", "select 'ab' as v"])
@pytest.mark.parametrize("source", [SHOP, BACK_OFFICE])
@pytest.mark.parametrize("form", FORMS)
async def test_nobody_makes_another_querys_result_a_bound_clients(
    bound: World, form: str, source: int, sql: str
) -> None:
    # Same hash (it ignores white space, also inside literals), another text or another source: other rows.
    open_back_office(bound)
    twin = bound.sandbox.add_query("twin", sql, data_source_id=source)
    same = source == SHOP and sql == "select 'a b' as v"
    result_id = (await bound.sandbox.execute_directly(twin)).id
    mine = bound.named["mine"]
    for path in (f"/api/queries/{mine}/results/{result_id}.{form}", f"/api/query_results/{result_id}.{form}"):
        assert (await as_client(bound, "free", path)).status == 200
    for path in (
        f"/api/queries/{mine}/results/{result_id}.{form}",
        f"/api/query_results/{result_id}.{form}",
        f"/api/query_results/{result_id}.json",
        f"/api/queries/{mine}/results.{form}",
    ):
        for _ in range(2):
            assert (await as_client(bound, "own", path)).status == (200 if same else 404), path


async def test_redashs_own_latest_of_another_text_is_not_a_bound_clients(bound: World) -> None:
    # Redash hands one query's rows to its twin in white space as the latest result (CONTRACT 7).
    twin = bound.sandbox.add_query("twin", "select 'ab' as v")
    await bound.sandbox.execute_directly(twin)
    mine = f"/api/queries/{bound.named['mine']}/results.json"
    assert (await as_client(bound, "free", mine)).rows == [{"v": "ab"}]  # as Redash
    assert (await as_client(bound, "own", mine)).status == 404
    assert await bound.rows("mine") == [{"v": "a b"}]
    assert (await as_client(bound, "own", mine)).rows == [{"v": "a b"}]


async def test_rows_of_another_source_are_no_answer_to_a_run(world: World) -> None:
    # The query moved while its definition was known: the same SQL, other rows; they are not kept as the old one's.
    open_back_office(world)
    query = world.sandbox.add_query("moves", "select 5 as n")
    assert await world.rows(query, max_age=0) == [{"n": 5}]
    world.sandbox.edit_query(query, data_source_id=BACK_OFFICE)
    moved = await run(world, query)
    stored = await world.post(query, max_age=3600)
    assert stored.json["query_result"]["data_source_id"] == BACK_OFFICE
    assert stored.json["query_result"]["id"] >= moved


# -- ids that begin again


@pytest.fixture
async def twice(world: World) -> World:
    """Two queries; "one" had a result whose id is now one of "two"."""
    world.named["one"] = world.sandbox.add_query("one", "select 1 as n, run_number() as run")
    world.named["two"] = world.sandbox.add_query("two", "select 2 as n, run_number() as run")
    return world


@pytest.mark.parametrize("form", ["csv", "tsv"])
async def test_a_rendering_belongs_to_its_result_not_to_a_number(twice: World, form: str) -> None:
    before = max(twice.sandbox.database.results)
    first = await twice.get(f"/api/queries/{twice.named['one']}/results.{form}?max_age=0")
    assert first.body.splitlines()[1].startswith(b"1")
    twice.sandbox.set_back(before)
    second = await twice.get(f"/api/queries/{twice.named['two']}/results.{form}?max_age=0")
    assert second.body.splitlines()[1].startswith(b"2")
    assert second.headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("form", ["csv", "tsv", "xlsx"])
@pytest.mark.parametrize(
    "way", ["/api/query_results/{result}.{form}", "/api/queries/{query}/results.{form}?max_age=3600"]
)
async def test_no_rendering_is_made_of_another_result_with_the_same_id(bound: World, form: str, way: str) -> None:
    # A CSV does not say which result it was made from, and the stored JSON is older than the restored database.
    other = bound.sandbox.add_query("other", "select 9 as v")
    before = max(bound.sandbox.database.results)
    reply = await as_client(bound, "own", f"/api/queries/{bound.named['mine']}/results.json?max_age=0")
    result_id = reply.json["query_result"]["id"]
    bound.sandbox.set_back(before)
    bound.clock.turn(5)
    assert (await bound.sandbox.execute_directly(other)).id == result_id
    path = way.format(result=result_id, query=bound.named["mine"], form=form)
    for _ in range(2):
        assert (await as_client(bound, "own", path)).status == 404


@pytest.mark.parametrize("form", ["csv", "tsv", "xlsx"])
async def test_a_rendering_of_an_older_result_is_made_after_a_look_at_it(bound: World, form: str) -> None:
    path = f"/api/queries/{bound.named['mine']}/results"
    await as_client(bound, "own", f"{path}.json?max_age=0")
    bound.clock.turn(30)
    bound.sandbox.reset_counters()
    for _ in range(3):
        assert (await as_client(bound, "own", f"{path}.{form}?max_age=3600")).status == 200
    assert sorted(
        seen.path_qs.rpartition(".")[2] for seen in bound.sandbox.log if "query_results" in seen.path_qs
    ) == sorted([form, "json"])


@pytest.mark.parametrize("form", FORMS)
async def test_the_latest_result_is_not_an_earlier_one_of_its_id(twice: World, form: str) -> None:
    before = max(twice.sandbox.database.results)
    result_id = await run(twice, twice.named["one"])
    for query in ("one", "two"):
        await twice.get(f"/api/queries/{twice.named[query]}/results.{form}")
    twice.sandbox.set_back(before)
    assert (await twice.sandbox.execute_directly(twice.named["two"])).id == result_id
    twice.clock.turn(CHECK_SECONDS)
    path = f"/api/queries/{twice.named['two']}/results.{form}"
    reply, again = await twice.get(path), await twice.get(path)
    assert reply.status == again.status == 200
    assert reply.body == again.body
    if form == "json":
        assert reply.rows[0]["n"] == 2
    elif form != "xlsx":
        assert reply.body.splitlines()[1].startswith(b"2")


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_run_whose_id_was_given_before_is_a_new_result(twice: World, encoding: str) -> None:
    # Also of the same query: the id and the SQL are the same, the rows are not. The gzip form goes with the rows.
    query = twice.sandbox.add_query("long", f"select '{'x' * 3000}' as text, run_number() as run")
    before = max(twice.sandbox.database.results)
    path = f"/api/queries/{query}/results.json?max_age=0"
    first = await twice.get(path, accept_encoding=encoding)
    for _ in range(2):
        by_id = f"/api/query_results/{first.json['query_result']['id']}.json"
        assert (await twice.get(by_id, accept_encoding=encoding)).body == first.body
    twice.sandbox.set_back(before)
    second = await twice.get(path, accept_encoding=encoding)
    assert second.json["query_result"]["id"] == first.json["query_result"]["id"]
    assert second.rows[0]["run"] != first.rows[0]["run"]
    assert (await twice.get(by_id, accept_encoding=encoding)).rows == second.rows
    assert (await twice.get(by_id, accept_encoding=encoding)).headers["ETag"] != first.headers.get("ETag")


async def test_a_bound_client_keeps_no_id_that_another_query_has_now(bound: World) -> None:
    # What the ledger knows of a result goes with the result, not with its number.
    other = bound.sandbox.add_query("other", "select 9 as n")
    before = max(bound.sandbox.database.results)
    bound.clock.turn(1)
    reply = await as_client(bound, "own", f"/api/queries/{bound.named['mine']}/results.json?max_age=0")
    result_id = reply.json["query_result"]["id"]
    path = f"/api/query_results/{result_id}"
    assert (await as_client(bound, "own", path)).status == 200
    bound.sandbox.set_back(before)
    bound.clock.turn(1)
    reply = await as_client(bound, "free", f"/api/queries/{other}/results.json?max_age=0")
    assert reply.json["query_result"]["id"] == result_id
    for form in FORMS:
        assert (await as_client(bound, "own", f"{path}.{form}")).status == 404
    assert (await as_client(bound, "free", path)).rows == [{"n": 9}]
    await bound.restart()
    assert (await as_client(bound, "own", path)).status == 404
    assert (await as_client(bound, "free", path)).rows == [{"n": 9}]


# -- a run that a caller is redirected to


async def follow(world: World, query: int, reply: Reply) -> Reply:
    """Follow redirects to a run as clients do."""
    for _ in range(8):
        if reply.status != 307:
            return reply
        reply = await world.get(f"/api/queries/{query}/{reply.headers['Location']}")
    return reply


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("open_for", ["nobody", "the key"])
@pytest.mark.parametrize("form", ["json", "csv"])
async def test_a_redirect_to_a_run_opens_rows_of_the_querys_old_source_only_where_redash_does(
    bare: World, form: str, open_for: str, ended: bool
) -> None:
    # CONTRACT 11: access to the old result goes by the old source, which the definition no longer names.
    query = bare.sandbox.add_query("moves", "select 3 as n", data_source_id=BACK_OFFICE)
    await bare.start(server='max_wait = "200ms"')
    open_back_office(bare)
    with polling_every(0.01), bare.sandbox.hold(query):
        redirected = await bare.get(f"/api/queries/{query}/results.{form}?max_age=0")
        assert redirected.status == 307
        if not ended:
            await move(bare, query, open_for)
    await bare.sandbox.wait_idle()
    if ended:
        assert (await follow(bare, query, redirected)).status == 200
        await move(bare, query, open_for)
    expected = {403} if open_for == "nobody" else {200}
    assert (await follow(bare, query, redirected)).status in (expected if ended else expected | {404})


async def move(world: World, query: int, open_for: str) -> None:
    world.sandbox.edit_query(query, data_source_id=SHOP)
    if open_for == "nobody":
        close_back_office(world)
    world.clock.turn(CHECK_SECONDS)
