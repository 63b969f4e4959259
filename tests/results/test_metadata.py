"""Objects and lists of Redash's API: cached for seconds, requested once, dropped by everything that may change them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import pytest
from support.http import Reply
from support.inside import flights
from support.waiting import until
from support.world import World

from gateway.sandbox import Sandbox

pytestmark = pytest.mark.standing_clock

TTL = 5.0
"""`metadata_ttl` unless the configuration says otherwise."""


def requests_for(world: World, path: str, method: str = "GET") -> int:
    """How often this path was requested from Redash, whatever the arguments."""
    return sum(r.method == method and r.path_qs.partition("?")[0] == path for r in world.sandbox.log)


def board(sandbox: Sandbox) -> int:
    return min(sandbox.database.dashboards)


def in_flight(world: World) -> int:
    return flights(world.runtime.results.metadata)


async def direct(world: World, path: str, *, user: str = "analyst") -> Reply:
    """Redash's own response."""
    headers = {"Authorization": f"Key {world.sandbox.user_keys[user]}"}
    async with world.session.get(world.sandbox.url + path, headers=headers, allow_redirects=False) as response:
        return Reply(response.status, response.headers.copy(), await response.read())


PATHS: dict[str, Callable[[World], str]] = {
    "query": lambda w: f"/api/queries/{w.named['by_country']}",
    "queries": lambda w: "/api/queries",
    "page": lambda w: "/api/queries?page=2&page_size=5&order=name",
    "search": lambda w: "/api/queries?q=orders",
    "my": lambda w: "/api/queries/my",
    "recent": lambda w: "/api/queries/recent",
    "favorites": lambda w: "/api/queries/favorites",
    "archive": lambda w: "/api/queries/archive",
    "query-tags": lambda w: "/api/queries/tags",
    "dashboards": lambda w: "/api/dashboards",
    "dashboard": lambda w: f"/api/dashboards/{board(w.sandbox)}",
    "dashboard-tags": lambda w: "/api/dashboards/tags",
    "dropdown": lambda w: f"/api/queries/{w.named['countries']}/dropdown",
    "dropdowns": lambda w: f"/api/queries/{w.named['dropdown']}/dropdowns/{w.named['countries']}",
    "data-sources": lambda w: "/api/data_sources",
    "snippets": lambda w: "/api/query_snippets",
    "alerts": lambda w: "/api/alerts",
    "session": lambda w: "/api/session",
}


# -- caching


@pytest.mark.parametrize("kind", PATHS)
async def test_cached_for_the_ttl_and_no_longer(world: World, kind: str) -> None:
    path = PATHS[kind](world)
    first = await world.get(path)
    assert (first.status, first.cache) == (200, "redash-gateway; fwd=uri-miss; stored; detail=not_stored"), first.body
    world.clock.turn(TTL)
    second = await world.get(path, client="second")  # another client with the same credential: the same scope
    assert second.cache == "redash-gateway; hit; ttl=0"
    assert second.headers["Age"] == "5"
    assert second.body == first.body
    assert requests_for(world, path.partition("?")[0]) == 1
    world.clock.turn(0.5)
    third = await world.get(path)
    assert third.cache == "redash-gateway; fwd=stale; stored; detail=stale"
    assert "Age" not in third.headers
    assert requests_for(world, path.partition("?")[0]) == 2


@pytest.mark.parametrize("kind", ["query", "queries", "dashboard", "data-sources", "dropdown", "session"])
async def test_responses_equal_redashs_except_for_keys(world: World, kind: str) -> None:
    path = PATHS[kind](world)
    theirs = (await direct(world, path)).json
    for _ in range(2):
        assert (await world.get(path)).json == keyless(theirs)


def keyless(value: Any) -> Any:
    """The same without keys and public addresses."""
    if isinstance(value, dict):
        hidden = {"api_key", "public_url"}
        return {name: None if name in hidden and v is not None else keyless(v) for name, v in value.items()}
    return [keyless(v) for v in value] if isinstance(value, list) else value


async def test_other_arguments_are_another_entry(world: World) -> None:
    paths = ["/api/queries", "/api/queries?page=1", "/api/queries?q=orders", "/api/queries?tags=sales"]
    bodies = [(await world.get(path)).json for path in paths]
    assert requests_for(world, "/api/queries") == 4
    assert bodies[0]["count"] > bodies[3]["count"]
    assert [(await world.get(path)).json for path in paths] == bodies
    assert requests_for(world, "/api/queries") == 4


async def test_scopes_never_share_entries(world: World) -> None:
    # One Redash user may see what another may not: lists differ, and so may every object.
    analysts, admins = await world.get("/api/data_sources"), await world.get("/api/data_sources", client="writer")
    assert [source["name"] for source in analysts.json] == ["Shop"]
    assert {source["name"] for source in admins.json} == {"Shop", "Back office"}
    path = f"/api/queries/{world.named['restricted']}"
    assert (await world.get(path, client="writer")).status == 200
    assert (await world.get(path)).status == 403


async def test_redash_gets_the_key_of_the_scope(world: World) -> None:
    await world.get("/api/session")
    await world.get("/api/session", client="writer")
    keys = [r.headers.get("Authorization") for r in world.sandbox.log if r.path_qs == "/api/session"]
    assert keys == [f"Key {world.sandbox.user_keys[name]}" for name in ("analyst", "admin")]


async def test_keys_are_shown_only_to_clients_that_may_see_them(bare: World) -> None:
    # One scope, two clients: what was cached for the one that sees keys must never be shown to the other.
    await bare.start(second="reveal_keys = true")
    path = f"/api/queries/{bare.named['by_country']}"
    key = bare.sandbox.query_key(bare.named["by_country"])
    for _ in range(2):
        assert (await bare.get(path, client="second")).json["api_key"] == key
        hidden = await bare.get(path)
        assert hidden.json["api_key"] is None
        assert key.encode() not in hidden.body
    assert requests_for(bare, path) == 2
    tags = {(await bare.get(path, client=client)).headers["ETag"] for client in ("second", "dashboard")}
    assert len(tags) == 2


async def test_head_is_get_without_the_body(world: World) -> None:
    path = f"/api/queries/{world.named['by_country']}"
    got = await world.get(path)
    head = await world.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
    assert requests_for(world, path) == 1
    assert requests_for(world, path, "HEAD") == 0


async def test_schemas_are_requested_each_time(world: World) -> None:
    # Users who reload a schema want to see the table that they have just created.
    for _ in range(2):
        reply = await world.get("/api/data_sources/1/schema")
        assert reply.cache == "redash-gateway; fwd=bypass"
    assert requests_for(world, "/api/data_sources/1/schema") == 2


# -- revalidation


@pytest.mark.parametrize("kind", ["query", "queries", "dashboard", "data-sources"])
async def test_a_known_tag_is_304(world: World, kind: str) -> None:
    path = PATHS[kind](world)
    tag = (await world.get(path)).headers["ETag"]
    for passed in (0.0, TTL + 1):
        world.clock.turn(passed)  # requested again, and the same as before: the tag is made from the bytes
        reply = await world.get(path, if_none_match=tag)
        assert (reply.status, reply.body) == (304, b"")
        assert reply.headers["ETag"] == tag
    assert (await world.get(path, if_none_match='"other"')).status == 200


async def test_a_change_changes_the_tag(world: World) -> None:
    path = f"/api/queries/{world.named['by_country']}"
    tag = (await world.get(path)).headers["ETag"]
    world.sandbox.edit_query(world.named["by_country"], name="Renamed")
    assert (await world.get(path, if_none_match=tag)).status == 304  # within the time that was allowed
    world.clock.turn(TTL + 1)
    reply = await world.get(path, if_none_match=tag)
    assert reply.status == 200
    assert reply.json["name"] == "Renamed"
    assert reply.headers["ETag"] != tag


# -- one request for many callers


async def test_fifty_callers_cost_one_request(world: World) -> None:
    path = "/api/dashboards"
    fault = world.sandbox.faults.add("hang", route=path)
    calls = [asyncio.create_task(world.get(path)) for _ in range(50)]
    await until(lambda: fault.hits == 1)
    await world.get("/ping")  # by another connection: all of them have arrived by now
    fault.release()
    replies = await asyncio.gather(*calls)
    assert {reply.status for reply in replies} == {200}
    assert requests_for(world, path) == 1
    assert sum("collapsed" in reply.cache for reply in replies) + sum("hit" in reply.cache for reply in replies) == 49
    assert sum("collapsed" in reply.cache for reply in replies) > 0


async def test_the_first_caller_hanging_up_does_not_end_the_request(world: World) -> None:
    path = "/api/dashboards"
    fault = world.sandbox.faults.add("hang", route=path)
    first = asyncio.create_task(world.get(path))
    await until(lambda: fault.hits == 1)
    second = asyncio.create_task(world.get(path))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    fault.release()
    assert (await second).status == 200
    assert requests_for(world, path) == 1


async def test_an_error_reaches_all_callers_and_is_not_cached(world: World) -> None:
    world.sandbox.faults.add("reset_before_headers", route="/api/dashboards", count=20)
    replies = await asyncio.gather(*(world.get("/api/dashboards") for _ in range(5)))
    assert {reply.status for reply in replies} == {502}
    world.sandbox.faults.clear()
    assert (await world.get("/api/dashboards")).status == 200


# -- stale


async def test_stale_while_revalidate(bare: World) -> None:
    await bare.start(cache='metadata_stale_while_revalidate = "60s"')
    path = f"/api/queries/{bare.named['by_country']}"
    await bare.get(path)
    bare.sandbox.edit_query(bare.named["by_country"], name="Renamed")
    bare.clock.turn(30)
    fault = bare.sandbox.faults.add("hang", route="/api/queries/<query_id>")
    for _ in range(3):  # no caller waits, and one request is enough
        reply = await bare.get(path)
        assert reply.json["name"] == "Orders by country"
        assert reply.cache == "redash-gateway; hit; ttl=-25; detail=stale-while-revalidate"
        assert reply.headers["Age"] == "30"
    await until(lambda: fault.hits == 1)
    fault.release()
    await bare.sandbox.wait_until(lambda: requests_for(bare, path) == 2)
    await until(lambda: in_flight(bare) == 0)
    fresh = await bare.get(path)
    assert fresh.json["name"] == "Renamed"
    assert fresh.cache == "redash-gateway; hit; ttl=5"
    bare.clock.turn(66)  # beyond the window: Redash first
    assert (await bare.get(path)).cache == "redash-gateway; fwd=stale; stored; detail=stale"


async def test_without_a_window_no_response_is_stale(world: World) -> None:
    path = f"/api/queries/{world.named['by_country']}"
    await world.get(path)
    world.sandbox.edit_query(world.named["by_country"], name="Renamed")
    world.clock.turn(TTL + 0.5)
    assert (await world.get(path)).json["name"] == "Renamed"


async def test_the_object_of_a_query_that_redash_refuses_is_not_served_in_an_outage(world: World) -> None:
    # docs/freshness.md: if Redash responds 403 or 404, everything stored of that query for that key is dropped.
    query = world.named["by_country"]
    assert (await world.get(f"/api/queries/{query}")).status == 200
    world.sandbox.database.sources[1].groups.clear()
    world.clock.turn(61)
    assert (await world.post(query, max_age=600)).status == 403
    await world.sandbox.disconnect()
    reply = await world.get(f"/api/queries/{query}")
    await world.sandbox.reconnect()
    assert reply.status == 502


@pytest.mark.parametrize(("refusal", "status"), [("source", 403), ("user", 502), ("query", 404)])
async def test_the_results_of_a_query_whose_object_redash_refuses_are_not_served(
    world: World, refusal: str, status: int
) -> None:
    # docs/freshness.md: if Redash responds 403 or 404, everything stored of that query for that key is dropped. The
    # object is what the definition check reads: it makes no difference who has requested it.
    query = world.named["by_country"]
    await world.rows(query, max_age=0)
    world.clock.turn(TTL + 1)
    assert (await world.get(f"/api/queries/{query}/results")).cache.startswith("redash-gateway; hit")
    if refusal == "source":
        world.sandbox.database.sources[1].groups.clear()
    elif refusal == "query":
        world.sandbox.queries[query].org = 2
    else:
        for user in world.sandbox.database.users.values():
            user.disabled_at = world.sandbox.database.now()
    assert (await world.get(f"/api/queries/{query}")).status == status
    assert (await world.get(f"/api/queries/{query}/results")).status == status
    await world.sandbox.disconnect()
    in_outage = await world.get(f"/api/queries/{query}/results")
    await world.sandbox.reconnect()
    assert in_outage.status == 502


@pytest.mark.parametrize("path", ["/api/queries", "/api/dashboards/1", "/api/session"])
async def test_a_rejected_key_gets_nothing_stale(world: World, path: str) -> None:
    assert (await world.get(path)).status == 200
    for user in world.sandbox.database.users.values():
        user.disabled_at = world.sandbox.database.now()
    world.clock.turn(TTL + 1)
    assert (await world.get(path)).status == 502
    await world.sandbox.disconnect()
    reply = await world.get(path)
    await world.sandbox.reconnect()
    assert "stale" not in reply.cache
    assert reply.status == 502


async def test_stale_if_error(world: World) -> None:
    path = f"/api/dashboards/{board(world.sandbox)}"
    first = await world.get(path)
    await world.sandbox.disconnect()
    world.clock.turn(100)
    reply = await world.get(path)
    assert (reply.status, reply.body) == (200, first.body)
    assert reply.cache == "redash-gateway; hit; ttl=-95; detail=stale-if-error"
    assert reply.headers["Age"] == "100"
    assert (await world.get("/api/dashboards")).status in (502, 503)  # there is no stale entry
    world.clock.turn(3600)
    assert (await world.get(path)).status in (502, 503)


async def test_a_client_may_refuse_stale_responses(bare: World) -> None:
    await bare.start(second='stale_if_error = "0s"')
    path = f"/api/dashboards/{board(bare.sandbox)}"
    await bare.get(path)
    await bare.sandbox.disconnect()
    bare.clock.turn(10)
    assert (await bare.get(path, client="second")).status in (502, 503)
    assert (await bare.get(path)).status == 200


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxys_error_counts_as_an_outage_of_redash(world: World, status: int) -> None:
    await world.get("/api/dashboards")
    world.clock.turn(100)
    world.sandbox.faults.add("status", route="/api/dashboards", status=status)
    assert "stale-if-error" in (await world.get("/api/dashboards")).cache


async def test_a_refusal_is_not_hidden_by_a_stale_response(world: World) -> None:
    # Permissions take effect at once in Redash (CONTRACT 1): what it refuses must not be shown from the cache.
    path = f"/api/queries/{world.named['by_country']}"
    assert (await world.get(path)).status == 200
    groups = world.sandbox.database.sources[1].groups
    taken = dict(groups)
    groups.clear()
    world.clock.turn(TTL + 1)
    assert (await world.get(path)).status == 403
    # ... also not after Redash has become unavailable: the refusal has dropped the entry.
    await world.sandbox.disconnect()
    assert (await world.get(path)).status in (502, 503)
    await world.sandbox.reconnect()
    groups.update(taken)
    world.clock.turn(11)  # the breaker, should it have opened
    assert (await world.get(path)).status == 200


async def test_refusals_are_not_cached(world: World) -> None:
    for path in ("/api/queries/999999", f"/api/queries/{world.named['restricted']}", "/api/dashboards/999999"):
        statuses = [(await world.get(path)).status for _ in range(3)]
        assert set(statuses) <= {403, 404}, path
        assert requests_for(world, path) == 3, path


# -- dropping


WRITES: dict[str, Callable[[World], tuple[str, str, object]]] = {
    "query": lambda w: ("POST", f"/api/queries/{w.named['by_country']}", {"name": "Renamed"}),
    "other-query": lambda w: ("POST", f"/api/queries/{w.named['kb1']}", {"name": "Renamed"}),
    "dashboard": lambda w: ("POST", f"/api/dashboards/{board(w.sandbox)}", {"name": "Renamed"}),
    "favourite": lambda w: ("POST", f"/api/queries/{w.named['by_country']}/favorite", {}),
    "new-query": lambda w: (
        "POST",
        "/api/queries",
        {"name": "New", "query": "select 1", "data_source_id": 1, "options": {}, "schedule": None},
    ),
    "archive": lambda w: ("DELETE", f"/api/queries/{w.named['kb1']}", None),
    "widget": lambda w: (
        "POST",
        "/api/widgets",
        {"dashboard_id": board(w.sandbox), "visualization_id": None, "text": "x", "options": {}, "width": 1},
    ),
}


@pytest.mark.parametrize("kind", WRITES)
async def test_a_write_through_the_gateway_drops_what_it_may_affect(world: World, kind: str) -> None:
    # Objects are shown in lists, queries on dashboards, dashboards in lists: a read after a write must see the change,
    # with every client and key.
    paths = [PATHS[name](world) for name in ("query", "queries", "dashboard", "dashboards", "query-tags")]
    for path in paths:
        await world.get(path)
    method, path, body = WRITES[kind](world)
    reply = await world.call(method, path, body, client="writer")
    assert reply.status == 200, reply.body
    assert reply.cache == "redash-gateway; fwd=method"
    for path in paths:
        assert "hit" not in (await world.get(path)).cache, path
        assert (await world.get(path)).json == keyless((await direct(world, path)).json), path


async def test_a_write_whose_response_is_lost_drops_too(world: World) -> None:
    # The write may have been done.
    path = f"/api/queries/{world.named['by_country']}"
    await world.get(path)
    world.sandbox.faults.add("reset_after_headers", route="/api/queries/<query_id>", method="POST", count=1)
    assert (await world.call("POST", path, {"name": "Renamed"}, client="writer")).status == 502
    assert "hit" not in (await world.get(path)).cache


async def test_an_edit_shows_to_all_clients_at_once(world: World) -> None:
    path = f"/api/queries/{world.named['by_country']}"
    for client in ("dashboard", "writer"):
        await world.get(path, client=client)
    await world.call("POST", path, {"name": "Renamed"}, client="writer")
    for client in ("dashboard", "second", "writer"):
        assert (await world.get(path, client=client)).json["name"] == "Renamed"


async def test_the_end_of_a_run_drops_its_query_and_lists(world: World) -> None:
    # Lists and dashboards contain `retrieved_at` and the newest result's id; another query's object does not.
    now, other = f"/api/queries/{world.named['now']}", f"/api/queries/{world.named['by_country']}"
    for path in (now, other, "/api/queries", f"/api/dashboards/{board(world.sandbox)}"):
        await world.get(path)
    await world.rows("now", max_age=0)
    assert "hit" not in (await world.get(now)).cache
    assert "hit" not in (await world.get("/api/queries")).cache
    assert "hit" not in (await world.get(f"/api/dashboards/{board(world.sandbox)}")).cache
    assert "hit" in (await world.get(other)).cache
    ours = (await world.get(now)).json
    assert ours["latest_query_data_id"] == world.sandbox.queries[world.named["now"]].latest_query_data_id


@pytest.mark.parametrize("what", ["write", "run"])
async def test_a_response_requested_before_a_write_is_not_cached(world: World, what: str) -> None:
    """It may be from before the change: its own caller gets it, later callers do not."""
    path = "/api/queries"
    fault = world.sandbox.faults.add("hang", route=path, method="GET", count=1)
    early = asyncio.create_task(world.get(path))
    await until(lambda: fault.hits == 1)
    if what == "write":
        edited = f"/api/queries/{world.named['by_country']}"
        assert (await world.call("POST", edited, {"name": "Renamed"}, client="writer")).status == 200
    else:
        await world.rows("now", max_age=0)
    # A later caller does not join it either.
    late = await world.get(path)
    assert "collapsed" not in late.cache
    assert late.json == keyless((await direct(world, path)).json)
    fault.release()
    await early
    again = await world.get(path)
    assert again.body == late.body


async def test_a_single_early_request_is_not_cached_either(world: World) -> None:
    path = "/api/dashboards"
    fault = world.sandbox.faults.add("hang", route=path, method="GET", count=1)
    early = asyncio.create_task(world.get(path))
    await until(lambda: fault.hits == 1)
    edited = f"/api/dashboards/{board(world.sandbox)}"
    assert (await world.call("POST", edited, {"name": "Renamed"}, client="writer")).status == 200
    fault.release()
    await early
    assert "hit" not in (await world.get(path)).cache
    assert "hit" in (await world.get(path)).cache


async def test_a_refused_write_says_so(world: World) -> None:
    reply = await world.call("POST", f"/api/queries/{world.named['by_country']}", {"name": "x"})
    assert reply.status == 403  # the client has no `write`; nothing is sent to Redash
    assert requests_for(world, f"/api/queries/{world.named['by_country']}", "POST") == 0


# -- the search


@pytest.mark.parametrize("redash_version", ["8", "10", "25", "26"])
async def test_the_old_search_is_redirected_to_the_gateway(world: World) -> None:
    # CONTRACT 5: the only redirect in Redash's API. Passed on unchanged, it would lead past the gateway.
    for _ in range(2):
        reply = await world.get("/api/queries/search?q=orders")
        assert reply.status == 301
        assert reply.headers["Location"].startswith("../queries?")
        assert "q=orders" in reply.headers["Location"]
        assert "org_slug" not in reply.headers["Location"]
    assert requests_for(world, "/api/queries/search") == 1
    found = await world.get(urljoin("/api/queries/search", reply.headers["Location"]))
    assert found.json == keyless((await direct(world, "/api/queries?q=orders")).json)


async def test_hits_of_metadata_are_counted(world: World) -> None:
    for _ in range(5):
        await world.get("/api/queries")
    assert await world.metric("redash_gateway_requests_total", route="/api/queries", cache="hit") == 4
    # A list from memory does not save a run of the warehouse.
    assert await world.metric("redash_gateway_saved_executions_total") == 0
    assert json.loads((await world.get("/api/queries")).body)["count"] > 0
