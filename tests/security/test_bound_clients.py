"""Clients that are bound to queries or dashboards, on every path to a result (DESIGN 4; CONTRACT 2, 12, 13, 20.9)."""

from __future__ import annotations

import pytest
from support.calls import TOKENS
from support.http import Reply
from support.versions import EVERY_KIND
from support.world import World

from .front import client, token

SALES, PUBLIC = 1, 2


def refused(reply: Reply) -> bool:
    """403 or 404 of the gateway itself."""
    return reply.status in (403, 404) and reply.headers["Content-Type"] == "application/problem+json"


async def ask(world: World, who: str, method: str, path: str, body: object = None, **headers: str) -> Reply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.call(method, path, body, client=None, headers={"Authorization": f"Key {token(who)}", **fields})


async def follow(world: World, who: str, query: int, **body: object) -> tuple[str, int]:
    """Run a query anew; returns job id and result id."""
    reply = await ask(world, who, "POST", f"/api/queries/{query}/results", {"max_age": 0, **body})
    assert reply.status == 200, reply.body
    job = reply.job["id"]
    done = (await ask(world, who, "GET", f"/api/jobs/{job}", Prefer="wait=10")).job
    assert done["status"] == 3, done
    return job, done["query_result_id"]


@pytest.fixture
async def bound(bare: World) -> World:
    """`own` may use two queries, `boards` those of one dashboard, `narrow2` one with its query key, `free` all."""
    n = bare.named
    tables = [
        client("own", f"queries = [{n['by_country']}, {n['dropdown']}]", credentials='"analyst"'),
        client("boards", f"dashboards = [{SALES}]", credentials='"analyst"'),
        client("both", f"queries = [{n['kb1']}]\ndashboards = [{SALES}]", credentials='"analyst"'),
        client("keyed", f"queries = [{n['in_country']}]", credentials='"query"'),
        client("free", credentials='"analyst"'),
    ]
    await bare.start("\n".join(tables), cache='metadata_ttl = "60s"')
    return bare


FORMS = ("json", "csv", "tsv", "xlsx")


async def test_every_path_to_another_query_is_closed(bound: World) -> None:
    foreign = bound.named["above"]
    _, rid = await follow(bound, "free", foreign, parameters={"min_amount": 480})
    bound.sandbox.reset_counters()
    paths: list[tuple[str, str, object]] = [
        ("GET", f"/api/queries/{foreign}", None),
        ("GET", f"/api/queries/{foreign}/results", None),
        *(("GET", f"/api/queries/{foreign}/results.{form}", None) for form in FORMS),
        *(("GET", f"/api/queries/{foreign}/results.{form}?p_min_amount=1", None) for form in FORMS),
        ("GET", f"/api/queries/{foreign}/results.json?max_age=-1", None),
        *(("GET", f"/api/queries/{foreign}/results/{rid}.{form}", None) for form in FORMS),
        *(("GET", f"/api/query_results/{rid}{form}", None) for form in ("", ".json", ".csv", ".tsv", ".xlsx")),
        ("POST", f"/api/queries/{foreign}/results", {"parameters": {"min_amount": 480}}),
        ("POST", f"/api/queries/{foreign}/results", {"max_age": 0, "parameters": {"min_amount": 480}}),
        ("POST", f"/api/queries/{foreign}/refresh", None),
        ("GET", f"/api/queries/{foreign}/dropdown", None),
        ("GET", f"/api/queries/{foreign}/dropdowns/{bound.named['countries']}", None),
        ("POST", "/api/query_results", {"query": "select 1", "data_source_id": 1}),
        *(("HEAD", f"/api/query_results/{rid}.{form}", None) for form in FORMS),
    ]
    # Below a query that is the client's own: the id in the path means nothing to Redash (CONTRACT 2).
    own = bound.named["by_country"]
    paths += [("GET", f"/api/queries/{own}/results/{rid}.{form}", None) for form in FORMS]
    for method, path, body in paths:
        for headers in ({}, {"Prefer": "wait=5"}):
            reply = await ask(bound, "own", method, path, body, **headers)
            assert reply.status in (403, 404), (method, path, reply.body)
            assert reply.headers["Content-Type"] == "application/problem+json", (method, path)
    assert bound.sandbox.counters.posts.total() == 0
    assert not [seen for seen in bound.sandbox.log if f"/{rid}" in seen.path_qs]


@pytest.mark.parametrize(
    "path",
    [
        "/api/queries",
        "/api/queries/my",
        "/api/queries/recent",
        "/api/queries/favorites",
        "/api/queries/archive",
        "/api/queries/search?q=a",
        "/api/queries/tags",
        "/api/dashboards",
        "/api/dashboards/my",
        "/api/dashboards/favorites",
        "/api/dashboards/tags",
        "/api/data_sources",
        "/api/data_sources/1",
        "/api/data_sources/1/schema",
        "/api/alerts",
        "/api/alerts/1",
        "/api/query_snippets",
        "/api/query_snippets/1",
        f"/api/dashboards/public/{'a' * 40}",
    ],
)
async def test_lists_and_search_are_closed_also_when_another_client_has_just_read_them(bound: World, path: str) -> None:
    await ask(bound, "free", "GET", path)
    for who in ("own", "boards", "both"):
        assert (await ask(bound, who, "GET", path)).status == 403
        assert (await ask(bound, who, "HEAD", path)).status == 403


async def test_its_own_queries_are_open_on_every_path(bound: World) -> None:
    own = bound.named["by_country"]
    job, rid = await follow(bound, "own", own)
    for path in (
        f"/api/queries/{own}",
        *(f"/api/queries/{own}/results.{form}" for form in FORMS),
        *(f"/api/queries/{own}/results/{rid}.{form}" for form in FORMS),
        *(f"/api/query_results/{rid}.{form}" for form in FORMS),
        f"/api/query_results/{rid}",
        f"/api/jobs/{job}",
        f"/api/queries/{own}/jobs/{job}",
    ):
        assert (await ask(bound, "own", "GET", path)).status == 200, path


async def test_the_latest_result_that_a_definition_names_is_known(bound: World) -> None:
    # Ids count as known when seen in any response, also as `latest_query_data_id` (DESIGN 5).
    own = bound.named["by_country"]
    latest = (await ask(bound, "own", "GET", f"/api/queries/{own}/results.json")).json["query_result"]["id"]
    assert (await ask(bound, "own", "GET", f"/api/query_results/{latest}.csv")).status == 200


@pytest.mark.parametrize("form", FORMS)
async def test_no_client_can_make_a_foreign_result_known(bound: World, form: str) -> None:
    """Redash shows a result below any query of the user's (CONTRACT 20.9): this does not make it its result."""
    own, foreign = bound.named["by_country"], bound.named["above"]
    _, rid = await follow(bound, "free", foreign, parameters={"min_amount": 481})
    assert (await ask(bound, "free", "GET", f"/api/queries/{own}/results/{rid}.{form}")).status == 200
    for path in (
        f"/api/queries/{own}/results/{rid}.{form}",
        f"/api/query_results/{rid}.{form}",
        f"/api/query_results/{rid}.json",
    ):
        assert refused(await ask(bound, "own", "GET", path)), path
    # The same in the other direction: it stays the foreign query's for clients that may use that one.
    assert (await ask(bound, "free", "GET", f"/api/queries/{foreign}/results/{rid}.json")).status == 200


@pytest.mark.parametrize("form", FORMS)
async def test_a_result_not_run_here_does_not_become_known_below_any_query(bound: World, form: str) -> None:
    own = bound.named["by_country"]
    foreign = await bound.sandbox.execute_directly(bound.named["above"], {"min_amount": 482})
    first = await ask(bound, "free", "GET", f"/api/queries/{own}/results/{foreign.id}.{form}")
    assert first.status == 200
    for path in (f"/api/queries/{own}/results/{foreign.id}.{form}", f"/api/query_results/{foreign.id}.json"):
        assert refused(await ask(bound, "own", "GET", path)), path


async def test_jobs_of_others_are_unknown(bound: World) -> None:
    own = bound.named["by_country"]
    hold = bound.sandbox.hold(own)
    started = await ask(bound, "free", "POST", f"/api/queries/{own}/results", {"max_age": 0})
    job = started.job["id"]
    for path in (f"/api/jobs/{job}", f"/api/queries/{own}/jobs/{job}"):
        for who in ("own", "both", "boards"):
            assert (await ask(bound, who, "GET", path)).status == 404
            assert (await ask(bound, who, "DELETE", path)).status == 404
    hold.release()
    done = await ask(bound, "free", "GET", f"/api/jobs/{job}", Prefer="wait=10")
    assert done.job["status"] == 3
    assert (await ask(bound, "own", "GET", f"/api/jobs/{job}")).status == 404


async def test_a_job_below_another_query_is_unknown(bound: World) -> None:
    own, other = bound.named["by_country"], bound.named["dropdown"]
    job, _ = await follow(bound, "own", own)
    assert (await ask(bound, "own", "GET", f"/api/queries/{own}/jobs/{job}")).status == 200
    assert (await ask(bound, "own", "GET", f"/api/queries/{other}/jobs/{job}")).status in (403, 404)
    foreign = bound.named["above"]
    assert (await ask(bound, "own", "GET", f"/api/queries/{foreign}/jobs/{job}")).status in (403, 404)


async def test_dropdowns_are_open_only_through_the_query_that_declares_them(bound: World) -> None:
    n = bound.named
    declared = f"/api/queries/{n['dropdown']}/dropdowns/{n['countries']}"
    assert (await ask(bound, "own", "GET", declared)).status == 200
    for query, dropdown in (("dropdown", "above"), ("by_country", "countries"), ("by_country", "above")):
        path = f"/api/queries/{n[query]}/dropdowns/{n[dropdown]}"
        await ask(bound, "free", "GET", path)  # what another client has just read must not be shown either
        assert (await ask(bound, "own", "GET", path)).status == 403, path
    assert (await ask(bound, "own", "GET", f"/api/queries/{n['countries']}/dropdown")).status == 403
    assert (await ask(bound, "own", "GET", f"/api/queries/{n['countries']}")).status == 403
    assert (await ask(bound, "own", "GET", f"/api/queries/{n['countries']}/results.json")).status == 403


async def test_a_dropdown_that_is_no_longer_declared_closes(bound: World) -> None:
    n = bound.named
    path = f"/api/queries/{n['dropdown']}/dropdowns/{n['countries']}"
    assert (await ask(bound, "own", "GET", path)).status == 200
    bound.sandbox.edit_query(n["dropdown"], options={"parameters": [{"name": "country", "type": "number", "value": 1}]})
    bound.clock.turn(61)  # beyond `definition_check`
    assert (await ask(bound, "own", "GET", path)).status == 403


# -- dashboards


async def test_what_is_on_the_dashboard_is_open_and_nothing_else(bound: World) -> None:
    n = bound.named
    for short in ("by_country", "revenue_by_month"):
        assert (await ask(bound, "boards", "GET", f"/api/queries/{n[short]}/results.json")).status == 200
    _, rid = await follow(bound, "boards", n["above"], parameters={"min_amount": 470})
    assert (await ask(bound, "boards", "GET", f"/api/query_results/{rid}.csv")).status == 200
    for short in ("kb1", "countries", "in_country", "dropdown"):
        assert (await ask(bound, "boards", "GET", f"/api/queries/{n[short]}/results.json")).status == 403
        assert (await ask(bound, "boards", "POST", f"/api/queries/{n[short]}/results", {})).status == 403
    assert (await ask(bound, "both", "GET", f"/api/queries/{n['kb1']}/results.json")).status == 200
    # On the board, but the credential may not see its source: a restricted widget shows no query.
    assert (await ask(bound, "boards", "GET", f"/api/queries/{n['restricted']}/results.json")).status == 403


async def test_dashboards_are_checked_by_the_id_in_the_response(bound: World) -> None:
    # By slug only with `?legacy`, and two boards may have the same slug (CONTRACT 13).
    good = (
        f"/api/dashboards/{SALES}",
        "/api/dashboards/sales-overview?legacy",
        "/api/dashboards/sales-overview?legacy=1",
    )
    bad = (
        f"/api/dashboards/{PUBLIC}",
        "/api/dashboards/shop-in-numbers?legacy",
        "/api/dashboards/shop-in-numbers?legacy=x",
    )
    for path in good + bad:
        assert (await ask(bound, "free", "GET", path)).status == 200, path
    for path in good:
        assert (await ask(bound, "boards", "GET", path)).status == 200, path
    for path in good + bad:
        if path not in good:
            assert (await ask(bound, "boards", "GET", path)).status == 403, path
        assert (await ask(bound, "own", "GET", path)).status == 403, path
        assert (await ask(bound, "own", "HEAD", path)).status == 403, path


async def test_a_renamed_dashboard_with_the_same_slug_is_another(bound: World) -> None:
    bound.sandbox.database.dashboards[PUBLIC].name = "Sales overview"
    reply = await ask(bound, "boards", "GET", "/api/dashboards/shop-in-numbers?legacy")
    assert reply.status == 403
    assert b"Shop" not in reply.body


async def test_a_widget_that_is_removed_closes_its_query_within_a_minute(bound: World) -> None:
    query = bound.named["by_country"]
    job, rid = await follow(bound, "boards", query)
    paths = [
        f"/api/queries/{query}",
        f"/api/queries/{query}/results.json",
        f"/api/queries/{query}/results/{rid}.json",
        f"/api/query_results/{rid}",
        f"/api/query_results/{rid}.csv",
        f"/api/queries/{query}/results.json?max_age=-1",
    ]
    for path in paths * 4:  # repeated requests with the same bytes are served by the fast path
        assert (await ask(bound, "boards", "GET", path)).status == 200, path
    database = bound.sandbox.database
    for widget_id in [w.id for w in database.widgets.values() if w.dashboard_id == SALES and w.visualization_id]:
        if database.visualizations[database.widgets[widget_id].visualization_id or 0].query_id == query:
            del database.widgets[widget_id]
    bound.clock.turn(60.5)
    for path in paths:
        assert refused(await ask(bound, "boards", "GET", path)), path
    assert (await ask(bound, "boards", "POST", f"/api/queries/{query}/results", {})).status == 403
    # "by whatever way (query, result id, job …)" (DESIGN 4): a job's error text shows something of the query, too.
    for path in (f"/api/jobs/{job}", f"/api/queries/{query}/jobs/{job}"):
        assert refused(await ask(bound, "boards", "GET", path)), path


@pytest.mark.parametrize("trouble", ["status", "html", "garbage", "reset_before_headers", "truncate", "archived"])
async def test_a_dashboard_that_cannot_be_read_opens_nothing(bound: World, trouble: str) -> None:
    query = bound.named["by_country"]
    assert (await ask(bound, "boards", "GET", f"/api/queries/{query}/results.json")).status == 200
    boards = [route for route in _routes(bound) if route.startswith("/api/dashboards/<")]
    assert boards
    if trouble == "archived":
        del bound.sandbox.database.dashboards[SALES]
    else:
        for route in boards:
            bound.sandbox.faults.add(trouble, route=route, status=500)
    bound.clock.turn(61)
    for path in (f"/api/queries/{query}/results.json", f"/api/queries/{query}", f"/api/query_results/{1}"):
        reply = await ask(bound, "boards", "GET", path)
        assert reply.status in (403, 404, 500, 502), (path, reply.status)
        assert b"rows" not in reply.body
    # Without an answer, not even the client's own queries are open: a failure denies. A refusal is an answer.
    own = await ask(bound, "both", "GET", f"/api/queries/{bound.named['kb1']}/results.json")
    assert (own.status == 200) is (trouble == "archived")


def _routes(world: World) -> set[str]:
    return {seen.route for seen in world.sandbox.log}


async def test_a_query_added_to_the_dashboard_opens_within_a_minute(bound: World) -> None:
    query = bound.named["kb1"]
    assert (await ask(bound, "boards", "GET", f"/api/queries/{query}/results.json")).status == 403
    database = bound.sandbox.database
    table = next(v.id for v in database.visualizations.values() if v.query_id == query)
    database.add_widget(SALES, table, "", {})
    bound.clock.turn(60.5)
    assert (await ask(bound, "boards", "GET", f"/api/queries/{query}/results.json")).status == 200


# -- query keys


@EVERY_KIND
async def test_a_client_of_a_query_key_reaches_its_query_on_every_path_and_no_other(bound: World) -> None:
    own, other = bound.named["in_country"], bound.named["by_country"]
    job, rid = await follow(bound, "keyed", own, parameters={"country": "FR"})
    for path in (
        f"/api/jobs/{job}",
        f"/api/queries/{own}/jobs/{job}",
        f"/api/queries/{own}/results/{rid}.json",
        f"/api/queries/{own}/results/{rid}.csv",
        f"/api/query_results/{rid}",
        f"/api/query_results/{rid}.tsv",
    ):
        assert (await ask(bound, "keyed", "GET", path)).status == 200, path
    for path in (
        f"/api/queries/{other}",
        f"/api/queries/{other}/results.json",
        f"/api/queries/{other}/results/{rid}.json",
        f"/api/dashboards/{SALES}",
        f"/api/queries/{own}/dropdowns/{other}",
        "/api/session",
    ):
        assert refused(await ask(bound, "keyed", "GET", path)), path
    # The gateway's own ids are per scope as well: no other client can read them.
    for who in ("free", "own", "boards"):
        assert (await ask(bound, who, "GET", f"/api/query_results/{rid}")).status in (403, 404)
        assert (await ask(bound, who, "GET", f"/api/queries/{own}/results/{rid}.json")).status in (403, 404)


async def test_a_client_of_another_configuration_table_with_the_same_credential_shares_results_not_jobs(
    bound: World,
) -> None:
    own = bound.named["by_country"]
    job, rid = await follow(bound, "own", own)
    assert (await ask(bound, "boards", "GET", f"/api/query_results/{rid}")).status == 200  # same scope, same query
    assert (await ask(bound, "boards", "GET", f"/api/jobs/{job}")).status == 404
    assert (await bound.get(f"/api/query_results/{rid}")).status == 200
    assert TOKENS["dashboard"] != token("own")
