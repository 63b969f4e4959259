"""Large results in the order of Redash 8: sent while they arrive, if their SQL stands before the rows."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from support.calls import TOKENS
from support.waiting import until
from support.world import World

from gateway.sandbox import Sandbox, broken_responses

LATEST_ROUTE = "/api/queries/<query_id>/results.<filetype>"
RESULT_ROUTE = "/api/query_results/<query_result_id>.<filetype>"
POST_ROUTE = "/api/queries/<query_id>/results"
BEGINNING = 1_000_000


@pytest.fixture
def redash_version() -> str:
    return "8"


@pytest.fixture
async def old(bare: World) -> World:
    """A gateway that has the key of the large query."""
    large = bare.named["large"]
    await bare.start(f'[credentials.own]\nkind = "query"\nquery = {large}\nkey_env = "QUERY_KEY_{large}"\n')
    return bare


def stored(world: World) -> Any:
    """The large query's result in the sandbox."""
    result_id = world.sandbox.queries[world.named["large"]].latest_query_data_id
    assert result_id is not None
    return world.sandbox.database.results[result_id]


def whole(world: World) -> bytes:
    data: bytes = stored(world).full()
    return data


def path_of(world: World) -> str:
    return f"/api/queries/{world.named['large']}/results"


async def shown_early(
    world: World, route: str, path: str, body: object = None, *, client: str = "dashboard", **headers: str
) -> bytes:
    """Ask for a result whose second half Redash does not send before the caller has got a beginning."""
    method = "GET" if body is None else "POST"
    stall = world.sandbox.faults.add("stall", route=route, method=method if route == POST_ROUTE else None, count=1)
    fields = {"Authorization": f"Key {TOKENS[client]}", **headers}
    async with world.session.request(method, world.url + path, json=body, headers=fields) as response:
        assert response.status == 200
        async with asyncio.timeout(10):
            first = await response.content.readexactly(BEGINNING)
        stall.release()
        return first + await response.read()


def test_the_order_is_that_of_version_8() -> None:
    # Seen on the wire; the SQL happens to stand before the rows, the id behind them.
    sandbox = Sandbox(redash="8")
    result = sandbox.database.results[sandbox.queries[sandbox.named["by_country"]].latest_query_data_id or 0]
    sandbox.prepare()
    names = list(json.loads(result.full())["query_result"])
    assert names == ["retrieved_at", "query_hash", "query", "runtime", "data", "id", "data_source_id"]


async def test_the_latest_result(old: World) -> None:
    assert await shown_early(old, LATEST_ROUTE, path_of(old) + ".json") == whole(old)


async def test_an_inline_result(old: World) -> None:
    assert await shown_early(old, POST_ROUTE, path_of(old), {"max_age": 86400}) == whole(old)
    assert "hit" in (await old.post("large", max_age=86400)).cache


async def test_the_result_of_a_run(old: World) -> None:
    assert await shown_early(old, RESULT_ROUTE, path_of(old), {"max_age": 0}, Prefer="wait=40") == whole(old)


async def test_the_reduced_result_of_a_query_keys_own_run(old: World) -> None:
    # How old cached rows are, only their end shows: those of before an edit would be shown too early.
    hold = old.sandbox.hold()
    fields = {"Authorization": f"Key {TOKENS['narrow']}", "Prefer": "wait=40"}
    asking = asyncio.create_task(old.session.post(old.url + path_of(old), json={"max_age": 0}, headers=fields))
    await old.sandbox.wait_executions(1)
    stall = old.sandbox.faults.add("stall", route=POST_ROUTE, method="POST", count=1)
    hold.release()
    async with await asking as response:
        async with asyncio.timeout(10):
            first = await response.content.readexactly(BEGINNING)
        stall.release()
        assert first + await response.read() == stored(old).reduced()


async def test_a_result_by_its_id(old: World) -> None:
    # Its id stands behind the rows, but also in the name of the file.
    path = f"/api/query_results/{stored(old).id}.json"
    assert await shown_early(old, RESULT_ROUTE, path) == whole(old)


async def test_another_result_than_the_requested_one_is_not_shown(old: World) -> None:
    wanted = old.sandbox.queries[old.named["kb1"]].latest_query_data_id
    assert wanted is not None
    old.sandbox.database.results[wanted] = stored(old)
    assert (await old.get(f"/api/query_results/{wanted}.json")).status == 502


async def test_rows_of_other_sql_are_not_shown(old: World) -> None:
    query = old.sandbox.queries[old.named["large"]].query
    one, two = (query.replace("o.note\n", f"o.note, '{text}' as shown\n", 1) for text in ("a b", "a  b"))
    for text in (one, two):
        asked = {"query": text, "data_source_id": 1, "max_age": 86400, "parameters": {}}
        reply = await old.call("POST", "/api/query_results", asked, client="sql", headers={"Prefer": "wait=60"})
        assert reply.json["query_result"]["query"] == text
    assert old.sandbox.counters.started == 2


async def test_sql_behind_the_rows_is_waited_for(old: World) -> None:
    result = stored(old)
    found = json.loads(whole(old))["query_result"]
    result._full = json.dumps({"query_result": {"data": found.pop("data"), **found}}).encode()
    stall = old.sandbox.faults.add("stall", route=POST_ROUTE, method="POST", count=1)
    asking = asyncio.create_task(old.post("large", max_age=86400))
    await until(lambda: stall.hits == 1)
    await until(lambda: any(old.directory.rglob("*.tmp")))  # its first half has come
    assert not any(execution.arriving for execution in old.runtime.executions.flights.running)
    stall.release()
    assert (await asking).body == result._full
    assert "hit" in (await old.post("large", max_age=86400)).cache


@pytest.mark.parametrize("damage", [b"!!", b"}"])
async def test_an_invalid_end_is_not_sent(old: World, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    monkeypatch.setattr(broken_responses, "_GARBAGE", whole(old)[:-2] + damage)
    old.sandbox.faults.add("garbage", route=POST_ROUTE, method="POST", count=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await old.post("large", max_age=86400)
    assert (await old.post("large", max_age=86400)).body == whole(old)


async def test_broken_rows_are_not_sent_to_their_end(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = whole(old)
    row = data.index(b"}, {", BEGINNING)
    monkeypatch.setattr(broken_responses, "_GARBAGE", data[:row] + b"]" + data[row + 1 :])
    old.sandbox.faults.add("garbage", route=POST_ROUTE, method="POST", count=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await old.post("large", max_age=86400)
    assert (await old.post("large", max_age=86400)).body == data
