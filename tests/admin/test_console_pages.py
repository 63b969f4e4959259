"""The pages beside the overview: lists, one query, one run, the configuration. No SQL, parameter, row or secret."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import ADMIN_TOKEN, TOKENS
from support.world import World

from gateway import config
from gateway.admin.causes import CAUSES, MISSES
from gateway.admin.cells import Order
from gateway.admin.lists import LONGEST_SEARCH, MOST_LISTED, arrange, order_of
from gateway.admin.settings_page import shown
from gateway.errors import reasons
from gateway.outcome import Outcome, batched
from gateway.secret import Secret
from gateway.telemetry.incidents import MOST_INCIDENTS, SLOW_SECONDS, Incidents
from gateway.telemetry.metrics import MISSES as COUNTED
from gateway.telemetry.tables import MOST_FAVOURITES, Favourites


async def read(world: World, path: str) -> str:
    async with world.session.get(world.admin + path) as response:
        assert response.status == 200, path
        return await response.text()


async def report(world: World) -> Any:
    return json.loads(await read(world, "/api/status"))


def rows(page: str, name: str) -> list[list[str]]:
    """The texts of the cells of a table, without its head."""
    found = re.search(rf'<table data-rows="{name}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    if found is None:
        return []
    lines = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in lines]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in line] for line in cells]


# -- queries by name


async def test_queries_have_their_name_and_a_link_into_redash(world: World) -> None:
    query = world.named["by_country"]
    await world.rows("by_country", max_age=0)
    for page, root in ((await read(world, "/"), ""), (await read(world, "/queries"), "")):
        assert f'<a href="{root}queries/{query}">Orders by country</a>' in page
        assert f'href="{world.sandbox.url}/queries/{query}" rel="noreferrer"' in page
    page = await read(world, f"/queries/{query}")
    assert "<h1>Orders by country</h1>" in page
    assert f'href="{world.sandbox.url}/queries/{query}"' in page


async def test_a_name_is_escaped_shortened_and_without_keys(world: World) -> None:
    key = world.sandbox.user_keys["analyst"]
    world.sandbox.edit_query(world.named["now"], name=f"<b>{key}</b>" + "x" * 500)
    await world.rows("now", max_age=0)
    for path in ("/", "/queries", f"/queries/{world.named['now']}"):
        page = await read(world, path)
        assert "<b>" not in re.sub(r"<b><span|<li[^>]*><b>", "", page)
        assert key not in page
        assert "x" * 100 not in page


# -- one query


async def test_a_query_shows_hits_misses_ages_runtimes_and_how_often_its_parameters_were_requested(
    world: World,
) -> None:
    query = world.named["in_country"]
    for country, times in (("FR", 3), ("DE", 1)):
        for _ in range(times):
            await world.post("in_country", max_age=600, wait=20, parameters={"country": country})
    await world.post("in_country", max_age=0, wait=20, parameters={"country": "DE"})
    page = await read(world, f"/queries/{query}")
    assert ["hit", "2", "40 %"] in rows(page, "outcomes")
    assert sorted(rows(page, "misses")) == [["forced", "1", "33 %"], ["not_stored", "2", "67 %"]]
    assert sum(int(row[1]) for row in rows(page, "ages")) >= 4
    assert sum(int(row[1]) for row in rows(page, "runtimes")) >= 1
    assert [row[1] for row in rows(page, "parameters")] == ["3", "2"]
    assert "select" not in page.replace("selected", "")
    assert not re.search(r"\bFR\b|\bDE\b", page), "how often, not which"


async def test_hits_of_the_fast_path_count_for_the_parameters_too(world: World, by_fast_path: list[bytes]) -> None:
    for _ in range(6):
        await world.post("now", max_age=600, wait=20)
    assert by_fast_path
    page = await read(world, f"/queries/{world.named['now']}")
    assert [row[1] for row in rows(page, "parameters")] == ["6"]


async def test_a_query_that_nobody_requested_says_so(world: World) -> None:
    assert "was not requested since" in await read(world, "/queries/424242")
    async with world.session.get(f"{world.admin}/queries/1x") as response:
        assert response.status == 404


def test_favourites_are_bounded_and_keep_the_most_requested() -> None:
    found = Favourites()
    for number in range(1_000):
        found.add(b"favourite", 1)
        found.add(str(number).encode(), 1)
    assert len(found.counts) == MOST_FAVOURITES
    assert max(found.counts, key=found.counts.__getitem__) == b"favourite"
    assert found.counts[b"favourite"] >= 1_000


# -- failures, refusals, slow requests


async def test_failures_and_refusals_have_request_id_client_query_and_cause(world: World) -> None:
    await world.call("GET", "/api/users", headers={"X-Request-ID": "my-refused-request"})
    job = (await world.post("failing", max_age=0)).job["id"]
    await world.finish(job)
    world.sandbox.faults.add("status", status=502, route="/api/queries/<query_id>/results")
    await world.call(
        "POST", f"/api/queries/{world.named['now']}/results", {"max_age": 0}, headers={"X-Request-ID": "my-failed-one"}
    )
    found = await report(world)
    (refused,) = found["refusals"]
    assert (refused["request_id"], refused["client"], refused["cause"]) == (
        "my-refused-request",
        "dashboard",
        "forbidden",
    )
    causes = {(one["what"], one["cause"], one["query"]) for one in found["failures"]}
    assert ("run", "query_failed", world.named["failing"]) in causes
    assert "my-failed-one" in {one["request_id"] for one in found["failures"]}
    assert {one["reason"]: one["total"] for one in found["reasons"]}["forbidden"] == 1
    page = await read(world, "/requests")
    assert "my-refused-request" in page
    assert "my-failed-one" in page
    assert "no such table" not in page, "Redash's text may have SQL and values in it"


async def test_a_refusal_of_redash_is_no_failed_run(world: World) -> None:
    """Redash refuses a run without a value for a parameter: no query has failed."""
    reply = await world.post("in_country", client="second", max_age=0, parameters={"nonsense": 1})
    assert 400 <= reply.status < 500
    found = await report(world)
    assert found["hour"]["failed_runs"] == 0
    assert found["failures"] == []
    assert next(part for part in found["health"] if part["name"] == "Query runs")["state"] in ("idle", "good")


def outcome(seconds: float = 0.001, **fields: Any) -> Outcome:
    return Outcome(request_id="r", started=0.0, duration=seconds, **fields)


def test_the_slowest_requests_of_the_last_hour_are_kept() -> None:
    incidents = Incidents()
    for number in range(3 * MOST_INCIDENTS):
        incidents.note([outcome(SLOW_SECONDS + (number * 7 % 300) / 10)])
    kept = [one.seconds for one in incidents.slowest.list()]
    assert kept == sorted(kept, reverse=True)
    assert len(kept) == MOST_INCIDENTS
    assert min(kept) == incidents.slowest.floor > SLOW_SECONDS + 19
    incidents.slowest.expire(4_000.0)
    assert incidents.slowest.list() == []
    assert incidents.slowest.floor == SLOW_SECONDS


def test_quick_requests_are_not_noted_and_the_rest_is_bounded() -> None:
    incidents = Incidents()
    for _ in range(2 * MOST_INCIDENTS):
        incidents.note([outcome()])
        incidents.note([outcome(status=502, reason="upstream_error")])
        incidents.note([outcome(status=403, reason="forbidden")])
    assert incidents.slowest.list() == []
    assert len(incidents.failures) == len(incidents.refusals) == MOST_INCIDENTS


def test_every_reason_has_a_meaning() -> None:
    assert set(CAUSES) == reasons() | {"lost"}
    assert set(MISSES) == set(COUNTED)


# -- lists

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "query": st.none() | st.integers(0, 50),
            "name": st.text(max_size=5),
            "seconds": st.none() | st.floats(0, 9),
        }
    ),
    max_size=20,
)


@given(ROWS, st.sampled_from(["query", "-query", "seconds", "-seconds", "name", "-name", "none", "-", ""]))
def test_sorting_loses_no_row_and_puts_what_is_unknown_last(found: list[dict[str, Any]], sort: str) -> None:
    arranged = arrange(found, Order("", sort))
    assert sorted(map(repr, arranged)) == sorted(map(repr, found))
    values = [row[sort.lstrip("-")] for row in arranged] if sort.lstrip("-") in ("query", "seconds", "name") else []
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    if sort.lstrip("-") != "name":
        assert known == sorted(known, reverse=sort.startswith("-"))


@given(ROWS, st.text(max_size=3))
def test_searching_finds_a_text_in_any_letter_case(found: list[dict[str, Any]], text: str) -> None:
    wanted = order_of({"find": text})
    for row in arrange(found, wanted):
        assert wanted.find.casefold() in f"{row['query']} {row['name']}".casefold()


def test_the_arguments_of_a_list_are_bounded() -> None:
    order = order_of({"find": "x" * 1_000, "sort": "y" * 1_000})
    assert len(order.find) == len(order.sort) == LONGEST_SEARCH


async def test_a_list_is_bounded_and_says_how_many_there_are(world: World) -> None:
    recorder = world.runtime.telemetry.recorder
    for number in range(MOST_LISTED + 50):
        recorder.record_requests(*batched([Outcome(request_id="r", cache="hit", query_id=number + 1, status=200)]))
    page = await read(world, "/queries")
    assert len(rows(page, "queries")) == MOST_LISTED
    assert f'<span class="of">{MOST_LISTED + 50}</span>' in page
    assert len(rows(await read(world, "/queries?find=249"), "queries")) == 1
    assert len(page) < 200_000


async def test_what_is_searched_is_escaped(world: World) -> None:
    page = await read(world, "/queries?find=%22%3E%3Cscript%3E&sort=%22%3E%3Cscript%3E")
    assert "<script>" not in page
    assert 'value="&quot;&gt;&lt;script&gt;"' in page


async def test_clients_have_rate_errors_and_the_expiry_of_their_tokens(bare: World) -> None:
    await bare.start(dashboard='rate = "5/m"\nexpires = 2100-01-01', second="expires = 2020-01-01")
    await bare.get("/api/session")
    await bare.get("/api/users")
    found = {row["client"]: row for row in (await report(bare))["clients"]}
    assert (found["dashboard"]["rate"], found["dashboard"]["remaining"]) == ("5/m", 3)
    assert (found["dashboard"]["refused"], found["dashboard"]["errors"]) == (1, 0)
    assert found["dashboard"]["expires"] > 4e9
    assert found["writer"]["requests"] == 0, "those that sent nothing are there, too"
    (expired,) = (row for row in rows(await read(bare, "/clients"), "clients") if row[0] == "second")
    assert expired[9].endswith("ago")


async def test_what_is_stored_is_shown_against_its_limit(world: World) -> None:
    await world.rows("by_country", max_age=0)
    (memory, disk) = (await report(world))["cache"]
    assert 0 < memory["bytes"] < memory["limit"] == 256_000_000
    assert disk["limit"] > 0
    assert rows(await read(world, "/"), "cache")[0][2] == "<1 %"


# -- the configuration


async def test_the_configuration_is_shown_without_secrets(bare: World) -> None:
    await bare.start(
        cache="definition_check = 17",
        extra='\n[[warm]]\nquery = 1\nevery = "1h"\ncredential = "analyst"\nparameters = { country = "Secretland" }\n',
    )
    page = await read(bare, "/configuration")
    assert '<code>definition_check</code></th><td class="words">17 s</td>' in page
    assert '<code>memory</code></th><td class="words">256 MB</td>' in page
    assert "clients.dashboard" in page
    assert "1 token<" in page
    for secret in (*TOKENS.values(), ADMIN_TOKEN, *bare.sandbox.user_keys.values(), "Secretland"):
        assert secret not in page
        assert config.token_hash(secret) not in page


async def test_every_key_of_the_configuration_is_shown(world: World) -> None:
    page = await read(world, "/configuration")
    settings = world.runtime.live.settings
    for table in (settings.server, settings.admin, settings.upstream, settings.cache, settings.log, settings.metrics):
        for field in table.__struct_fields__:
            if field != "rules" and getattr(table, field) is not None:
                assert f"<code>{field}</code>" in page, field


async def test_the_configuration_says_what_a_client_may_use_and_has_units(world: World) -> None:
    page = await read(world, "/configuration")
    table = page.partition('aria-label="clients.dashboard"')[2].partition("</section>")[0]
    assert '<code>queries</code></th><td class="words">all</td>' in table
    assert '<code>max_wait</code></th><td class="words">50 s</td>' in page
    assert '<code>connect_timeout</code></th><td class="words">5 s</td>' in page


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("store", "redis://user:password@host/0", "redis: not shown"),
        ("store", "sqlite:gateway.db", "sqlite:gateway.db"),
        ("key", Secret("0123456789abcdef0123456789abcdef01234567"), "not shown"),
        ("anything", Secret("0123456789abcdef0123456789abcdef01234567"), "not shown"),
        ("parameters", {"a": 1}, "not shown"),
        ("token_sha256", ("a", "b"), "2 tokens"),
        ("queries", frozenset({3, 12}), "3, 12"),
        ("hosts", ("b", "a"), "b, a"),
        ("access", True, "true"),
        ("max_wait", 50.0, "50"),
        ("dashboards", frozenset({3, "ops"}), "3, ops"),
        ("note", "rg_" + "x" * 43, "[key]"),
    ],
)
def test_values_are_shown_plainly(field: str, value: object, text: str) -> None:
    assert shown(field, value) == text


# -- one run


async def test_a_run_has_a_page_of_its_own(world: World) -> None:
    async with world.sandbox.hold():
        await world.post("now", max_age=0)
        (run,) = world.runtime.executions.flights.running
        assert f'href="runs/{run.id}"' in await read(world, "/")
        page = await read(world, f"/runs/{run.id}")
        assert "Started by" in page
        assert "dashboard" in page
        assert "End this run" not in page, "only for who has signed in"
    assert "This run has ended." in await read(world, "/runs/nothing")


async def test_no_page_shows_sql_parameters_or_rows(world: World) -> None:
    for country in ("Secretland", "Germany"):
        await world.post("in_country", max_age=0, wait=20, parameters={"country": country})
    await world.rows("by_country", max_age=0)
    sql = {"query": "select 'hidden'", "data_source_id": 1, "max_age": 0}
    await world.call("POST", "/api/query_results", sql, client="sql")
    ids = (world.named["in_country"], world.named["by_country"], 0)
    paths = ["/", "/queries", "/clients", "/requests", "/configuration", "/api/status"]
    for path in (*paths, *(f"/queries/{query}" for query in ids)):
        page = (await read(world, path)).casefold()
        for text in ("select ", "secretland", "hidden'", "germany"):
            assert text not in page, path
