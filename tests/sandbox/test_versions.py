"""What the versions of Redash do differently. Recorded exchanges hold single responses; here are sequences of requests,
and what was read in the sources of the version.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.sandbox import VERSIONS, Sandbox, parameter
from gateway.sandbox.json_text import dumps

from .conftest import Client, Clock

HOUR = 3600
UNKNOWN = "/api/jobs/00000000-1111-2222-3333-444444444444"


@pytest.fixture(params=VERSIONS)
async def redash(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Sandbox]:
    async with Sandbox(now=clock, orders=50, redash=request.param) as running:
        yield running


@pytest.fixture
async def client(redash: Sandbox) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(redash, session)


@pytest.fixture
def old(redash: Sandbox) -> bool:
    """Version 10 or 8."""
    return redash.version in (VERSIONS["8"], VERSIONS["10"])


@pytest.fixture
def oldest(redash: Sandbox) -> bool:
    """Version 8."""
    return redash.version is VERSIONS["8"]


def _query(redash: Sandbox, sql: str, *definitions: dict[str, Any], **more: Any) -> int:
    return redash.add_query("A query", sql, parameters=definitions, **more)


WORD = parameter("w", "enum", "de", enumOptions="de\nDE")


# -- the cache key


@pytest.mark.parametrize("key", ["user", "query"])
async def test_letter_case_is_part_of_the_key_or_not(redash: Sandbox, client: Client, old: bool, key: str) -> None:
    query_id = _query(redash, "select '{{w}}' as w", WORD)
    await client.execute(query_id, max_age=0, parameters={"w": "de"})
    await redash.wait_idle()
    who = "analyst" if key == "user" else redash.query_key(query_id)
    upper = await client.execute(query_id, key=who, max_age=600, parameters={"w": "DE"})
    if old:
        assert upper.json["query_result"]["data"]["rows"] == [{"w": "de"}]
    else:
        assert "job" in upper.json


async def test_executions_that_differ_in_letter_case_are_joined_or_not(
    redash: Sandbox, client: Client, old: bool
) -> None:
    query_id = _query(redash, "select '{{w}}' as w", WORD)
    with redash.hold():
        ids = {
            (await client.execute(query_id, max_age=0, parameters={"w": word})).json["job"]["id"]
            for word in ("de", "DE")
        }
    assert len(ids) == (1 if old else 2)


async def _rows(redash: Sandbox, client: Client, query_id: int, **fields: Any) -> tuple[int, str]:
    result = await client.result_of(await client.execute(query_id, max_age=0, **fields))
    return len(result["data"]["rows"]), result["query"]


@pytest.mark.parametrize("flag", [None, True, False])
async def test_who_decides_about_the_automatic_limit(
    redash: Sandbox, client: Client, old: bool, oldest: bool, flag: bool | None
) -> None:
    numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) select i from n"
    query_id = _query(redash, numbers, options={"apply_auto_limit": True})
    fields = {} if flag is None else {"apply_auto_limit": flag}
    limited = not oldest and (not old if flag is None else flag)
    rows, sql = await _rows(redash, client, query_id, **fields)
    assert (rows, sql.endswith(" LIMIT 1000")) == ((1000, True) if limited else (3000, False))
    # The hash of the query has the limit, if the version has one, so only a run with the limit is its newest result.
    newest = await client.get(f"/api/queries/{query_id}/results.json")
    assert newest.status == (200 if oldest or limited else 404)


async def test_a_semicolon_at_the_end_is_executed_by_old_versions(redash: Sandbox, client: Client, old: bool) -> None:
    _, sql = await _rows(redash, client, _query(redash, "select 1 as one; -- the end"))
    assert sql == ("select 1 as one; -- the end" if old else "select 1 as one")


@pytest.mark.parametrize("key", ["user", "query"])
async def test_a_run_with_the_defaults_is_the_newest_result_or_not(
    redash: Sandbox, client: Client, old: bool, key: str
) -> None:
    query_id = _query(redash, "select '{{w}}' as w", WORD)
    await client.execute(query_id, max_age=0, parameters={"w": "de"})
    await redash.wait_idle()
    who = "analyst" if key == "user" else redash.query_key(query_id)
    newest = await client.get(f"/api/queries/{query_id}/results.json", key=who)
    assert newest.status == (404 if old else 200)
    assert (redash.queries[query_id].latest_query_data_id is None) == old


# -- errors of an execution


async def test_a_query_without_source_is_401_or_500(redash: Sandbox, client: Client, old: bool) -> None:
    query_id = _query(redash, "select 1", data_source_id=None)
    for key in ("admin", redash.query_key(query_id)):
        response = await client.execute(query_id, key=key, max_age=0)
        assert response.status == (500 if old else 401)
        assert old or response.json["job"]["error"] == "Target data source not available."
    assert (await client.execute(query_id, max_age=0)).status == 403


async def test_a_dropdown_that_was_never_executed_is_400_or_500(redash: Sandbox, client: Client, old: bool) -> None:
    options = _query(redash, "select 'a' as value")
    query_id = _query(redash, "select '{{c}}' as c", parameter("c", "query", "a", queryId=options))
    response = await client.execute(query_id, max_age=0, parameters={"c": "a"})
    assert response.status == (500 if old else 400)
    assert (await client.get(f"/api/queries/{options}/dropdown")).status == 500


async def test_old_versions_know_no_text_patterns(redash: Sandbox, client: Client, old: bool) -> None:
    query_id = _query(redash, "select '{{c}}' as c", parameter("c", "text-pattern", "P1", regex="P[0-9]"))
    response = await client.execute(query_id, max_age=0, parameters={"c": "P1"})
    assert response.status == (400 if old else 200)


# -- jobs


async def test_members_and_times_of_a_job(redash: Sandbox, client: Client, old: bool, oldest: bool) -> None:
    with redash.hold():
        job = (await client.execute(1, max_age=0)).json["job"]
        assert ("result" in job) == (not oldest)
        path = f"/api/jobs/{job['id']}"
        await redash.wait_executions(1)
        assert ((await client.get(path)).json["job"]["updated_at"] == 0) == oldest
        await client.request("DELETE", path)
        cancelled = (await client.get(path)).json["job"]
        assert (cancelled["status"], cancelled["error"]) == (4, "Query cancelled by user.")
        assert isinstance(cancelled["updated_at"], str) == (old and not oldest)


async def test_an_unknown_job_is_queued_for_ever_in_8(redash: Sandbox, client: Client, oldest: bool) -> None:
    for path in (UNKNOWN, "/api/jobs/no-uuid", UNKNOWN.replace("/api", "/api/queries/1")):
        unknown = await client.get(path)
        assert unknown.status == (200 if oldest else 500)
        assert not oldest or unknown.json["job"] | {"id": ""} == {
            "status": 1, "error": "", "id": "", "query_result_id": None, "updated_at": 0
        }  # fmt: skip
    deleted = await client.request("DELETE", UNKNOWN)
    assert (deleted.status, deleted.body) == (200, b"null") if oldest else deleted.status == 500
    assert (await client.request("DELETE", UNKNOWN.replace("/api", "/api/queries/1"))).status in (405, 500)


async def test_a_flush_loses_queued_jobs_and_locks(redash: Sandbox, client: Client, oldest: bool) -> None:
    with redash.hold_queue():
        lost = (await client.execute(1, max_age=0)).json["job"]["id"]
        redash.lose_jobs()
        again = (await client.execute(1, max_age=0)).json["job"]["id"]
        assert again != lost
    await redash.wait_idle()
    assert redash.counters.started == 1
    after = await client.get(f"/api/jobs/{lost}")
    assert after.json["job"]["status"] == 1 if oldest else after.status == 500
    assert (await client.get(f"/api/jobs/{again}")).json["job"]["status"] == 3


async def test_a_job_cancelled_in_the_queue_of_8_waits_for_a_worker(
    redash: Sandbox, client: Client, oldest: bool
) -> None:
    with redash.hold_queue():
        job_id = (await client.execute(1, max_age=0)).json["job"]["id"]
        await client.request("DELETE", f"/api/jobs/{job_id}")
        assert (await client.get(f"/api/jobs/{job_id}")).json["job"]["status"] == (1 if oldest else 4)
        joined = (await client.execute(1, max_age=0)).json["job"]["id"] == job_id
        assert joined == oldest
    await redash.wait_idle()
    job = (await client.get(f"/api/jobs/{job_id}")).json["job"]
    assert (job["status"], job["error"]) == (
        4,
        "Query execution cancelled." if oldest else "Query cancelled by user.",
    )
    assert redash.counters.started == (0 if oldest else 1)


async def test_a_finished_job_of_8_cannot_be_cancelled(redash: Sandbox, client: Client, oldest: bool) -> None:
    job_id = (await client.execute(1, max_age=0)).json["job"]["id"]
    await redash.wait_idle()
    await client.request("DELETE", f"/api/jobs/{job_id}")
    assert (await client.get(f"/api/jobs/{job_id}")).json["job"]["status"] == (3 if oldest else 4)


@pytest.mark.parametrize(("sql", "hours"), [("select 1", 12), ("select * from nothing", 7 * 24)])
async def test_how_long_a_job_is_known(
    redash: Sandbox, client: Client, clock: Clock, oldest: bool, sql: str, hours: int
) -> None:
    job_id = (await client.execute(_query(redash, sql), max_age=0)).json["job"]["id"]
    await redash.wait_idle()
    for seconds, known in ((-1, True), (2, False)):
        clock.seconds += seconds + ((4 if oldest else hours) * HOUR if known else 0)
        response = await client.get(f"/api/jobs/{job_id}")
        is_known = response.status == 200 and response.json["job"]["status"] != 1
        assert is_known == known


# -- JSON


async def test_members_of_a_result_of_8_stand_in_another_order(redash: Sandbox, client: Client, oldest: bool) -> None:
    redash.add_first_result(query_id := _query(redash, "select 1 as id, 'x' as name, 'DE' as country"))
    body = json.loads((await client.get(f"/api/queries/{query_id}/results.json")).body)["query_result"]
    assert next(iter(body)) == ("retrieved_at" if oldest else "id")
    assert list(body)[-1] == ("data_source_id" if oldest else "retrieved_at")
    assert list(body["data"]) == (["rows", "columns"] if oldest else ["columns", "rows"])
    assert list(body["data"]["rows"][0]) == (["country", "id", "name"] if oldest else ["id", "name", "country"])
    reduced = (await client.execute(query_id, key=redash.query_key(query_id))).json["query_result"]
    assert list(reduced) == (["retrieved_at", "data"] if oldest else ["data", "retrieved_at"])


async def test_rows_may_look_like_the_members_around_them(redash: Sandbox, client: Client) -> None:
    sql = """select '"data": null' as "data", '{"data": null}' as x"""
    redash.add_first_result(query_id := _query(redash, sql))
    result = (await client.get(f"/api/queries/{query_id}/results.json")).json["query_result"]
    assert result["query"] == sql
    assert result["data"]["rows"] == [{"data": '"data": null', "x": '{"data": null}'}]


async def test_old_versions_escape_what_is_not_ascii(redash: Sandbox, client: Client, old: bool) -> None:
    redash.add_first_result(query_id := _query(redash, "select 'Ä' as letter"))
    response = await client.get(f"/api/queries/{query_id}/results.json")
    assert (b"\\u00c4" in response.body) == old == ("Ä".encode() not in response.body)
    assert response.json["query_result"]["data"]["rows"] == [{"letter": "Ä"}]


async def test_the_newest_versions_sort_the_members_of_options(redash: Sandbox, client: Client, old: bool) -> None:
    query_id = _query(redash, "select '{{w}}' as w", {"title": "w", "name": "w", "type": "enum", "enumOptions": "x"})
    definition = (await client.get(f"/api/queries/{query_id}")).json["options"]["parameters"][0]
    assert (list(definition) == ["name", "type", "title", "enumOptions"]) == (not old)
    assert definition == {"title": "w", "name": "w", "type": "enum", "enumOptions": "x"}


def test_an_object_of_8_keeps_all_its_members() -> None:
    many = {f"column {number}": number for number in range(1_000)}
    assert json.loads(dumps(many, VERSIONS["8"])) == many
    assert json.loads(dumps({"": 1, "é": {"b": [{"a": 1}]}}, VERSIONS["8"])) == {"": 1, "é": {"b": [{"a": 1}]}}


# -- files


@pytest.mark.parametrize("extension", ["csv", "tsv", "xlsx", "foo"])
async def test_kinds_of_files(redash: Sandbox, client: Client, oldest: bool, extension: str) -> None:
    newest = redash.queries[1].latest_query_data_id
    response = await client.get(f"/api/query_results/{newest}.{extension}")
    kinds = {"csv": "text/csv", "tsv": "text/tab-separated-values", "xlsx": "application/vnd.openxmlformats"}
    if extension not in kinds and not oldest:
        assert response.status == 500
        return
    kind = "text/csv" if oldest and extension in ("tsv", "foo") else kinds[extension]
    assert response.headers["Content-Type"].startswith(kind)
    quote = '"' if oldest else ""
    name = f"{quote}{newest}_2026_11_18.{extension}{quote}"
    assert response.headers["Content-Disposition"] == f"attachment; filename={name}"


# -- dashboards


async def test_dashboards_by_id_or_by_slug(redash: Sandbox, client: Client, oldest: bool) -> None:
    board = redash.database.dashboards[1]
    assert (await client.get("/api/dashboards/1")).status == (404 if oldest else 200)
    assert (await client.get(f"/api/dashboards/{board.slug}")).status == (200 if oldest else 500)
    assert (await client.get(f"/api/dashboards/{board.slug}?legacy")).status == 200
    assert (await client.get("/api/dashboards/1?legacy")).status == 404
    assert (await client.get("/api/dashboards/my")).status == (404 if oldest else 200)


async def test_8_edits_by_id_and_archives_by_slug(redash: Sandbox, client: Client, oldest: bool) -> None:
    board = redash.database.dashboards[1]
    edited = await client.request("POST", "/api/dashboards/1", key="admin", json={"name": "Renamed"})
    assert edited.json["slug"] == ("sales-overview" if oldest else "renamed")
    assert (await client.request("POST", "/api/dashboards/1/share", key="admin")).status == 200
    name = board.slug if oldest else "1"
    for method, path in (("POST", f"{name}/favorite"), ("DELETE", f"{name}/favorite"), ("DELETE", name)):
        assert (await client.request(method, f"/api/dashboards/{path}", key="admin")).status == 200
    assert board.is_archived


async def test_members_of_a_dashboard(redash: Sandbox, client: Client, oldest: bool) -> None:
    body = (await client.get(f"/api/dashboards/{redash.database.dashboards[1].slug}?legacy")).json
    assert ("options" in body) == (not oldest)
    assert ("groups" in body["user"]) == oldest
    public = (await client.get(f"/api/dashboards/public/{redash.dashboard_token(2)}", key="")).json
    assert ("options" in public) == (not oldest)


# -- routes and errors


ROUTES = [
    ("POST", "/api/dashboards/1/fork", {"8": 405, "10": 405, "25": 200, "26": 200}),
    ("POST", "/api/alerts/1/mute", {"8": 405, "10": 200, "25": 200, "26": 200}),
    ("POST", "/api/alerts/1/eval", {"8": 405, "10": 405, "25": 200, "26": 200}),
    ("PUT", "/api/queries/1", {"8": 405, "10": 405, "25": 405, "26": 405}),
    ("GET", "/api/admin/queries/rq_status", {"8": 200, "10": 200, "25": 200, "26": 200}),
]


@pytest.mark.parametrize(("method", "path", "statuses"), ROUTES, ids=[path for _, path, _ in ROUTES])
async def test_routes_that_a_version_lacks(
    redash: Sandbox, client: Client, old: bool, oldest: bool, method: str, path: str, statuses: dict[str, int]
) -> None:
    response = await client.request(method, path, key="admin")
    assert response.status == next(statuses[name] for name, version in VERSIONS.items() if version is redash.version)
    page = (response.status == 405 and old) or (oldest and path.endswith("rq_status"))
    assert response.headers["Content-Type"].startswith("text/html" if page else "application/json")


async def test_a_source_and_its_schema(redash: Sandbox, client: Client, oldest: bool) -> None:
    assert (await client.get("/api/data_sources/1")).status == (403 if oldest else 200)
    listed = (await client.get("/api/data_sources")).json[0]
    assert ("supports_auto_limit" in listed) == (not oldest)
    for path in ("/api/data_sources/1/schema", "/api/data_sources/1/schema?refresh"):
        assert list((await client.get(path)).json) == (["schema"] if oldest else ["job"])
    assert isinstance(redash.warehouse.schema()[0]["columns"], list)


@pytest.mark.parametrize("slug", [None, "acme"])
async def test_where_an_old_search_is_redirected(clock: Clock, slug: str | None) -> None:
    for name in VERSIONS:
        async with Sandbox(now=clock, orders=1, slug=slug, redash=name) as redash, aiohttp.ClientSession() as session:
            key = {"Authorization": f"Key {redash.user_keys['analyst']}"}
            url = f"{redash.url}{f'/{slug}' if slug else ''}/api/queries/search?q=Orders"
            async with session.get(url, headers=key, allow_redirects=False) as response:
                start = redash.url if name in ("8", "10") else ""
                where = f"/{slug}/api/queries?q=Orders" if slug else "/api/queries?q=Orders&org_slug=default"
                assert response.headers["Location"] == f"{start}{where}&drafts=false"


async def test_the_404_without_login(redash: Sandbox, client: Client, old: bool, oldest: bool) -> None:
    response = await client.get("/api/queries/1", key="")
    text = "Couldn't find resource. Please login and try again."
    forms = (f'{{"message": "{text}"}}', f'{{"message":"{text}"}}\n', f'{{\n  "message": "{text}"\n}}\n')
    assert (response.status, response.body.decode()) == (404, forms[old + oldest])


async def test_other_errors_in_the_words_of_the_version(redash: Sandbox, client: Client, oldest: bool) -> None:
    missing = (await client.get("/api/queries/999")).json["message"]
    blank = "  " if oldest else " "
    assert missing.startswith(f"The requested URL was not found on the server.{blank}If you entered")
    assert ("You have requested this URI [/api/queries/999] but did you mean /api/" in missing) == oldest
    conflict = await client.request("POST", "/api/queries/1", key="admin", json={"version": 9})
    assert conflict.json["message"].startswith(f"A conflict happened while processing the request.{blank}The")


# -- the server itself


async def test_the_version_is_told(redash: Sandbox, client: Client) -> None:
    settings = (await client.get("/api/session")).json["client_config"]
    assert settings["version"] == redash.version.number
    assert (await client.get("/status.json", key="admin")).json["version"] == redash.version.number
    assert not redash.version.missing_settings & settings.keys()


async def test_8_sends_cookies_only_after_a_login(redash: Sandbox, client: Client, oldest: bool) -> None:
    response = await client.get("/api/queries/1")
    assert ("Set-Cookie" in response.headers, "Vary" in response.headers) == (not oldest, not oldest)
    form = {"email": "analyst@shop.example", "password": "analyst"}
    login = await client.request("POST", "/login", key="", data=form, allow_redirects=False)
    assert "session=" in str(login.headers.getall("Set-Cookie"))
