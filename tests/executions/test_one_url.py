"""GET with parameters: one URL returns the result itself, for a spreadsheet, pandas or curl; never a job, and never an
empty table in place of an error.
"""

from __future__ import annotations

import asyncio
import csv
import importlib
import io
import json
import os
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import pytest
from support.calls import TOKENS
from support.clocks import TurnableClock
from support.http import Reply, exchange
from support.waiting import within
from support.world import World

from gateway.model import Definition
from gateway.policy import values
from gateway.sandbox.sample_objects import parameter

pytestmark = pytest.mark.standing_clock

POST_ROUTE = "/api/queries/<query_id>/results"


@pytest.fixture
def pandas(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, or skip; with GATEWAY_TEST_REQUIRE_ALL=1 a missing library is a failure."""
    monkeypatch.setenv("no_proxy", "*")
    try:
        return importlib.import_module("pandas")
    except ImportError:
        if os.environ.get("GATEWAY_TEST_REQUIRE_ALL") == "1":
            pytest.fail("pandas is not installed")
        pytest.skip("pandas is not installed")


def target(world: World, name: str | int, arguments: str = "", form: str = "csv") -> str:
    query_id = world.named[name] if isinstance(name, str) else name
    return f"/api/queries/{query_id}/results.{form}" + (f"?{arguments}" if arguments else "")


def table(reply: Reply) -> list[dict[str, str]]:
    assert reply.status == 200, reply.body
    return list(csv.DictReader(io.StringIO(reply.body.decode())))


def posts(world: World) -> list[dict[str, Any]]:
    """The bodies of the POSTs that reached Redash, oldest first."""
    return [json.loads(r.body) for r in world.sandbox.log if r.method == "POST" and r.route == POST_ROUTE]


# -- one request on a cold cache


async def test_csv_in_one_request_on_a_cold_cache(world: World) -> None:
    reply = await world.get(target(world, "in_country", "p_country=FR&max_age=600"))
    assert table(reply) == [
        {name: str(value) for name, value in row.items()}
        for row in await world.rows("in_country", max_age=600, parameters={"country": "FR"})
    ]
    assert reply.headers["Content-Type"].startswith("text/csv")
    assert reply.headers["Content-Disposition"].startswith("attachment; filename=")
    assert world.started == 1


@pytest.mark.parametrize("form", ["json", "csv", "tsv", "xlsx"])
async def test_every_form(world: World, form: str) -> None:
    path = target(world, "in_country", "p_country=FR&max_age=600", form)
    first, second = await world.get(path), await world.get(path)
    assert first.status == second.status == 200
    assert first.body == second.body
    assert world.started == 1
    kinds = {"json": "application/json", "csv": "text/csv", "tsv": "text/tab-separated-values", "xlsx": "spreadsheetml"}
    assert kinds[form] in first.headers["Content-Type"]
    if form == "json":
        assert first.rows
    if form == "xlsx":
        assert first.body.startswith(b"PK")


async def test_curl_gets_csv_in_one_request(world: World, needs: Callable[[str], str]) -> None:
    url = world.url + target(world, "in_country", f"p_country=DE&max_age=600&api_key={TOKENS['dashboard']}")
    child = await asyncio.create_subprocess_exec(
        needs("curl"), "--noproxy", "*", "-sS", "--fail", url, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await child.communicate()
    assert child.returncode == 0
    assert printed.decode().splitlines()[0] == "city,orders"
    assert len(printed.splitlines()) > 1


async def test_pandas_reads_the_url(world: World, pandas: Any) -> None:
    url = world.url + target(world, "in_country", f"p_country=DE&max_age=600&api_key={TOKENS['dashboard']}")
    frame = await asyncio.to_thread(pandas.read_csv, url)
    assert list(frame.columns) == ["city", "orders"]
    rows = await world.rows("in_country", max_age=600, parameters={"country": "DE"})
    assert frame.to_dict("records") == rows


async def test_pandas_raises_where_there_is_no_result(bare: World, pandas: Any) -> None:
    # A 200 or 202 without rows would look like an empty table, and would be believed.
    await bare.start(server='max_wait = "200ms"')
    key = f"api_key={TOKENS['dashboard']}"
    cases = {
        422: target(bare, "failing", f"max_age=600&{key}"),
        400: target(bare, "in_country", f"p_country=XX&{key}"),
        404: target(bare, 999_999, f"max_age=1&{key}"),
        403: target(bare, "customers_in_city", f"p_city=Paris&{key}"),
        401: target(bare, "in_country", "max_age=1&api_key=rg_wrong"),
        503: target(bare, "slow_seconds", f"p_seconds=0&{key}"),
    }
    async with bare.sandbox.hold(bare.named["slow_seconds"]):
        for status, path in cases.items():
            with pytest.raises(HTTPError) as raised:
                await asyncio.to_thread(pandas.read_csv, bare.url + path)
            assert raised.value.code == status
            raised.value.close()


# -- values according to the query's definitions


@pytest.mark.parametrize(
    ("name", "arguments", "sent"),
    [
        ("above", "p_min_amount=450", {"min_amount": 450}),
        ("above", "p_min_amount=450.5", {"min_amount": 450.5}),
        ("above", "p_min_amount=-1", {"min_amount": -1}),
        ("in_country", "p_country=JP", {"country": "JP"}),
        ("city_enum", "p_city=New%20York", {"city": "New York"}),
        ("city_enum", "p_city=New+York", {"city": "New York"}),
        ("dropdown", "p_country=FR", {"country": "FR"}),
        ("on_day", "p_day=2024-02-29", {"day": "2024-02-29"}),
        ("since", "p_since=2025-01-02%2003:04", {"since": "2025-01-02 03:04"}),
        (
            "revenue_by_month",
            "p_period.start=2024-02-01&p_period.end=2024-03-01",
            {"period": {"start": "2024-02-01", "end": "2024-03-01"}},
        ),
        (
            "revenue_by_month",
            "p_period=2024-02-01--2024-03-01",
            {"period": {"start": "2024-02-01", "end": "2024-03-01"}},
        ),
        (
            "between",
            "p_window.end=2024-01-03%2000:00&p_window.start=2024-01-01%2000:00",
            {"window": {"start": "2024-01-01 00:00", "end": "2024-01-03 00:00"}},
        ),
        ("multi", "p_statuses=new&p_statuses=shipped", {"statuses": ["new", "shipped"]}),
        ("multi", f"p_statuses={quote(json.dumps(['cancelled', 'new']))}", {"statuses": ["cancelled", "new"]}),
        ("multi", "p_statuses=new", {"statuses": ["new"]}),
        ("pattern", "p_code=P7", {"code": "P7"}),
    ],
)
async def test_types_follow_the_definition(world: World, name: str, arguments: str, sent: dict[str, Any]) -> None:
    # A URL contains text only; Redash expects what its own page would have sent.
    reply = await world.get(target(world, name, f"{arguments}&max_age=0"), client="dashboard")
    assert reply.status == 200, reply.body
    assert posts(world)[-1]["parameters"] == sent


async def test_the_same_values_share_an_entry_with_posts(world: World) -> None:
    # The key depends on the values, not on how they were sent.
    await world.rows("above", max_age=0, parameters={"min_amount": 460})
    reply = await world.get(target(world, "above", "p_min_amount=460&max_age=600", "json"))
    assert "hit" in reply.cache
    await world.get(target(world, "multi", "p_statuses=new&p_statuses=paid&max_age=600"))
    reply = await world.post("multi", max_age=600, parameters={"statuses": ["new", "paid"]})
    assert "hit" in reply.cache


async def test_missing_values_take_their_defaults(world: World) -> None:
    query_id = world.sandbox.add_query(
        "two",
        "select '{{ country }}' as country, {{ least }} as least",
        parameters=[parameter("country", "enum", "DE", enumOptions="DE\nFR"), parameter("least", "number", 7)],
    )
    assert table(await world.get(target(world, query_id, "p_country=FR"))) == [{"country": "FR", "least": "7"}]
    assert table(await world.get(target(world, query_id, "max_age=600"))) == [{"country": "DE", "least": "7"}]
    assert table(await world.get(target(world, query_id, "p_least=0"))) == [{"country": "DE", "least": "0"}]


DYNAMIC = [
    # 2027-01-15 08:00 in UTC is the evening before, 22:00, in Honolulu.
    ("UTC", "date", "d_now", "2027-01-15"),
    ("UTC", "date", "d_yesterday", "2027-01-14"),
    ("UTC", "datetime-local", "d_now", "2027-01-15 08:00"),
    ("Pacific/Honolulu", "date", "d_now", "2027-01-14"),
    ("Pacific/Honolulu", "datetime-local", "d_now", "2027-01-14 22:00"),
    ("UTC", "date-range", "d_last_7_days", {"start": "2027-01-08", "end": "2027-01-15"}),
    ("UTC", "date-range", "d_this_month", {"start": "2027-01-01", "end": "2027-01-31"}),
    ("Pacific/Honolulu", "date-range", "d_today", {"start": "2027-01-14", "end": "2027-01-14"}),
    ("Pacific/Honolulu", "datetime-range", "d_last_hour", {"start": "2027-01-14 21:00", "end": "2027-01-14 22:00"}),
]


@pytest.mark.parametrize("given", ["as-value", "as-default"])
@pytest.mark.parametrize(("zone", "kind", "name", "value"), DYNAMIC)
async def test_dynamic_dates_in_the_configured_zone(
    bare: World, given: str, zone: str, kind: str, name: str, value: Any
) -> None:
    # Redash leaves them to its front end (CONTRACT 6): sent unchanged, they would be texts in the SQL.
    await bare.start(cache=f'timezone = "{zone}"')
    plain = {"start": "2020-01-01", "end": "2020-01-02"} if "range" in kind else "2020-01-01"
    default = name if given == "as-default" else plain
    used = "'{{ d.start }}{{ d.end }}'" if "range" in kind else "'{{ d }}'"
    query_id = bare.sandbox.add_query("dated", f"select {used} as d", parameters=[parameter("d", kind, default)])
    arguments = "max_age=600" if given == "as-default" else f"p_d={name}"
    reply = await bare.get(target(bare, query_id, arguments))
    assert reply.status == 200, reply.body
    assert posts(bare)[-1]["parameters"] == {"d": value}


async def test_times_are_cut_to_the_minute(world: World) -> None:
    # Otherwise every request would be a different query, and nothing would ever be a hit.
    query_id = world.sandbox.add_query(
        "dated", "select '{{ d }}' as d", parameters=[parameter("d", "datetime-with-seconds", "d_now")]
    )
    first = table(await world.get(target(world, query_id, "max_age=600")))
    world.clock.turn(59)
    assert table(await world.get(target(world, query_id, "max_age=600"))) == first
    assert world.started == 1
    world.clock.turn(1)
    assert table(await world.get(target(world, query_id, "max_age=600"))) != first


# -- invalid values


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("in_country", "p_land=DE", "country"),
        ("in_country", "p_country=Germany", "DE, FR"),
        ("in_country", "p_country=DE&p_country=FR", "one value"),
        ("in_country", "p_country.start=DE&p_country.end=FR", "no range"),
        ("above", "p_min_amount=many", "number"),
        ("above", "p_min_amount=", "number"),
        ("above", "p_min_amount=nan", "number"),
        ("on_day", "p_day=", "date"),
        ("on_day", "p_day=d_tomorrow", "d_now"),
        ("revenue_by_month", "p_period.start=2024-01-01", "p_period.end"),
        ("revenue_by_month", "p_period=2024-01-01", "p_period.start"),
        ("multi", "p_statuses=new&p_statuses=lost", "shipped"),
        ("by_country", "p_x=1", "none"),
        ("in_country", "max_age=soon", "max_age"),
    ],
)
async def test_a_400_says_what_is_expected_and_nothing_runs(world: World, name: str, arguments: str, said: str) -> None:
    for form in ("csv", "json"):
        reply = await world.get(target(world, name, arguments, form))
        assert reply.status == 400, reply.body
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert said in reply.json["detail"]
    assert posts(world) == []


async def test_a_parameter_without_value_and_default_is_400(world: World) -> None:
    reply = await world.get(target(world, "undeclared", "max_age=60"), client="writer")
    assert reply.status == 400
    assert "p_x" in reply.json["detail"]


async def test_raw_sql_needs_a_permission(world: World) -> None:
    # A text parameter lets the caller write SQL (CONTRACT 2, 20.10).
    path = target(world, "customers_in_city", "p_city=Paris")
    assert (await world.get(path)).status == 403
    assert (await world.get(path, client="writer")).status == 200


async def test_without_execute_the_form_is_403(bare: World) -> None:
    await bare.start(dashboard='can = ["read"]')
    for arguments in ("p_country=DE", "max_age=60"):
        reply = await bare.get(target(bare, "in_country", arguments))
        assert reply.status == 403
        assert "execute" in reply.json["detail"]
    assert (await bare.get(target(bare, "in_country"))).status == 200  # Redash's own "latest"
    assert posts(bare) == []


async def test_an_unknown_query_is_404(world: World) -> None:
    assert (await world.get(target(world, 999_999, "max_age=60"))).status == 404


async def test_a_failed_query_is_422_with_redashs_text(world: World) -> None:
    reply = await world.get(target(world, "failing", "max_age=60"))
    assert reply.status == 422
    assert "no such table" in reply.json["detail"]
    assert reply.headers["Content-Type"] == "application/problem+json"


# -- runs that take longer than one response may be held


async def test_what_takes_longer_than_a_hold_is_reached_by_redirects(bare: World) -> None:
    # A caller that only follows redirects (pandas, R, curl -L) gets the rows of one run, however fresh it wants them.
    # Asking again for the plain URL would begin another run each time, and never end.
    await bare.start(server='max_wait = "100ms"')
    path = target(bare, "slow_seconds", "p_seconds=0&max_age=0")
    async with bare.sandbox.hold():
        first = await bare.get(path)
        assert (first.status, first.body) == (307, b"")
        assert first.headers["Cache-Control"] == "no-store"
        second = await bare.get(after(path, first))
        assert second.status == 307
    reply = await bare.get(after(path, second))
    while reply.status == 307:
        reply = await bare.get(after(path, reply))
    assert int(table(reply)[0]["orders"]) > 0
    assert bare.started == 1
    again = await bare.get(after(path, second))  # it names one run, also when that is over
    assert table(again) == table(reply)
    assert bare.started == 1


def after(path: str, reply: Reply) -> str:
    """Where a redirect leads."""
    assert reply.status == 307, reply.body
    return urljoin(path, reply.headers["Location"])


async def test_each_hop_has_another_url(bare: World) -> None:
    # urllib, and with it pandas, gives up where a redirect leads to the same URL for the fifth time.
    await bare.start(server='max_wait = "0s"')
    path = target(bare, "slow_seconds", "p_seconds=0&max_age=0")
    async with bare.sandbox.hold():
        seen = [path]
        while (reply := await bare.get(seen[-1])).status == 307:
            seen.append(after(seen[-1], reply))
        # There must be an end that a caller can tell from rows; and that URL still leads to this run.
        assert reply.status == 503
        assert int(reply.headers["Retry-After"]) >= 1
    assert len(set(seen)) == 1 + 8
    assert {value for url in seen[1:] for value in parse_qs(urlsplit(url).query)["run"]} == {run_of(seen[1])}
    await bare.sandbox.wait_finished(1)
    while (reply := await bare.get(seen[-1])).status == 503:
        pass
    assert table(reply)
    assert bare.started == 1


def run_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["run"][-1]


async def ended(world: World, job_id: str, *, client: str = "dashboard") -> None:
    """Poll a job to its end: these gateways hold no response."""
    async with within(10):
        while (await world.get(f"/api/jobs/{job_id}", client=client)).job["status"] in (1, 2):
            pass


async def test_http_1_0_knows_no_307(bare: World) -> None:
    # RFC 1945 has no 307: a caller of HTTP/1.0 takes it for an empty table.
    await bare.start(server='max_wait = "0s"')
    path = target(bare, "slow_seconds", "p_seconds=0&max_age=0")
    head = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Key {TOKENS['dashboard']}\r\n\r\n"
    async with bare.sandbox.hold():
        received = await exchange(bare.url, head.encode())
        fields, _, body = received.partition(b"\r\n\r\n")
        assert fields.startswith(b"HTTP/1.0 503")
        assert b"Retry-After: " in fields
        wait_on = re.findall(rb"run=[0-9a-f-]{36}", body)[0].decode()
    await bare.sandbox.wait_finished(1)
    while (reply := await bare.get(f"{path}&{wait_on}")).status == 307:
        pass
    assert table(reply)
    assert bare.started == 1


async def test_a_run_that_another_asked_for_is_not_given(bare: World) -> None:
    # Neither by its id, nor by the same URL after it has ended: who says max_age=0 gets rows of a later run.
    await bare.start(server='max_wait = "0s"')
    path = target(bare, "slow_seconds", "p_seconds=0&max_age=0")
    async with bare.sandbox.hold():
        mine = after(path, await bare.get(path))
    await ended(bare, run_of(mine))
    assert (await bare.get(mine, client="second")).status == 404
    assert (await bare.get(mine.replace(run_of(mine), "nonsense"))).status == 404
    other = target(bare, "above", f"p_min_amount=1&max_age=0&run={run_of(mine)}")
    assert (await bare.get(other)).status == 404  # a run of another query
    theirs = await bare.get(path, client="second")
    assert theirs.status == 307
    await ended(bare, run_of(after(path, theirs)), client="second")
    assert bare.started == 2


async def test_dynamic_dates_are_those_of_the_first_request(bare: World, clock: TurnableClock) -> None:
    await bare.start(server='max_wait = "0s"', cache='timezone = "Pacific/Honolulu"')  # it is 22:00 there
    query_id = bare.sandbox.add_query("dated", "select '{{ d }}' as d", parameters=[parameter("d", "date", "d_now")])
    path = target(bare, query_id, "max_age=0", "json")
    async with bare.sandbox.hold():
        hop = after(path, await bare.get(path))
    await ended(bare, run_of(hop))
    clock.turn(3 * 3600)
    assert (await bare.get(hop)).rows == [{"d": "2027-01-14"}]


async def test_rights_are_judged_again_at_each_hop(bare: World) -> None:
    await bare.start(server='max_wait = "0s"')
    path = target(bare, "slow_seconds", "p_seconds=0&max_age=0")
    async with bare.sandbox.hold():
        hop = after(path, await bare.get(path))
    await ended(bare, run_of(hop))
    bare.text = bare.text.replace('credentials = ["analyst"]', 'credentials = ["analyst"]\ncan = ["read"]', 1)
    await bare.restart()
    assert (await bare.get(hop)).status == 403


async def test_the_next_process_holds_on(bare: World) -> None:
    await bare.start(server='max_wait = "0s"')
    path = target(bare, "slow_seconds", "p_seconds=0&max_age=0")
    async with bare.sandbox.hold():
        hop = after(path, await bare.get(path))
        await bare.sandbox.wait_executions(1)
        await bare.restart()
        assert (await bare.get(hop)).status == 307
    await ended(bare, run_of(hop))
    await bare.restart()
    assert table(await bare.get(hop))  # from the ledger and the store
    assert bare.started == 1


async def test_a_run_that_fails_between_two_hops_is_422(bare: World) -> None:
    await bare.start(server='max_wait = "0s"')
    path = target(bare, "failing", "max_age=0")
    async with bare.sandbox.hold():
        hop = after(path, await bare.get(path))
    await ended(bare, run_of(hop))
    reply = await bare.get(hop)
    assert reply.status == 422
    assert "no such table" in reply.json["detail"]


async def test_pandas_gets_a_long_run_in_one_call(bare: World, pandas: Any) -> None:
    await bare.start(server='max_wait = "150ms"')
    url = bare.url + target(bare, "slow_seconds", "p_seconds=1&max_age=0")
    fields = {"Authorization": f"Key {TOKENS['dashboard']}"}
    frame = await asyncio.to_thread(pandas.read_csv, url, storage_options=fields)
    assert len(frame) == 1
    assert bare.started == 1


async def test_an_unavailable_redash_is_502_or_the_last_rows(world: World) -> None:
    path = target(world, "in_country", "p_country=FR&max_age=60", "json")
    assert (await world.get(path)).status == 200
    await world.sandbox.disconnect()
    assert (await world.get(target(world, "in_country", "p_country=GB&max_age=60"))).status == 502
    world.clock.turn(100)
    stale = await world.get(path)
    assert stale.status == 200
    assert "stale-if-error" in stale.cache


# -- HEAD


async def test_head_runs_nothing(world: World) -> None:
    # A method that is safe and that link checkers send may not cost a run. Where GET would run, nobody knows a length.
    path = target(world, "in_country", "p_country=FR&max_age=60")
    for asked in (path, target(world, "in_country", "max_age=0")):
        head = await world.call("HEAD", asked)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Type"].startswith("text/csv")
        assert not {"Content-Length", "Transfer-Encoding"} & set(head.headers)
    assert posts(world) == []
    got = await world.get(path)
    count = len(posts(world))
    head = await world.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
    world.clock.turn(61)
    assert "Content-Length" not in (await world.call("HEAD", path)).headers
    assert len(posts(world)) == count


async def test_head_makes_the_checks_of_get(bare: World) -> None:
    await bare.start(dashboard="max_executions = 1", second='can = ["read"]')
    for name, arguments, client, status in (
        ("in_country", "p_country=XX&max_age=0", "dashboard", 400),
        ("customers_in_city", "p_city=Paris", "dashboard", 403),
        ("in_country", "max_age=0", "second", 403),
        (999_999, "max_age=60", "dashboard", 404),
    ):
        assert (await bare.call("HEAD", target(bare, name, arguments), client=client)).status == status
    await bare.get(target(bare, "failing", "max_age=60"))
    assert (await bare.call("HEAD", target(bare, "failing", "max_age=60"))).status == 422  # as GET, from memory
    count = len(posts(bare))
    async with bare.sandbox.hold():
        job = (await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job
        assert (await bare.call("HEAD", target(bare, "above", "max_age=0"))).status == 429
        joined = await bare.call("HEAD", target(bare, "slow_seconds", "p_seconds=0&max_age=60"))
        assert joined.status == 200  # GET would join, which costs no run of its own
    await bare.finish(job["id"])
    assert len(posts(bare)) == count + 1


# -- how fresh


async def test_max_age_counts_as_in_posts(world: World) -> None:
    path = "p_country=FR&max_age={}"
    await world.get(target(world, "in_country", path.format(60)))
    world.clock.turn(60)
    assert "hit" in (await world.get(target(world, "in_country", path.format(60), "json"))).cache
    assert world.started == 1
    world.clock.turn(1)
    assert "hit" not in (await world.get(target(world, "in_country", path.format(60), "json"))).cache
    assert world.started == 2
    await world.get(target(world, "in_country", path.format(0)))
    assert world.started == 3


async def test_without_max_age_any_age_is_accepted(world: World) -> None:
    path = target(world, "in_country", "p_country=FR")
    await world.get(path)
    world.clock.turn(100_000)
    assert (await world.get(path)).status == 200
    assert world.started == 1


async def test_floor_and_ceiling_count(bare: World) -> None:
    await bare.start(dashboard='floor = "30s"\nceiling = "5m"')
    fresh, old = (target(bare, "in_country", f"p_country=FR&max_age={age}") for age in (0, 86_400))
    await bare.get(fresh)
    bare.clock.turn(29)
    await bare.get(fresh)  # the result itself: no client expects a job here
    assert bare.started == 1
    bare.clock.turn(2)
    await bare.get(fresh)
    assert bare.started == 2
    bare.clock.turn(301)
    await bare.get(old)
    assert bare.started == 3


async def test_fifty_callers_cost_one_run(world: World) -> None:
    path = target(world, "slow_seconds", "p_seconds=0&max_age=600")
    async with world.sandbox.hold():
        calls = [asyncio.create_task(world.get(path)) for _ in range(50)]
        await world.sandbox.wait_executions(1)
    replies = await asyncio.gather(*calls)
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert world.started == 1
    downloads = [r for r in world.sandbox.log if r.path_qs.partition("?")[0].endswith(".csv")]
    assert len(downloads) == 1  # the rendering is requested once, too


async def test_without_arguments_it_returns_redashs_latest(world: World) -> None:
    reply = await world.get(target(world, "in_country", form="json"))
    assert reply.rows
    assert posts(world) == []


# -- arguments with another name than is meant


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ("country=JP", "p_country"),
        ("P_country=JP", "p_country"),
        ("p_Country=JP", "p_country"),
        ("Country=JP&max_age=60", "p_country"),
        ("p-country=JP&max_age=60", "p_country"),
        ("p_country=FR&COUNTRY=JP", "p_country"),
        ("maxAge=0", "max_age"),
        ("maxage=0", "max_age"),
        ("max-age=0", "max_age"),
        ("MAX_AGE=0&p_country=JP", "max_age"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_name_that_is_almost_right_is_refused(world: World, method: str, arguments: str, right: str) -> None:
    # Ignored, it would give the default's rows with 200, and nobody would notice.
    await world.rows("in_country", max_age=0, parameters={"country": "DE"})
    sent = len(posts(world))
    reply = await world.call(method, target(world, "in_country", arguments))
    assert reply.status == 400, reply.body
    if method == "GET":
        assert right in reply.json["detail"]
    assert len(posts(world)) == sent


async def test_a_second_max_age_is_refused(world: World) -> None:
    # Redash has no such argument: nobody needs one of the two, and the other one would give older rows than requested.
    for arguments in ("max_age=60000&max_age=0", "max_age=0&max_age=60000", "max_age=60&max_age=60"):
        reply = await world.get(target(world, "in_country", arguments))
        assert (reply.status, "give it once" in reply.json["detail"]) == (400, True)
    assert posts(world) == []


async def test_of_repeated_keys_in_a_body_the_last_one_counts_as_in_redash(world: World) -> None:
    # CONTRACT 6: refusing them would break clients that Redash takes.
    path = f"/api/queries/{world.named['in_country']}/results"
    sent = b'{"max_age":60000,"parameters":{"country":"DE","country":"FR"},"max_age":0}'
    reply = await world.call("POST", path, sent)
    assert (await world.finish(reply.job["id"]))["status"] == 3
    (ran,) = posts(world)
    assert (ran["max_age"], ran["parameters"]) == (0, {"country": "FR"})


async def test_the_ends_of_a_range_without_prefix_are_refused(world: World) -> None:
    path = target(world, "revenue_by_month", "period.start=2024-02-01&period.end=2024-03-01")
    reply = await world.get(path)
    assert reply.status == 400
    assert "p_period.start" in reply.json["detail"]


@pytest.mark.parametrize("arguments", ["_=123", "utm_source=mail&max_age=600", "nocountry=JP", "format=x&p_country=DE"])
async def test_unrelated_arguments_are_ignored(world: World, arguments: str) -> None:
    # As in Redash: caches are passed by with `_=…`, and links are marked.
    await world.rows("in_country", max_age=0, parameters={"country": "DE"})
    reply = await world.get(target(world, "in_country", arguments))
    assert reply.status == 200, reply.body


# -- query keys


async def test_a_query_key_gets_other_values_as_csv_and_tsv(world: World) -> None:
    # By id, Redash shows a query key only the result with the defaults (CONTRACT 8): the gateway renders `data`.
    rows = await world.rows("in_country", max_age=0, parameters={"country": "FR"})
    wanted = [{name: str(value) for name, value in row.items()} for row in rows]
    reply = await world.get(target(world, "in_country", "p_country=FR&max_age=600"), client="narrow")
    assert table(reply) == wanted
    tsv = await world.get(target(world, "in_country", "p_country=FR&max_age=600", "tsv"), client="narrow")
    assert tsv.status == 200
    assert list(csv.DictReader(io.StringIO(tsv.body.decode()), dialect="excel-tab")) == wanted


async def test_a_query_key_gets_no_xlsx(world: World) -> None:
    for arguments in ("p_country=FR", "max_age=600"):
        reply = await world.get(target(world, "in_country", arguments, "xlsx"), client="narrow")
        assert reply.status == 406
        assert "csv" in reply.json["detail"]
    assert posts(world) == []  # a form that cannot be made is refused before the run


async def test_a_query_key_gets_no_other_query(world: World) -> None:
    reply = await world.get(target(world, "above", "max_age=600"), client="narrow")
    assert reply.status == 403


# -- ETag


@pytest.mark.parametrize("form", ["json", "csv"])
async def test_a_known_etag_is_304(world: World, form: str) -> None:
    path = target(world, "in_country", "p_country=FR&max_age=600", form)
    tag = (await world.get(path)).headers["ETag"]
    reply = await world.get(path, if_none_match=tag)
    assert (reply.status, reply.body) == (304, b"")
    assert reply.headers["ETag"] == tag
    assert (await world.get(path.replace("FR", "GB"), if_none_match=tag)).status == 200


async def test_a_new_result_has_a_new_tag(world: World) -> None:
    path = target(world, "now", "max_age=60", "json")
    await world.rows("now", max_age=0)
    tag = (await world.get(path)).headers["ETag"]
    world.clock.turn(61)
    reply = await world.get(path, if_none_match=tag)
    assert reply.status == 200
    assert reply.headers["ETag"] != tag


async def test_cache_control_forbids_reuse_without_revalidation(world: World) -> None:
    # A browser or proxy that reused it would show rows older than max_age.
    reply = await world.get(target(world, "in_country", "p_country=FR&max_age=600"))
    assert reply.headers["Cache-Control"] == "private, no-cache"
    assert "Authorization" in reply.headers["Vary"]


async def test_the_values_of_a_request_are_fitted_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # A value can have 200 KB, and fitting is the longest work of a hit with parameters.
    fitted: list[object] = []
    original = values.parse_parameters

    def noted(definition: Definition, arguments: list[tuple[str, str]], now: datetime) -> dict[str, object]:
        fitted.append(arguments)
        return original(definition, arguments, now)

    monkeypatch.setattr(values, "parse_parameters", noted)
    assert (await world.get(target(world, "in_country", "p_country=FR&max_age=600"))).status == 200
    assert fitted == [[("p_country", "FR")]]
