"""Dashboards where Redash knows them by slug only (8 and 9), and by slug in the configuration (every version)."""

from __future__ import annotations

import pytest
from support.calls import AS_OPERATOR
from support.http import Reply, send
from support.world import World

from .front import client, token

SALES, PUBLIC = 1, 2
SLUGS = {SALES: "sales-overview", PUBLIC: "shop-in-numbers"}
FORMS = {"id": str(SALES), "slug": f'"{SLUGS[SALES]}"', "both": f'{SALES}, "{SLUGS[SALES]}"'}
LIST, BOARD = "/api/dashboards", "/api/dashboards/<dashboard_id>"

every_version = pytest.mark.parametrize("redash_version", ["8", "10", "25", "26"])
by_slug_only = pytest.mark.parametrize("redash_version", ["8"])


async def ask(world: World, path: str, who: str = "boards") -> Reply:
    return await world.call("GET", path, client=None, headers={"Authorization": f"Key {token(who)}"})


async def start(world: World, dashboards: str = str(SALES)) -> None:
    tables = [
        client("boards", f"dashboards = [{dashboards}]", credentials='"analyst"'),
        client("free", credentials='"analyst"'),
    ]
    await world.start("\n".join(tables))
    world.sandbox.reset_counters()


def seen(world: World, route: str) -> int:
    return sum(request.route == route for request in world.sandbox.log)


def results(world: World, name: str) -> str:
    return f"/api/queries/{world.named[name]}/results.json"


@every_version
@pytest.mark.parametrize("form", sorted(FORMS))
async def test_what_is_on_the_dashboard_is_open_and_nothing_else(bare: World, form: str) -> None:
    await start(bare, FORMS[form])
    for name in ("by_country", "revenue_by_month"):
        assert (await ask(bare, f"/api/queries/{bare.named[name]}")).status == 200
    for name in ("kb1", "countries", "in_country"):
        assert (await ask(bare, results(bare, name))).status == 403
        assert (await ask(bare, f"/api/queries/{bare.named[name]}")).status == 403


@every_version
@pytest.mark.parametrize("form", sorted(FORMS))
async def test_a_dashboard_is_judged_by_its_id_however_it_is_named(bare: World, form: str, redash_version: str) -> None:
    await start(bare, FORMS[form])
    by_slug = redash_version == "8"
    for board, allowed in ((SALES, True), (PUBLIC, False)):
        for path, found in (
            (f"/api/dashboards/{board}", 404 if by_slug else 200),
            (f"/api/dashboards/{SLUGS[board]}?legacy", 200),
            (f"/api/dashboards/{SLUGS[board]}", 200 if by_slug else 500),
        ):
            direct = await ask(bare, path, "free")
            assert direct.status == found, path
            got = await ask(bare, path)
            # A slug is judged by the id in the response; where Redash shows none, its own refusal says nothing either.
            assert got.status == (found if allowed or found == 500 else 403), path
            assert allowed or b"widgets" not in got.body


@by_slug_only
async def test_a_dashboard_whose_slug_is_anothers_id_is_another(bare: World) -> None:
    """Redash 8 takes the id for a slug, and may show the dashboard that is called like it."""
    database = bare.sandbox.database
    made = database.add_dashboard(str(SALES), 1, is_draft=False)
    assert made.slug == str(SALES)
    foreign = database.visualizations_of(bare.named["kb1"])[0]
    database.add_widget(made.id, foreign.id)
    await start(bare)
    assert (await ask(bare, f"/api/dashboards/{SALES}", "free")).json["id"] == made.id
    assert (await ask(bare, f"/api/dashboards/{SALES}")).status == 403
    assert (await ask(bare, results(bare, "kb1"))).status == 403
    assert (await ask(bare, results(bare, "by_country"))).status == 200


@by_slug_only
async def test_the_list_is_asked_for_once_and_then_the_slug_is_known_for_a_while(bare: World) -> None:
    await start(bare)
    for _ in range(9):
        assert (await ask(bare, results(bare, "by_country"))).status == 200
        bare.clock.turn(61)  # the dashboard is read again
    assert seen(bare, LIST) == 1
    assert seen(bare, BOARD) == 1 + 9  # once by id
    bare.clock.turn(100)
    assert (await ask(bare, results(bare, "by_country"))).status == 200
    assert seen(bare, LIST) == 2


@every_version
async def test_a_dashboard_that_does_not_exist_costs_one_list_a_minute(bare: World) -> None:
    await start(bare, "99")
    for _ in range(5):
        assert (await ask(bare, results(bare, "by_country"))).status == 403
    assert seen(bare, LIST) == 1
    bare.clock.turn(61)
    assert (await ask(bare, results(bare, "by_country"))).status == 403
    assert seen(bare, LIST) == 2


@by_slug_only
async def test_it_is_found_on_a_later_page_of_the_list(bare: World) -> None:
    database = bare.sandbox.database
    for number in range(300):
        board = database.add_dashboard(f"More {number}", 1, is_draft=False)
        database.add_widget(board.id, database.visualizations_of(bare.named["by_country"])[0].id)
    await start(bare)
    assert (await ask(bare, results(bare, "by_country"))).status == 200
    assert seen(bare, LIST) == 2


@by_slug_only
async def test_a_slug_that_now_leads_to_another_dashboard_opens_nothing(bare: World) -> None:
    await start(bare)
    assert (await ask(bare, results(bare, "by_country"))).status == 200
    boards = bare.sandbox.database.dashboards
    boards[SALES].slug, boards[PUBLIC].slug = boards[PUBLIC].slug, boards[SALES].slug
    bare.clock.turn(61)
    assert (await ask(bare, results(bare, "by_country"))).status == 502
    assert (await ask(bare, results(bare, "by_country"))).status == 200  # found anew


@by_slug_only
@pytest.mark.parametrize("slug", ["../queries/7", "a/b", "a?b", "", "x" * 201, None, 5])
async def test_a_slug_that_is_no_part_of_a_path_is_not_used(bare: World, slug: str) -> None:
    await start(bare)
    bare.sandbox.database.dashboards[SALES].slug = slug
    assert (await ask(bare, results(bare, "by_country"))).status == 403
    assert {request.route for request in bare.sandbox.log} == {LIST, BOARD}


@every_version
async def test_a_removed_widget_closes_its_query_within_a_minute(bare: World) -> None:
    await start(bare, FORMS["slug"])
    path = f"/api/queries/{bare.named['by_country']}"
    assert (await ask(bare, path)).status == 200
    widgets = bare.sandbox.database.widgets
    for widget in bare.sandbox.database.widgets_of(SALES):
        del widgets[widget.id]
    bare.clock.turn(61)
    assert (await ask(bare, path)).status == 403


@every_version
@pytest.mark.parametrize("named", [SALES, SLUGS[SALES]])
async def test_purge_by_dashboard(bare: World, named: int | str) -> None:
    await start(bare)
    await bare.rows("by_country", max_age=0)
    await bare.rows("kb1", max_age=0)
    reply = await send(bare.session, "POST", f"{bare.admin}/purge", {"dashboard": named}, headers=AS_OPERATOR)
    assert reply.status == 200, reply.body
    assert reply.json["purged"] > 0
    assert "hit" in (await bare.post("kb1", max_age=600)).cache
    assert "miss" in (await bare.post("by_country", max_age=600)).cache


@every_version
@pytest.mark.parametrize("named", [9, "no-such-board", "", "a/b", "../queries", "a?b", True, None, "x" * 201])
async def test_purge_of_an_unknown_dashboard_is_400(bare: World, named: object) -> None:
    await start(bare)
    reply = await send(bare.session, "POST", f"{bare.admin}/purge", {"dashboard": named}, headers=AS_OPERATOR)
    assert reply.status == 400, reply.body
    assert all(request.route in (LIST, BOARD) for request in bare.sandbox.log)


@every_version
@pytest.mark.parametrize("wrong", ['"no-such"', "99"])
async def test_a_dashboard_that_redash_refuses_opens_nothing_and_locks_nobody_out(bare: World, wrong: str) -> None:
    """One wrong entry, or a dashboard that was deleted, must not close the others and the queries that are named."""
    kb1, countries = bare.named["kb1"], bare.named["countries"]
    tables = client("boards", f"dashboards = [{SALES}, {wrong}]\nqueries = [{kb1}]", credentials='"analyst"')
    await bare.start(tables)
    for query in (kb1, bare.named["by_country"]):
        assert (await ask(bare, f"/api/queries/{query}")).status == 200
    assert (await ask(bare, f"/api/queries/{countries}")).status == 403
    bare.sandbox.reset_counters()
    assert (await ask(bare, f"/api/queries/{kb1}/results.json")).status == 200
    assert seen(bare, BOARD) == 0, "a refusal is remembered as long as a dashboard is"
