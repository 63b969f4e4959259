"""The gateway at a path of its own, as behind a proxy that serves several programs and passes whole paths on."""

from __future__ import annotations

import asyncio

import pytest
from redash_toolbelt import Redash
from redash_toolbelt.examples.refresh_query import get_fresh_query_result
from support.calls import TOKENS
from support.world import World
from yarl import URL

PREFIXED = 'path_prefix = "/tools/redash"'


@pytest.fixture
async def prefixed(bare: World) -> World:
    await bare.start(server=PREFIXED)
    return bare


async def test_routes_are_served_below_the_prefix_and_hits_take_the_fast_path(
    prefixed: World, by_fast_path: list[bytes]
) -> None:
    path = f"/tools/redash/api/queries/{prefixed.named['by_country']}/results"
    replies = [
        await prefixed.call("POST", path, {"max_age": 600}, headers={"Prefer": "wait=20"} if first else None)
        for first in (True, False, False, False, False)
    ]
    assert [reply.status for reply in replies] == [200] * 5
    assert replies[-1].rows == replies[0].rows
    assert by_fast_path


@pytest.mark.parametrize(
    "path", ["/api/session", "/redash/api/session", "/tools/redashapi/session", "/tools/redash", "/tools", "/"]
)
async def test_paths_elsewhere_are_404_and_say_where_to_go(prefixed: World, path: str) -> None:
    requests = len(prefixed.sandbox.log)
    reply = await prefixed.get(path)
    assert reply.status == 404
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert "/tools/redash/api/" in reply.json["detail"]
    assert len(prefixed.sandbox.log) == requests


async def test_the_prefix_is_removed_once(prefixed: World) -> None:
    """Twice is another path: what a proxy in front allows below one must not be reached by another spelling."""
    assert (await prefixed.get("/tools/redash/tools/redash/api/session")).status == 404


@pytest.mark.parametrize(
    "path", ["/tools/redash/../redash/api/session", "/tools%2Fredash/api/session", "//api/session"]
)
async def test_other_spellings_stay_refused(prefixed: World, path: str) -> None:
    async with prefixed.session.get(URL(prefixed.url + path, encoded=True)) as response:
        assert response.status == 400


@pytest.mark.parametrize("path", ["/ping", "/tools/redash/ping"])
async def test_load_balancers_may_ask_with_and_without_it(prefixed: World, path: str) -> None:
    """A health check comes from the balancer itself, which names the gateway by its address."""
    reply = await prefixed.call("GET", path, client=None, headers={"Host": "10.0.0.7"})
    assert reply.status == 200
    assert reply.body == b"PONG."


async def test_redirects_stay_below_the_prefix(prefixed: World) -> None:
    reply = await prefixed.get("/tools/redash/api/queries/search?q=orders")
    assert reply.status == 301
    target = URL(prefixed.url + "/tools/redash/api/queries/search").join(URL(reply.headers["Location"]))
    assert target.path == "/tools/redash/api/queries"
    assert (await prefixed.get(target.raw_path_qs)).status == 200


async def test_toolbelt_works_below_it(prefixed: World) -> None:
    base = f"{prefixed.url}/tools/redash"
    listed = await asyncio.to_thread(Redash(base, TOKENS["dashboard"]).queries)
    assert listed["results"]
    query = prefixed.named["in_country"]
    rows = await asyncio.to_thread(get_fresh_query_result, base, query, TOKENS["dashboard"], {"country": "DE"})
    assert rows
    assert prefixed.started == 1


async def test_the_slug_may_follow_the_prefix(bare: World) -> None:
    bare.upstream = f"{bare.sandbox.url}/acme"
    await bare.start(server=PREFIXED)
    found = [(await bare.get(f"/tools/redash{slug}/api/session")).status for slug in ("", "/acme", "/other")]
    assert found == [found[0], found[0], 404]
    assert (await bare.get("/acme/tools/redash/api/session")).status == 404
