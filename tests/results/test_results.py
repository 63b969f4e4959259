"""Results in every form and on every route: bytes, names, headers, revalidation, large ones, query keys."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from support.http import Reply
from support.world import World

from gateway.redash.downloads import CONTENT_TYPES

FORMS = ("json", "csv", "tsv", "xlsx")
FIRST_OWN_ID = 2**52
IMMUTABLE = "private,max-age=31557600"


async def direct(world: World, path: str, *, method: str = "GET", key: str = "analyst") -> Reply:
    """Redash's own response to the key that the gateway uses."""
    headers = {"Authorization": f"Key {world.sandbox.user_keys[key]}"}
    async with world.session.request(method, world.sandbox.url + path, headers=headers) as response:
        return Reply(response.status, response.headers.copy(), await response.read())


def latest_id(world: World, name: str) -> int:
    found = world.sandbox.queries[world.named[name]].latest_query_data_id
    assert found is not None
    return found


def routes(query_id: int, result_id: int) -> list[str]:
    """Every path that returns this result, the latest of its query."""
    base = f"/api/queries/{query_id}/results"
    paths = [base, f"/api/query_results/{result_id}"]
    for form in FORMS:
        paths += [f"{base}.{form}", f"{base}/{result_id}.{form}", f"/api/query_results/{result_id}.{form}"]
    return paths


def form_of(path: str) -> str:
    return path.rsplit(".", 1)[1] if "." in path else "json"


def is_by_id(path: str) -> bool:
    return "query_results" in path or "/results/" in path


def downloads(world: World) -> int:
    """How often a result was requested from Redash."""
    return sum(
        n for route, n in world.sandbox.counters.by_route.items() if route.startswith("GET") and "result" in route
    )


# -- the same as Redash


@pytest.mark.parametrize("asked_before", [False, True])
async def test_every_route_returns_what_redash_returns(world: World, asked_before: bool) -> None:
    # Also the second time, from the store. XLSX contains the time when it was made: its bytes always differ.
    for path in routes(world.named["by_country"], latest_id(world, "by_country")):
        wanted = await direct(world, path)
        if asked_before:
            await world.get(path)
        got = await world.get(path)
        assert (got.status, got.headers["Content-Type"]) == (wanted.status, wanted.headers["Content-Type"]), path
        assert got.headers["Content-Disposition"] == wanted.headers["Content-Disposition"], path
        if form_of(path) != "xlsx":
            assert got.body == wanted.body, path
        if asked_before:
            assert "hit" in got.cache, path


@pytest.mark.parametrize("asked_before", [False, True])
async def test_only_results_by_id_may_be_cached_for_a_year(world: World, asked_before: bool) -> None:
    # CONTRACT 4. What a path calls "latest" changes with the next run: a browser must not cache it.
    for path in routes(world.named["by_country"], latest_id(world, "by_country")):
        if asked_before:
            await world.get(path)
        shown = (await world.get(path)).headers["Cache-Control"].replace(" ", "")
        assert shown == (IMMUTABLE if is_by_id(path) else "private,no-cache"), path


@pytest.mark.parametrize(
    "name",
    [
        "Orders by country",
        "Umsätze & Ñandú",
        "Résumé “Q1” — 2024/25",
        "売上 2024",
        "Ben's 100% list*",
        'He said "go"',
        "A (draft), of sorts; v2",
        "  spaces   everywhere  ",
        "back\\slash",
        "semi;colon=x",
        "Sales_2024_01_02.final",
        "tab\tand\nline",
    ],
)
@pytest.mark.parametrize("form", ["json", "csv"])
async def test_downloads_have_the_same_names_as_in_redash(world: World, name: str, form: str) -> None:
    # CONTRACT 4: named after the query where its id is in the path (RFC 5987 if not ASCII), else after the result id.
    world.sandbox.edit_query(world.named["by_country"], name=name)
    for path in routes(world.named["by_country"], latest_id(world, "by_country")):
        if form_of(path) == form:
            wanted = (await direct(world, path)).headers["Content-Disposition"]
            for _ in range(2):
                assert (await world.get(path)).headers["Content-Disposition"] == wanted, path


@pytest.mark.parametrize("redash_version", ["8", "10", "26"])
async def test_a_tsv_says_what_it_is(world: World, redash_version: str) -> None:
    # Redash 8 has no TSV: it gives CSV, in a file that is called .tsv.
    kind, separator = ("csv", b",") if redash_version == "8" else ("tsv", b"\t")
    query, latest = world.named["by_country"], latest_id(world, "by_country")
    paths = [path for path in routes(query, latest) if form_of(path) == "tsv"]
    assert len(paths) > 2
    for path in (*paths, *paths, f"/api/queries/{query}/results.tsv?max_age=0"):
        got, wanted = await world.get(path), await direct(world, path.partition("?")[0])
        assert got.status == 200, (path, got.body)
        assert got.body.partition(b"\n")[0].count(separator) > 0
        assert got.headers["Content-Type"] == CONTENT_TYPES[kind] == wanted.headers["Content-Type"]
        named = got.headers["Content-Disposition"]
        assert named == wanted.headers["Content-Disposition"].replace('"', "").replace(".tsv", f".{kind}"), path
    assert "hit" in (await world.get(paths[0])).cache


@pytest.mark.parametrize("redash_version", ["8"])
async def test_a_large_tsv_that_is_csv_says_so_while_it_arrives(world: World) -> None:
    wide = world.sandbox.add_result(world.named["by_country"], [("x", None)], [{"x": "a" * 1000} for _ in range(2_000)])
    for _ in range(2):
        got = await world.get(f"/api/query_results/{wide.id}.tsv")
        assert len(got.body) > 2_000_000
        assert got.headers["Content-Type"] == CONTENT_TYPES["csv"]
        assert got.headers["Content-Disposition"].endswith(".csv")


async def test_a_renamed_query_renames_its_downloads(world: World) -> None:
    path = f"/api/queries/{world.named['by_country']}/results.json"
    await world.get(path)
    world.sandbox.edit_query(world.named["by_country"], name="Renamed")
    world.clock.turn(121)
    assert "filename=Renamed_" in (await world.get(path)).headers["Content-Disposition"]


async def test_head_is_get_without_the_body(world: World) -> None:
    # RFC 9110 9.3.2; Redash runs the whole GET for it (CONTRACT 4).
    for path in routes(world.named["by_country"], latest_id(world, "by_country")):
        if form_of(path) == "xlsx":
            continue
        got, head = await world.get(path), await world.call("HEAD", path)
        assert (head.status, head.body) == (200, b""), path
        for name in ("Content-Type", "Content-Length", "Content-Disposition", "Cache-Control", "ETag"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)


async def test_head_runs_nothing(world: World) -> None:
    query_id = world.named["never_run"]
    wanted = await direct(world, f"/api/queries/{query_id}/results", method="HEAD")
    assert (await world.call("HEAD", f"/api/queries/{query_id}/results")).status == wanted.status == 404
    assert world.sandbox.counters.jobs == 0


async def test_a_query_that_was_never_run_has_no_latest_result(world: World) -> None:
    # CONTRACT 3: Redash's own 404, which ends with the next run and so is not cached.
    path = f"/api/queries/{world.named['never_run']}/results.json"
    reply = await world.get(path)
    assert (reply.status, reply.json["message"]) == (404, "No cached result found for this query.")
    await world.rows("never_run", max_age=0)
    assert (await world.get(path)).rows == [{"never_run_value": 7}]


async def test_latest_is_the_new_result_right_after_a_run(world: World) -> None:
    # A caller that polls and then reads "latest" or the query object must see the new result.
    before = await world.get(f"/api/queries/{world.named['now']}/results")
    await world.rows("now", max_age=0)
    after = await world.get(f"/api/queries/{world.named['now']}/results")
    assert after.json["query_result"]["id"] > before.json["query_result"]["id"]
    shown = await world.get(f"/api/queries/{world.named['now']}")
    assert shown.json["latest_query_data_id"] == after.json["query_result"]["id"]


async def test_results_with_awkward_values_are_unchanged_byte_for_byte(world: World) -> None:
    # CONTRACT 8: 64-bit integers beyond 2**53, exponents, raw UTF-8, a column called api_key: nothing is re-encoded.
    query_id = world.sandbox.add_query("odd", "select 1 as n")
    rows = [{"n": 2**63 - 1, "x": 1.2345678901234567e19, "s": "Ñandú ☃ \u2028", "api_key": "k" * 40, "none": None}]
    names: list[tuple[str, str | None]] = [(name, None) for name in rows[0]]
    result = world.sandbox.add_result(query_id, names, rows)
    for path in routes(query_id, result.id):
        if form_of(path) != "xlsx":
            assert (await world.get(path)).body == (await direct(world, path)).body, path
    assert (await world.post(query_id, max_age=-1)).body == (
        await direct(world, f"/api/query_results/{result.id}")
    ).body


# -- revalidation


async def test_a_known_etag_is_304(world: World) -> None:
    # RFC 9110 13.1.2: comparison is weak, `*` matches whatever there is, a list matches if one does.
    for path in routes(world.named["by_country"], latest_id(world, "by_country")):
        etag = (await world.get(path)).headers["ETag"]
        for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            reply = await world.get(path, if_none_match=given)
            assert (reply.status, reply.body) == (304, b""), (path, given)
            assert reply.headers["ETag"] == etag
            assert reply.headers["Cache-Control"]
        assert (await world.get(path, if_none_match='"other"')).status == 200
        assert (await world.call("HEAD", path, headers={"If-None-Match": etag})).status == 304


async def test_an_etag_of_another_result_or_form_does_not_match(world: World) -> None:
    query_id = world.named["now"]
    first = await world.get(f"/api/queries/{query_id}/results")
    await world.rows("now", max_age=0)
    second = await world.get(f"/api/queries/{query_id}/results", if_none_match=first.headers["ETag"])
    assert second.status == 200
    result_id = second.json["query_result"]["id"]
    tags = [(await world.get(f"/api/query_results/{result_id}.{form}")).headers["ETag"] for form in FORMS]
    assert len(set(tags)) == len(tags)


async def test_another_rendering_has_another_etag(bare: World) -> None:
    # RFC 9110 8.8.1: a strong validator changes with the bytes. XLSX contains the time when it was made, CSV depends on
    # the organisation's settings (CONTRACT 8), so the result's id alone does not make the tag.
    await bare.start(cache='rendered_ttl = "10s"')
    path = f"/api/query_results/{latest_id(bare, 'by_country')}.xlsx"
    first = await bare.get(path)
    bare.clock.turn(366 * 86_400)  # the sandbox writes the year into the file
    second = await bare.get(path)
    assert second.body != first.body
    assert second.headers["ETag"] != first.headers["ETag"]


async def test_age_is_the_age_of_the_rows(world: World) -> None:
    # RFC 9111 4.2.3: since the end of the run, not since the gateway fetched it.
    world.clock.turn(500)
    path = f"/api/query_results/{latest_id(world, 'by_country')}.json"
    assert "Age" not in (await world.get(path)).headers or "hit" not in (await world.get(path)).cache
    world.clock.turn(30)
    reply = await world.get(path)
    assert 530 <= int(reply.headers["Age"]) <= 540


# -- large ones


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_large_result_has_the_same_bytes_on_every_route(world: World) -> None:
    result_id = latest_id(world, "large")
    query_id = world.named["large"]
    wanted = await direct(world, f"/api/query_results/{result_id}.json")
    assert len(wanted.body) > 5_000_000
    paths = [p for p in routes(query_id, result_id) if form_of(p) == "json"]
    for _ in range(2):
        assert {sha((await world.get(path)).body) for path in paths} == {sha(wanted.body)}
    posted = [await world.post("large", max_age=-1), await world.post("large", max_age=3600, wait=10)]
    assert {sha(reply.body) for reply in posted} == {sha(wanted.body)}
    requested = downloads(world)
    await world.restart()
    assert {sha((await world.get(path)).body) for path in paths} == {sha(wanted.body)}
    assert downloads(world) == requested


async def test_a_large_result_that_was_just_run_is_whole(world: World) -> None:
    reply = await world.post("large", max_age=0, wait=30)
    assert sha(reply.body) == sha((await direct(world, f"/api/queries/{world.named['large']}/results")).body)
    csv = f"/api/queries/{world.named['large']}/results.csv"
    assert sha((await world.get(csv)).body) == sha((await direct(world, csv)).body)


async def test_a_result_above_max_entry_is_passed_on_and_not_stored(bare: World) -> None:
    # It is available to waiting callers (for a minute), then deleted; it evicts nothing else.
    await bare.start(cache='max_entry = "1MB"')
    wanted = sha((await direct(bare, f"/api/queries/{bare.named['large']}/results")).body)
    job = await bare.finish((await bare.post("large", max_age=0)).job["id"])
    path = f"/api/queries/{bare.named['large']}/results/{job['query_result_id']}.json"
    first = await bare.get(path)
    assert first.status == 200
    requested = downloads(bare)
    bare.clock.turn(90)
    again = await bare.get(path)
    assert sha(again.body) == sha(first.body) != wanted
    assert downloads(bare) == requested + 1
    assert (await bare.post("large", max_age=3600)).status == 200


# -- what is stored, and for how long


async def test_a_result_by_id_is_requested_once(world: World) -> None:
    # Immutable (CONTRACT 8): one fetch for all routes of its JSON, for both clients with that key, also a day later.
    result_id = latest_id(world, "by_country")
    paths = [p for p in routes(world.named["by_country"], result_id) if form_of(p) == "json"]
    for client in ("dashboard", "second"):
        for path in paths:
            assert (await world.get(path, client=client)).status == 200
    world.clock.turn(86_400)
    assert "hit" in (await world.get(f"/api/query_results/{result_id}.json")).cache
    assert downloads(world) == 1


async def test_clients_of_another_key_share_nothing(world: World) -> None:
    path = f"/api/query_results/{latest_id(world, 'by_country')}.json"
    await world.get(path)
    reply = await world.get(path, client="writer")
    assert (reply.status, downloads(world)) == (200, 2)


@pytest.mark.parametrize("form", ["csv", "tsv", "xlsx"])
async def test_renderings_are_stored_for_rendered_ttl(world: World, form: str) -> None:
    # Their bytes depend on settings of the organisation that the gateway cannot see change (CONTRACT 8).
    path = f"/api/queries/{world.named['by_country']}/results/{latest_id(world, 'by_country')}.{form}"
    first = await world.get(path)
    world.clock.turn(3500)
    again = await world.get(path)
    assert "hit" in again.cache
    assert again.body == first.body
    assert downloads(world) == 2  # the JSON says whose rows they are, and of when
    world.clock.turn(200)
    assert "hit" not in (await world.get(path)).cache
    assert downloads(world) == 4  # and once more: ids begin again when a database is restored


@pytest.mark.parametrize("result_id", [999_999, FIRST_OWN_ID, FIRST_OWN_ID + 12345, 2**53 - 1])
async def test_unknown_result_ids_are_404(world: World, result_id: int) -> None:
    for path in (
        f"/api/query_results/{result_id}",
        f"/api/queries/{world.named['by_country']}/results/{result_id}.csv",
    ):
        reply = await world.get(path)
        assert reply.status == 404
        assert reply.json["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/query_results/0",
        "/api/query_results/01",
        "/api/query_results/-1",
        "/api/query_results/99999999999999999999",
        "/api/query_results/1.pdf",
        "/api/query_results/1.JSON",
        "/api/queries/1/results/1",
        "/api/queries/1/results.",
    ],
)
async def test_impossible_ids_and_file_types_never_reach_redash(world: World, path: str) -> None:
    # Redash responds 500 or 200 with its front-end page (CONTRACT 3, 8).
    assert (await world.get(path)).status == 404
    assert world.sandbox.counters.requests == 0


async def test_the_refusal_of_a_restricted_result_is_passed_on(world: World) -> None:
    # Access to a result depends on its data source (CONTRACT 2); the refusal is passed on and nothing is stored.
    result_id = latest_id(world, "restricted")
    for path in routes(world.named["restricted"], result_id):
        reply = await world.get(path)
        assert (reply.status, reply.json["message"][:27]) == (403, "You don't have the permissi"), path
    nested = f"/api/queries/{world.named['by_country']}/results/{result_id}.json"  # open with any query id in Redash
    assert (await world.get(nested)).status == 403


async def test_a_path_with_a_query_and_anothers_result_does_not_link_them(world: World) -> None:
    # CONTRACT 20.9: query and result in a path are unrelated for user keys. The response is the same in any order.
    result_id = latest_id(world, "kb1")
    path = f"/api/queries/{world.named['by_country']}/results/{result_id}.json"
    before = await world.get(path)
    await world.get(f"/api/query_results/{result_id}.json")
    await world.get(f"/api/queries/{world.named['kb1']}")
    after = await world.get(path)
    assert before.status == after.status


# -- query keys


async def test_query_keys_read_their_default_result_on_every_route(world: World) -> None:
    # In Redash the flat routes are 404 for a query key (CONTRACT 2); the gateway requests the nested ones.
    query_id, result_id = world.named["in_country"], latest_id(world, "in_country")
    shown = await world.get(f"/api/queries/{query_id}", client="narrow")
    assert shown.json["latest_query_data_id"] == result_id
    for path in routes(query_id, result_id):
        wanted, got = await direct(world, path), await world.get(path, client="narrow")
        assert got.status == 200, path
        assert got.headers["Content-Disposition"] == wanted.headers["Content-Disposition"], path
        if form_of(path) != "xlsx":
            assert got.body == wanted.body, path


async def reduced_id(world: World) -> tuple[int, list[dict[str, Any]]]:
    """Run a query with its own key and another value than the default; returns the gateway's id, and the rows."""
    reply = await world.post("in_country", client="narrow", max_age=0, parameters={"country": "FR"})
    job = await world.finish(reply.job["id"], client="narrow")
    return job["query_result_id"], [dict(row) for row in await world.rows("in_country", parameters={"country": "FR"})]


async def test_query_keys_read_other_results_by_the_gateways_ids(world: World) -> None:
    # The trap of CONTRACT 8: by id, Redash gives a query key only the result with the defaults.
    result_id, rows = await reduced_id(world)
    assert FIRST_OWN_ID <= result_id < 2**53
    query_id = world.named["in_country"]
    for path in (f"/api/queries/{query_id}/results/{result_id}.json", f"/api/query_results/{result_id}"):
        reply = await world.get(path, client="narrow")
        assert reply.rows == rows
        assert set(reply.json["query_result"]) == {"data", "retrieved_at"}
        assert reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("form", ["csv", "tsv"])
async def test_query_keys_other_results_are_rendered_as_by_redash(world: World, form: str) -> None:
    result_id, _ = await reduced_id(world)
    theirs = await world.post("in_country", max_age=3600, parameters={"country": "FR"})
    wanted = await direct(world, f"/api/query_results/{theirs.json['query_result']['id']}.{form}")
    query_id = world.named["in_country"]
    for path in (f"/api/queries/{query_id}/results/{result_id}.{form}", f"/api/query_results/{result_id}.{form}"):
        got = await world.get(path, client="narrow")
        assert got.body == wanted.body
        assert got.headers["Content-Type"] == wanted.headers["Content-Type"]
        assert re.search(rf"_\d{{4}}_\d\d_\d\d\.{form}$", got.headers["Content-Disposition"])


async def test_query_keys_other_results_cannot_be_xlsx(world: World) -> None:
    result_id, _ = await reduced_id(world)
    reply = await world.get(f"/api/query_results/{result_id}.xlsx", client="narrow")
    assert reply.status == 406
    assert "csv" in reply.json["message"]


async def test_the_gateways_result_ids_belong_to_their_scope(world: World) -> None:
    result_id, _ = await reduced_id(world)
    for path in (
        f"/api/query_results/{result_id}",
        f"/api/queries/{world.named['in_country']}/results/{result_id}.csv",
    ):
        assert (await world.get(path, client="dashboard")).status == 404


async def test_the_gateways_result_ids_outlive_a_restart(world: World) -> None:
    result_id, rows = await reduced_id(world)
    await world.restart()
    assert (await world.get(f"/api/query_results/{result_id}", client="narrow")).rows == rows


@pytest.mark.parametrize("form", FORMS)
async def test_query_keys_have_no_latest_result_after_an_edit_of_the_sql(world: World, form: str) -> None:
    # CONTRACT 8, 11: a query key sees the latest result only while its hash is the query's; users see the old one.
    query_id = world.named["in_country"]
    path = f"/api/queries/{query_id}/results.{form}"
    assert (await world.get(path, client="narrow")).status == 200
    world.sandbox.edit_query(query_id, query="select 'new' as city, '{{ country }}' as country")
    world.clock.turn(121)
    assert (await world.get(path, client="narrow")).status == 404
    assert (await world.get(path)).status == 200


async def test_post_of_a_query_key_is_reduced_and_get_is_full(world: World) -> None:
    # CONTRACT 6: the same result, two bodies.
    posted = await world.post("in_country", client="narrow", max_age=-1, parameters={"country": "DE"})
    got = await world.get(f"/api/queries/{world.named['in_country']}/results.json", client="narrow")
    assert set(posted.json["query_result"]) == {"data", "retrieved_at"}
    assert {"id", "query", "query_hash", "runtime", "data_source_id"} < set(got.json["query_result"])
    again = await world.post("in_country", client="narrow", max_age=-1, parameters={"country": "DE"})
    assert set(again.json["query_result"]) == {"data", "retrieved_at"}


async def test_responses_always_begin_as_clients_expect(world: World) -> None:
    for reply in (
        await world.post("by_country", max_age=-1),
        await world.post("by_country", max_age=3600),
        await world.post("in_country", client="narrow", max_age=-1, parameters={"country": "DE"}),
    ):
        assert reply.body.startswith(b'{"query_result":')
        assert json.loads(reply.body)
    assert (await world.post("by_country", max_age=0)).body.startswith(b'{"job":')
