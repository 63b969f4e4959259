"""Whole dashboards in one request: the values that widgets get, what fails beside what works, and who may have what.

Where values come from is what Redash's front end does with `options.parameterMappings`: the server only stores them.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from support.calls import TOKENS
from support.slow_reader import requested, rest_of
from support.waiting import until
from support.world import World

from gateway.errors import BadRequest
from gateway.executions.board import READING_SECONDS
from gateway.model import Definition
from gateway.redash.widgets import parse_board
from gateway.sandbox.database import Database

SALES = 1

HUGE = (
    "with recursive part(n) as (select 1 union all select n + 1 from part where n < 8000)"
    " select n, hex(zeroblob(500)) as text from part"
)
"""8 MB: more than the buffers of the kernel hold for a caller that does not read."""


def board_of(database: Database, *widgets: tuple[int, dict[str, Any]]) -> int:
    """Make a dashboard of tables; each widget has a query and options, and is above those after it."""
    board = database.add_dashboard("Tests", 1, is_draft=False)
    for row, (query_id, options) in enumerate(widgets):
        table = next(v.id for v in database.visualizations.values() if v.query_id == query_id and v.type == "TABLE")
        position = {"col": 0, "row": row, "sizeX": 3, "sizeY": 3}
        database.add_widget(board.id, table, "", {"position": position} | options)
    return board.id


def mapped(name: str, kind: str, **more: object) -> dict[str, Any]:
    return {"parameterMappings": {name: {"name": name, "type": kind, **more}}}


def rows(widget: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = widget["response"]["query_result"]["data"]["rows"]
    return found


async def shown(world: World, board: int | str, query: str = "", **more: Any) -> list[dict[str, Any]]:
    reply = await world.call("GET", f"/api/dashboards/{board}/results{query}", **more)
    assert reply.status == 200, reply.body
    found: list[dict[str, Any]] = reply.json["widgets"]
    return found


async def test_every_widget_has_the_response_to_its_own_request(world: World) -> None:
    """The third one is of a source that the analyst may not see; the text is no result."""
    named = world.named
    reply = await world.call("GET", f"/api/dashboards/{SALES}/results")
    assert reply.json["dashboard"] == {"id": SALES, "name": "Sales overview", "slug": "sales-overview"}
    assert reply.headers["Content-Type"] == "application/json"
    first, above, restricted, month = reply.json["widgets"]
    assert [w["query_id"] for w in (first, above, month)] == [
        named[n] for n in ("by_country", "above", "revenue_by_month")
    ]
    assert first["response"] == (await world.post("by_country")).json
    assert rows(above)[0]["amount"] > 450  # the query's default
    assert (restricted["status"], restricted["query_id"]) == (403, None)
    assert "may not see" in restricted["error"]
    assert "response" not in restricted
    assert month["status"] == 200
    assert "error" not in month
    again = await shown(world, SALES, "?max_age=3600")
    assert [w.get("cache") for w in again] == ["hit", "hit", None, "hit"]
    assert again[0]["age"] >= 0


async def test_values_come_from_where_the_front_end_takes_them(world: World) -> None:
    n = world.named
    board = board_of(
        world.sandbox.database,
        (n["in_country"], mapped("country", "dashboard-level", mapTo="land")),
        (n["dropdown"], mapped("country", "dashboard-level", mapTo="land")),
        (n["dropdown"], mapped("country", "static-value", value="JP")),
        (n["dropdown"], {}),
    )
    own = (await shown(world, board))[3]["id"]

    async def countries(query: str) -> list[str]:
        return [row["country"] for widget in (await shown(world, board, query))[1:] for row in rows(widget)]

    assert await countries("") == ["DE", "JP", "DE"]
    # One value for both widgets that are mapped to it; a fixed one cannot be changed, and a widget has its own.
    assert await countries("?p_land=FR") == ["FR", "JP", "DE"]
    assert await countries(f"?p_w{own}_country=US") == ["DE", "JP", "US"]
    unknown = await world.call("GET", f"/api/dashboards/{board}/results?p_country=FR")
    assert unknown.status == 400
    assert unknown.json["detail"] == (f"The dashboard has no parameter 'country'; it has: p_land, p_w{own}_country.")


async def test_the_first_widget_on_the_page_has_the_default(world: World) -> None:
    """Widgets of one dashboard parameter share the default of the first, by row and column, whatever their own is."""
    n, database = world.named, world.sandbox.database
    board = board_of(
        database,
        (n["dropdown"], mapped("country", "dashboard-level", mapTo="country")),
        (n["in_country"], mapped("country", "dashboard-level", mapTo="country")),
    )
    upper, lower = database.widgets_of(board)
    upper.options["position"]["row"], lower.options["position"]["row"] = 9, 1
    database.queries[n["in_country"]].options["parameters"][0]["value"] = "BR"
    first, second = await shown(world, board)
    assert (first["query_id"], second["query_id"]) == (n["in_country"], n["dropdown"])
    assert [row["country"] for row in rows(second)] == ["BR"]


async def test_ranges_and_old_global_parameters(world: World) -> None:
    """Before there were mappings, `global` made a parameter the dashboard's, under its own name."""
    n, database = world.named, world.sandbox.database
    database.queries[n["revenue_by_month"]].options["parameters"][0]["global"] = True
    board = board_of(database, (n["revenue_by_month"], {}))
    for given in ("p_period.start=2024-02-01&p_period.end=2024-03-31", "p_period=2024-02-01--2024-03-31"):
        (month,) = await shown(world, board, f"?{given}")
        assert [row["month"] for row in rows(month)] == ["2024-02", "2024-03"]


async def test_a_widget_that_fails_is_an_entry_with_its_error(world: World) -> None:
    n = world.named
    board = board_of(
        world.sandbox.database,
        (n["failing"], {}),
        (n["undeclared"], {}),
        (n["customers_in_city"], {}),
        (n["above"], mapped("min_amount", "static-value", value="many")),
        (n["kb1"], {}),
    )
    failing, undeclared, text, odd, good = await shown(world, board, "?max_age=0")
    assert failing["response"]["job"]["status"] == 4
    assert failing["error"] == failing["response"]["job"]["error"] != ""
    assert undeclared["status"] == 400
    assert f"give p_w{undeclared['id']}_x=<value>" in undeclared["error"]
    assert text["status"] == 403  # text that becomes SQL needs its own right, as everywhere (CONTRACT 20.10)
    assert "text_parameters" in text["error"]
    assert odd["status"] == 400
    assert len(rows(good)) == 9


async def test_lines_come_as_they_are_ready(world: World) -> None:
    n = world.named
    slow = mapped("seconds", "static-value", value=30)
    board = board_of(world.sandbox.database, (n["slow_seconds"], slow), (n["kb1"], {}), (n["by_country"], {}))
    url = f"{world.url}/api/dashboards/{board}/results.ndjson?max_age=0"
    async with world.session.get(url, headers={"Authorization": f"Key {TOKENS['dashboard']}"}) as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(await response.content.readline()) for _ in range(3)]
    assert lines[0] == {"dashboard": {"id": board, "name": "Tests", "slug": "tests"}}
    assert {line["query_id"] for line in lines[1:]} == {n["kb1"], n["by_country"]}
    # The caller has left: nobody waits for the slow one any more.
    await until(lambda: not any(one.waiters for one in world.runtime.executions.flights.running))


async def test_widgets_wait_for_their_turn(bare: World) -> None:
    """`max_executions` is the client's; a dashboard that needs more of them takes longer, and nothing is refused."""
    await bare.start(dashboard="max_executions = 2")
    n = bare.named
    at_once = [0]

    def seconds(x: float) -> dict[str, Any]:
        return mapped("seconds", "static-value", value=x)

    board = board_of(bare.sandbox.database, *[(n["slow_seconds"], seconds(0.01 * i)) for i in range(1, 7)])
    running = bare.runtime.executions.flights

    async def watch() -> None:
        while True:
            at_once.append(len(running.running))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    widgets = await shown(bare, board, "?max_age=0")
    watching.cancel()
    assert [w["status"] for w in widgets] == [200] * 6
    assert all("query_result" in w["response"] for w in widgets)
    assert max(at_once) == 2


async def test_a_widget_beyond_the_budget_is_an_entry_with_its_error_at_once(bare: World) -> None:
    """Each widget is a run of its own: it must not be tried again and again until the time is up."""
    await bare.start(dashboard='budget = "100ms/h"')
    named, slow = bare.named, {"seconds": 0.15}
    board = board_of(bare.sandbox.database, (named["slow_seconds"], mapped("seconds", "static-value", value=0.15)))
    await bare.post("slow_seconds", max_age=0, wait=10, parameters=slow)
    (widget,) = await shown(bare, board, "?max_age=0")
    assert widget["status"] == 429
    assert "budget of client 'dashboard' (0.1s/h)" in widget["error"]
    assert bare.started == 1


async def test_refresh_answers_with_jobs_at_once(world: World) -> None:
    n = world.named
    board = board_of(
        world.sandbox.database,
        (n["slow_seconds"], mapped("seconds", "static-value", value=0.05)),
        (n["kb1"], {}),
    )
    reply = await world.call("POST", f"/api/dashboards/{board}/refresh")
    jobs = [widget["response"]["job"] for widget in reply.json["widgets"]]
    assert [(await world.finish(job["id"]))["status"] for job in jobs] == [3, 3]
    assert world.started == 2
    waited = await world.call("POST", f"/api/dashboards/{board}/refresh", headers={"Prefer": "wait=20"})
    assert ["query_result" in widget["response"] for widget in waited.json["widgets"]] == [True, True]


async def test_a_refresh_does_not_wait_for_the_clients_own_runs(bare: World) -> None:
    """The jobs come at once; what the client's limit does not allow says so, and when to try again."""
    await bare.start(dashboard="max_executions = 1")
    slow = [(bare.named["slow_seconds"], mapped("seconds", "static-value", value=x)) for x in (30, 31, 32)]
    board = board_of(bare.sandbox.database, *slow)
    async with asyncio.timeout(4):
        reply = await bare.call("POST", f"/api/dashboards/{board}/refresh")
    first, *others = reply.json["widgets"]
    assert "job" in first["response"]
    assert [(w["status"], w["retry_after"]) for w in others] == [(429, 1)] * 2


async def test_after_the_time_for_one_request_only_hits_come(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Late widgets took a second each, one after another; what the client's own limit delays is no error of Redash."""
    monkeypatch.setattr("gateway.policy.context.LEAST_SECONDS", 0.0)
    await bare.start(server='max_wait = "1s"', dashboard="max_executions = 1")
    slow = [(bare.named["slow_seconds"], mapped("seconds", "static-value", value=x)) for x in range(30, 40)]
    board = board_of(bare.sandbox.database, *slow, (bare.named["kb1"], {}))
    await bare.post("kb1", max_age=0, wait=1)
    began = asyncio.get_running_loop().time()
    *late, stored = await shown(bare, board, "?max_age=3600")
    assert asyncio.get_running_loop().time() - began < 3.0
    assert {w["status"] for w in late} <= {200, 429}
    assert [w["status"] for w in late].count(429) >= 8
    assert (stored["status"], stored["cache"]) == (200, "hit")


RIGHTS = 'max_executions = 1\ncan = ["read", "execute"]'


def change(world: World, before: str, after: str) -> None:
    """Reload with another line."""
    assert before in world.text
    world.reconfigure(world.text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "expected", "runs"),
    [
        ('"execute"]', '"execute"]\nexpires = 2099-01-01', 200, 2),  # takes nothing away
        ('can = ["read", "execute"]', 'can = ["read"]', 503, 1),
        ("max_executions = 1", "max_executions = 1\nqueries = [999]", 503, 1),
    ],
    ids=["nothing", "execute", "queries"],
)
async def test_no_run_begins_and_no_rows_come_after_a_reload_took_rights(
    bare: World, before: str, after: str, expected: int, runs: int
) -> None:
    """A single request that waits ends with 503 then; here each widget does that is not handed out yet."""
    await bare.start(dashboard=RIGHTS)
    slow = [(bare.named["slow_seconds"], mapped("seconds", "static-value", value=x)) for x in (0.01, 0.02)]
    board = board_of(bare.sandbox.database, *slow)
    hold = bare.sandbox.hold()
    asked = asyncio.create_task(shown(bare, board, "?max_age=0"))
    await bare.sandbox.wait_executions(1)
    change(bare, before, after)
    hold.release()
    widgets = await asked
    assert [w["status"] for w in widgets] == [expected] * 2
    assert ["response" in w for w in widgets] == [expected == 200] * 2
    assert [w.get("retry_after") for w in widgets] == [None if expected == 200 else 1] * 2
    assert bare.started == runs


async def huge_and_small(world: World, small: int) -> int:
    """Make a dashboard whose first widget is large; all results are stored."""
    huge, kb1 = world.sandbox.add_query("huge", HUGE), world.named["kb1"]
    for query in (huge, kb1):
        await world.rows(query, max_age=86400, client="second")
    return board_of(world.sandbox.database, (huge, {}), *[(kb1, {})] * small)


async def slow_reader(world: World, board: int) -> socket.socket:
    """Request a dashboard, and read only the beginning of the response."""
    head = f"GET /api/dashboards/{board}/results?max_age=86400 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    slow = await requested(world.url, f"{head}Authorization: Key {TOKENS['dashboard']}\r\n\r\n".encode())
    assert b" 200 " in await asyncio.get_running_loop().sock_recv(slow, 20)
    return slow


async def test_a_slow_reader_gets_no_rows_for_which_it_has_lost_the_right(bare: World) -> None:
    """It was admitted once, and could read for hours: what was looked up before is not handed out either."""
    await bare.start(dashboard=RIGHTS.replace("1", "3"))
    board, route = await huge_and_small(bare, 3), "/api/dashboards/{dashboard}/results"
    with await slow_reader(bare, board) as slow:
        while await bare.metric("redash_gateway_requests_total", route=route, cache="hit") < 3:
            pass
        change(bare, 'can = ["read", "execute"]', 'can = ["read"]')
        received = await rest_of(slow)
    assert received.count(b'"status":200') == 1, "the one whose beginning was on its way"
    assert received.count(b'"status":503') == 3
    assert received.count(b'"query_result"') == 1


async def test_a_slow_reader_cannot_have_more_looked_up_without_end(
    bare: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each late widget is looked up when its turn comes, with the rows of that moment."""
    monkeypatch.setattr("gateway.executions.board.LATE_SECONDS", 5.0)
    await bare.start(dashboard="max_executions = 1")
    board = await huge_and_small(bare, 1)
    for seconds, status in ((READING_SECONDS, b'"status":200'), (READING_SECONDS + 60, b'"status":503')):
        with await slow_reader(bare, board) as slow:
            bare.clock.turn(seconds)
            received = await rest_of(slow)
        assert status in received[-3_000:], received[-500:]


async def test_the_same_widget_twice_runs_once(world: World) -> None:
    n = world.named
    slow = mapped("seconds", "static-value", value=0.2)
    board = board_of(world.sandbox.database, (n["slow_seconds"], slow), (n["slow_seconds"], slow))
    one, other = await shown(world, board, "?max_age=0")
    assert one["response"] == other["response"]
    assert world.started == 1


async def test_large_results_are_part_of_it(world: World) -> None:
    board = board_of(world.sandbox.database, (world.named["large"], {}), (world.named["kb1"], {}))
    large, small = await shown(world, board)
    assert len(rows(large)) == 28_000
    assert len(rows(small)) == 9


async def test_bound_clients_get_their_dashboards_and_queries_only(bare: World) -> None:
    await bare.start(second=f"dashboards = [{SALES}]", dashboard=f"queries = [{bare.named['kb1']}]")
    other = board_of(bare.sandbox.database, (bare.named["kb1"], {}))
    assert [w["status"] for w in await shown(bare, SALES, client="second")] == [200, 200, 403, 200]
    assert [w["status"] for w in await shown(bare, "sales-overview", client="second")] == [200, 200, 403, 200]
    for board in (other, "tests"):
        refused = await bare.call("GET", f"/api/dashboards/{board}/results", client="second")
        assert refused.status == 403, refused.body
    assert (await bare.call("GET", f"/api/dashboards/{SALES}/results")).status == 403


async def test_it_needs_to_execute_and_the_dashboard_itself(bare: World) -> None:
    await bare.start(second='can = ["read"]')
    for method, path in (("GET", "results"), ("GET", "results.ndjson"), ("POST", "refresh")):
        refused = await bare.call(method, f"/api/dashboards/{SALES}/{path}", client="second")
        assert refused.status == 403
        assert "'execute'" in refused.json["detail"]
    missing = await bare.call("GET", "/api/dashboards/999/results")
    assert missing.status == 404
    assert (await bare.call("GET", f"/api/dashboards/{SALES}/results", client="narrow")).status == 403
    assert bare.started == 0


async def test_a_write_through_the_gateway_shows_at_once(bare: World) -> None:
    """Both in what is shown, and in what a bound client may use: the widgets are checked one by one."""
    await bare.start(second=f"dashboards = [{SALES}, 'tests']")
    n, database = bare.named, bare.sandbox.database
    board = board_of(database, (n["dropdown"], mapped("country", "static-value", value="JP")))
    (before,) = await shown(bare, board, client="second")
    assert {row["country"] for row in rows(before)} == {"JP"}

    async def write(method: str, path: str, **more: Any) -> dict[str, Any]:
        reply = await bare.call(method, path, client="writer", **more)
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json
        return found

    options = mapped("country", "static-value", value="FR")
    await write("POST", f"/api/widgets/{before['id']}", body={"text": "", "options": options})
    (after,) = await shown(bare, board, client="second")
    assert {row["country"] for row in rows(after)} == {"FR"}
    assert (await bare.post("kb1", client="second")).status == 403
    table = next(v.id for v in database.visualizations.values() if v.query_id == n["kb1"] and v.type == "TABLE")
    more = {"dashboard_id": board, "visualization_id": table, "text": "", "width": 1, "options": {}}
    added = await write("POST", "/api/widgets", body=more)
    assert [w["status"] for w in await shown(bare, board, client="second")] == [200, 200]
    await write("DELETE", f"/api/widgets/{added['id']}")
    assert len(await shown(bare, board, client="second")) == 1
    assert (await bare.post("kb1", client="second")).status == 403


async def test_a_head_request_runs_nothing(world: World) -> None:
    reply = await world.call("HEAD", f"/api/dashboards/{SALES}/results")
    assert (reply.status, reply.body) == (200, b"")
    assert world.started == 0


async def test_every_widget_is_counted(world: World) -> None:
    """The hit rate of a query is that of all its callers, however they ask."""
    await shown(world, SALES)
    await shown(world, SALES)
    route = "/api/dashboards/{dashboard}/results"
    hits = await world.metric("redash_gateway_requests_total", route=route, cache="hit")
    assert hits >= 3


def definition(text: str, *parameters: Any) -> Definition:
    return Definition(
        query_id=1, name="", text=text, marker="", query_hash="", data_source_id=1, latest_result_id=None,
        parameters=parameters, tags=(), auto_limit=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "widgets",
    [
        [{"id": 1, "options": None, "visualization": {"query": {"id": 1, "options": {"parameters": "odd"}}}}],
        [{"id": 1, "options": {"parameterMappings": [1], "position": "odd"}, "visualization": {"query": {"id": 1}}}],
        [{"id": 1, "options": {"position": {"row": "x"}}, "visualization": {"id": "x", "query": {"id": 1}}}],
    ],
)
def test_odd_objects_are_read_as_having_nothing(widgets: list[Any]) -> None:
    """Redash stores what clients of its API write."""
    board = parse_board(json.dumps({"id": 3, "widgets": widgets}).encode())
    (widget,) = board.widgets
    with pytest.raises(BadRequest, match="give p_w1_x=<value>"):
        board.values(widget, definition("select {{ x }}"), (), None)  # type: ignore[arg-type]


def test_a_place_of_hundreds_of_digits_is_far_down_on_the_page() -> None:
    """No double is that large, and whoever may edit a widget can write it."""
    rows = [10**400, 7, -(10**400), 10**401, "x"]
    widgets = [
        {"id": n, "options": {"position": {"row": row, "col": row}}, "visualization": {"query": {"id": n}}}
        for n, row in enumerate(rows)
    ]
    board = parse_board(json.dumps({"id": 3, "widgets": widgets}).encode())
    assert [widget.id for widget in board.widgets] == [2, 1, 0, 3, 4]
