"""A query's newest result differs by version of Redash: the gateway gives what Redash gives, and does not ask for ever.

Up to version 10 no result has the hash of a query with parameters, and an automatic limit is in a query's hash only:
then `latest_query_data_id` does not move when the query is run. Later versions: CONTRACT 8.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from support.versions import EVERY_KIND
from support.world import World, token_table

from gateway.sandbox.sample_objects import parameter

pytestmark = [EVERY_KIND, pytest.mark.standing_clock]

MANY = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) select i from n"


async def _of_redash(world: World, query: int) -> tuple[int, list[dict[str, Any]] | None]:
    """What Redash itself gives as the newest result."""
    headers = {"Authorization": f"Key {token_table(world.sandbox)['KEY_ANALYST']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{world.sandbox.url}/api/queries/{query}/results", headers=headers) as response,
    ):
        body = await response.json()
        return response.status, body["query_result"]["data"]["rows"] if response.status == 200 else None


async def _of_gateway(world: World, query: int) -> tuple[int, list[dict[str, Any]] | None]:
    reply = await world.get(f"/api/queries/{query}/results")
    return reply.status, reply.rows if reply.status == 200 else None


async def _ask_any_age_twice(world: World, query: int, **body: Any) -> None:
    """The second time nothing is asked of Redash: the first response confirmed the result as the newest."""
    await world.rows(query, **body)
    before = world.sandbox.counters.requests
    reply = await world.post(query, **body)
    assert "hit" in reply.cache, reply
    assert world.sandbox.counters.requests == before


async def test_the_newest_result_of_a_query_with_parameters(world: World) -> None:
    query = world.sandbox.add_query("one", "select {{n}} as n", parameters=[parameter("n", "number", 7)])
    assert await world.rows(query, max_age=0, parameters={"n": 7}) == [{"n": 7}]
    assert await _of_gateway(world, query) == await _of_redash(world, query)
    await _ask_any_age_twice(world, query, parameters={"n": 7})


async def test_a_query_with_an_automatic_limit(world: World) -> None:
    query = world.sandbox.add_query("many", MANY, options={"apply_auto_limit": True})
    rows = await world.rows(query, max_age=0)
    assert len(rows) == (1000 if world.sandbox.version.post_limits_like_query else 3000)
    assert await _of_gateway(world, query) == await _of_redash(world, query)
    await _ask_any_age_twice(world, query)
    assert len(await world.rows(query, max_age=0, apply_auto_limit=True)) == (
        1000 if world.sandbox.version.has_auto_limit else 3000
    )
    assert await _of_gateway(world, query) == await _of_redash(world, query)


async def test_edits_and_runs_elsewhere_move_the_newest_result_as_in_redash(world: World) -> None:
    query = world.sandbox.add_query("plain", "select 'a' as x")
    await world.rows(query, max_age=0)
    await world.sandbox.execute_directly(query)
    world.clock.turn(61)
    assert await _of_gateway(world, query) == await _of_redash(world, query)
    world.sandbox.edit_query(query, query="select 'A' as x")  # the same SQL for versions up to 10
    world.clock.turn(61)
    assert await _of_gateway(world, query) == await _of_redash(world, query)
    assert await world.rows(query) == [{"x": "A"}]
