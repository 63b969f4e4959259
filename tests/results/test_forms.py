"""Forms of results over HTTP: who may have them, that each is made once and kept, selections, ranges, `Accept`."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import TOKENS
from support.http import Reply
from support.large import latest, whole
from support.libraries import library
from support.waiting import until
from support.world import World

import gateway
from gateway.redash.accept import preferred_form
from gateway.redash.arguments import parse_arguments
from gateway.redash.downloads import CONTENT_TYPES, OWN_FORMS
from gateway.redash.selection import WHOLE, Selection, parse_selection
from gateway.results.forms import making, process
from gateway.results.forms.job import Job

QUERY = "/api/queries/{query}/results{ending}"


def path(world: World, ending: str = "", name: str = "in_country") -> str:
    return QUERY.format(query=world.named[name], ending=ending)


async def rows(world: World, name: str = "in_country") -> list[dict[str, Any]]:
    return (await world.get(path(world, ".json", name))).rows


def notes(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Every form that is made from now on."""
    made: list[Job] = []
    make = making.ResultForms._make

    async def noted(self: making.ResultForms, key: bytes, of: Any, content: Any, job: Job) -> Any:
        made.append(job)
        return await make(self, key, of, content, job)

    monkeypatch.setattr(making.ResultForms, "_make", noted)
    return made


@pytest.mark.parametrize("form", sorted(OWN_FORMS))
async def test_a_form_has_the_rows_of_the_result_on_every_route(world: World, form: str) -> None:
    library("pyarrow")
    wanted = await rows(world)
    result_id = (await world.get(path(world, ".json"))).json["query_result"]["id"]
    replies = [
        await world.get(path(world, f".{form}")),
        await world.get(path(world, f"/{result_id}.{form}")),
        await world.get(f"/api/query_results/{result_id}.{form}"),
    ]
    for reply in replies:
        assert reply.status == 200
        assert reply.headers["Content-Type"] == CONTENT_TYPES[form]  # type: ignore[index]
        assert f".{form}" in reply.headers["Content-Disposition"]
        assert "hit" in reply.headers["Cache-Status"], "nothing of it needed Redash"
        assert table(reply.body, form) == wanted
    assert len({reply.headers["ETag"] for reply in replies}) == 1
    assert table((await world.get(path(world, f".{form}?p_country=DE&max_age=600"))).body, form) == wanted


def table(body: bytes, form: str) -> list[dict[str, Any]]:
    if form == "ndjson":
        return [json.loads(line) for line in body.splitlines()]
    if form == "html":
        names = re.findall("<th>(.*?)</th>", body.decode())
        lines = [re.findall("<td.*?>(.*?)</td>", line) for line in body.decode().split("\n") if line.startswith("<tr>")]
        return [{h: int(c) if c.isdigit() else c for h, c in zip(names, line, strict=True)} for line in lines]
    polars = library("polars")
    return list((polars.read_parquet if form == "parquet" else polars.read_ipc)(io.BytesIO(body)).to_dicts())


async def test_a_form_is_made_once_for_all_callers_and_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = notes(monkeypatch)
    asked = latest(world, "ndjson")
    replies = await asyncio.gather(*(world.get(asked) for _ in range(5)))
    replies.append(await world.get(asked))
    assert {(reply.status, reply.body) for reply in replies} == {(200, replies[0].body)}
    assert len(made) == 1
    assert table(replies[0].body, "ndjson") == json.loads(whole(world))["query_result"]["data"]["rows"]
    await world.restart()
    assert (await world.get(asked)).body == replies[0].body
    assert len(made) == 1, "also over a restart"
    before = await world.metric("redash_gateway_cache_bytes", tier="disk")
    assert before > 2 * len(replies[0].body), "it counts against cache.disk"
    await world.purge({"query": world.named["large"]})
    assert (await world.get(asked)).status == 200
    assert len(made) == 2, "it goes with its result"


async def test_a_form_of_an_edited_query_is_that_of_its_new_result(world: World) -> None:
    asked = path(world, ".ndjson?max_age=600&p_country=DE")
    first = await world.get(asked)
    world.sandbox.edit_query(world.named["in_country"], query="select 1 as one -- '{{ country }}'")
    world.clock.turn(100)
    second = await world.get(asked)
    assert (second.status, second.body) == (200, b'{"one":1}\n')
    assert second.headers["ETag"] != first.headers["ETag"]


async def test_rights_are_those_of_the_same_route_for_json(bare: World) -> None:
    library("pyarrow")
    await bare.start(second=f"queries = [{bare.named['by_country']}]")
    result_id = (await bare.get(path(bare, ".json"))).json["query_result"]["id"]
    for form in ("json", *sorted(OWN_FORMS)):
        for asked, client, status in (
            (path(bare, f".{form}"), "second", 403),
            (path(bare, f"/{result_id}.{form}"), "second", 403),
            (f"/api/query_results/{result_id}.{form}?limit=1", "second", 404),
            (path(bare, f".{form}", "by_country"), "narrow", 403),
            (path(bare, f".{form}?p_country=FR&max_age=1"), None, 401),
            (path(bare, f".{form}?p_country=FR&max_age=600"), "narrow", 200),
        ):
            assert (await bare.get(asked, client=client)).status == status, (form, asked, client)


async def test_a_denied_query_has_no_forms(world: World) -> None:
    asked = path(world, ".ndjson")
    assert (await world.get(asked)).status == 200
    world.sandbox.edit_query(world.named["in_country"], is_archived=True)
    world.clock.turn(100)
    json_status = (await world.get(path(world, ".json"))).status
    assert (await world.get(asked)).status == json_status


async def test_without_pyarrow_the_error_says_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(making, "find_spec", lambda name: None)
    for form in ("parquet", "arrow"):
        reply = await world.get(path(world, f".{form}?p_country=JP&max_age=0"))
        assert reply.status == 406
        assert "pip install '.[arrow]'" in reply.json["detail"]
    assert world.started == 0, "no query runs for what nobody can make"


# -- selections


async def test_selections_in_every_form(world: World) -> None:
    library("pyarrow")
    wanted = sorted(await rows(world), key=lambda row: -row["orders"])[1:3]
    chosen = "columns=orders,city&order=-orders&offset=1&limit=2"
    for form in sorted(OWN_FORMS):
        found = table((await world.get(path(world, f".{form}?{chosen}"))).body, form)
        assert found == wanted, form
        assert [list(row) for row in found] == [["orders", "city"]] * 2
    whole_json = await world.get(path(world, ".json"))
    some = await world.get(path(world, f".json?{chosen}&p_country=DE&max_age=600"))
    for name, member in some.json["query_result"].items():
        if name != "data":
            assert member == whole_json.json["query_result"][name]
    assert some.rows == wanted
    assert some.body.startswith(b'{"query_result":')
    lines = (await world.get(path(world, f".csv?{chosen}"))).body.decode().split("\r\n")
    assert lines == ["orders,city", *(f"{row['orders']},{row['city']}" for row in wanted), ""]
    tabs = (await world.get(path(world, f".tsv?{chosen}"))).body
    assert tabs == "\r\n".join(lines).replace(",", "\t").encode()
    assert (await world.get(path(world, f".xlsx?{chosen}"))).body.startswith(b"PK")


async def test_arguments_of_selections_never_reach_redash_and_do_not_run_again(world: World) -> None:
    first = await world.get(path(world, ".csv?p_country=FR&max_age=600&limit=1&columns=city&csv=excel"))
    assert first.status == 200
    started = world.started
    second = await world.get(path(world, ".ndjson?p_country=FR&max_age=600&limit=2"))
    assert second.status == 200
    assert world.started == started == 1
    assert not [entry.path_qs for entry in world.sandbox.log if "limit" in entry.path_qs or "csv" in entry.path_qs]


async def test_a_parameter_may_be_called_like_an_argument(world: World) -> None:
    parameter = {"name": "limit", "title": "Limit", "type": "number", "value": 3}
    sql = "select id from orders order by id limit {{ limit }}"
    query = world.sandbox.add_query("Limited", sql, parameters=[parameter])
    url = f"/api/queries/{query}/results.ndjson?max_age=60"
    assert len((await world.get(f"{url}&p_limit=5")).body.splitlines()) == 5
    assert len((await world.get(f"{url}&p_limit=5&limit=2")).body.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("columns=nope", "no column 'nope'. Its columns are: city, orders."),
        ("columns=", "takes names of columns"),
        ("columns=a%0Db", "takes names of columns"),
        ("columns=orders&order=a%0Ab", "takes names of columns"),
        ("order=-nope", "no column 'nope'"),
        ("limit=-1", "'limit' must be a whole number"),
        ("limit=1&limit=2", "'limit' is given 2 times"),
        ("offset=1.5", "'offset' must be a whole number"),
        ("csv=open", "takes only the value excel"),
        ("csv_delimiter=ab", "must be one of comma"),
        ("csv_bom=maybe", "must be 1 or 0"),
        ("Limit=1", "it is called limit"),
        ("csv-delimiter=tab", "it is called csv_delimiter"),
    ],
)
async def test_what_cannot_be_meant_is_a_clear_400(world: World, arguments: str, told: str) -> None:
    reply = await world.get(path(world, f".csv?{arguments}"))
    assert reply.status == 400
    assert told in reply.json["detail"]
    if "nope" not in arguments:  # those need the result
        reply = await world.get(path(world, f".csv?p_country=GB&max_age=0&{arguments}"))
        assert reply.status == 400
        assert world.started == 0, "it is refused before a query runs"


async def test_csv_arguments_are_for_csv_only(world: World) -> None:
    reply = await world.get(path(world, ".json?csv=excel"))
    assert (reply.status, "are for .csv" in reply.json["detail"]) == (400, True)


ZONES = ("", "Z", "+02:00", "-0930")
"""Excel takes a time with a zone for a text. Redash's own CSV has none, either."""


async def test_csv_for_excel(world: World) -> None:
    query = world.named["kb1"]
    world.sandbox.add_result(
        query,
        [("day", "date"), ("at", "datetime"), ("text", "string"), ("n", "float")],
        [{"day": "2026-11-26", "at": f"2026-11-26T10:11:12{zone}", "text": 'a;"é"', "n": 1.5} for zone in ZONES],
        retrieved_at=world.clock.wall(),
    )
    base = f"/api/queries/{query}/results.csv"
    excel = await world.get(f"{base}?csv=excel")
    row = '2026-11-26;2026-11-26 10:11:12;"a;""é""";1.5\r\n'
    assert excel.body.decode() == "\ufeffday;at;text;n\r\n" + len(ZONES) * row
    assert excel.headers["Content-Type"] == CONTENT_TYPES["csv"]
    tabs = await world.get(f"{base}?csv=excel&csv_delimiter=tab&csv_bom=0")
    assert (
        tabs.body.decode()
        == "day\tat\ttext\tn\r\n" + len(ZONES) * '2026-11-26\t2026-11-26 10:11:12\t"a;""é"""\t1.5\r\n'
    )
    plain = await world.get(base)
    marked = await world.get(f"{base}?csv_bom=1")
    assert marked.body == b"\xef\xbb\xbf" + plain.body, "dates as in Redash's own CSV"


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\r\n"), min_size=1, max_size=5)


@given(
    selection=st.builds(
        Selection,
        columns=st.none() | st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple),
        order=st.lists(NAMES, max_size=2, unique=True).map(tuple),
        offset=st.integers(0, 10**12),
        limit=st.none() | st.integers(0, 10**12),
        excel=st.booleans(),
        delimiter=st.sampled_from([None, ",", ";", "\t", "|", " "]),
        bom=st.none() | st.booleans(),
    )
)
def test_a_selection_survives_its_own_query_string(selection: Selection) -> None:
    # Content-Location is made of it, so it must mean the same bytes.
    again = parse_selection(parse_arguments(selection.query_string().removeprefix("?")), "csv")
    assert again == selection
    assert (selection == WHOLE) == (selection.query_string() == "")


# -- ranges


async def located(world: World, form: str) -> str:
    """The URL of the large result by its id, as the GET form says it."""
    reply = await world.get(latest(world, form))
    assert reply.headers["Accept-Ranges"] == "none"
    return f"/api/queries/{world.named['large']}/{reply.headers['Content-Location']}"


@pytest.mark.parametrize("form", ["json", "ndjson"])
async def test_ranges_of_a_file(world: World, form: str) -> None:
    by_id = await located(world, form)
    full = await world.get(by_id, accept_encoding="identity")
    assert (full.status, full.headers["Accept-Ranges"]) == (200, "bytes")
    size, tag = len(full.body), full.headers["ETag"]
    for given_, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999", 1000, 2000),
        (f"bytes={size - 10}-", size - 10, size),
        ("bytes=-100", size - 100, size),
        (f"bytes=-{2 * size}", 0, size),
        (f"bytes=100-{2 * size}", 100, size),
    ):
        part = await world.get(by_id, range=given_, accept_encoding="gzip")
        assert (part.status, part.body) == (206, full.body[start:end]), given_
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert (part.headers["ETag"], part.headers.get("Content-Encoding")) == (tag, None)


async def test_ranges_that_are_none_and_validators(world: World) -> None:
    by_id = await located(world, "json")
    full = await world.get(by_id, accept_encoding="identity")
    size, tag = len(full.body), full.headers["ETag"]
    packed = (await world.get(by_id, accept_encoding="gzip")).headers["ETag"]
    for fields in (
        {"range": "bytes=0-1,5-6"},
        {"range": "bytes=9-2"},
        {"range": "rows=0-1"},
        {"range": "bytes=0-9", "if_range": '"another"'},
        {"range": "bytes=0-9", "if_range": f"W/{tag}"},
        {"range": "bytes=0-9", "if_range": "Thu, 26 Nov 2026 10:00:00 GMT"},
        {"range": "bytes=0-9", "if_range": packed},
        {"range": f"bytes={size}-", "if_range": '"another"'},
    ):
        reply = await world.get(by_id, **fields)
        assert (reply.status, len(reply.body)) == (200, size), fields
    assert (await world.get(by_id, range="bytes=0-9", if_range=tag)).status == 206
    assert (await world.get(by_id, range="bytes=0-9", if_none_match=tag, accept_encoding="identity")).status == 304
    beyond = await world.get(by_id, range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    head = await world.call("HEAD", by_id, headers={"Range": "bytes=0-9", "Accept-Encoding": "identity"})
    assert (head.status, head.headers["Content-Length"]) == (200, str(size))
    whole_again = await world.get(latest(world), range="bytes=0-9")
    assert (whole_again.status, len(whole_again.body)) == (200, size), "only results by id have ranges"


async def test_ranges_of_a_small_result_and_of_repeated_requests(world: World) -> None:
    first = await world.get(path(world, ".json"))
    by_id = path(world, "/" + first.headers["Content-Location"].partition("/")[2])
    for _ in range(4):  # the fast path repeats whole responses
        assert (await world.get(by_id)).body == first.body
        part = await world.get(by_id, range="bytes=3-5")
        assert (part.status, part.body) == (206, first.body[3:6])
        assert (await world.get(by_id, range="bytes=4-5")).body == first.body[4:6]


async def test_other_bytes_of_the_same_result_have_another_tag(world: World) -> None:
    # A part of each would be put together: Redash writes JSON in another way after an upgrade.
    asked = path(world, ".json")
    first = await world.get(asked)
    result = world.sandbox.database.results[first.json["query_result"]["id"]]
    await world.purge({"query": world.named["in_country"]})
    result._full = json.dumps(json.loads(result.full()), separators=(",", ":")).encode()
    second = await world.get(asked)
    assert second.json == first.json
    assert second.headers["ETag"] != first.headers["ETag"]


async def test_curl_goes_on_with_a_download(world: World, needs: Any) -> None:
    curl = needs("curl")
    library("pyarrow")
    by_id = await located(world, "parquet")
    authorization = f"Authorization: Key {TOKENS['dashboard']}"
    full = (await world.get(by_id)).body
    target = world.directory / "rows.parquet"
    target.write_bytes(full[:100_000])
    child = await asyncio.create_subprocess_exec(
        curl, "-sSf", "-C", "-", "-H", authorization, "-o", str(target), world.url + by_id
    )
    assert await child.wait() == 0
    assert await asyncio.to_thread(target.read_bytes) == full


# -- Accept


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "json"),
        ("*/*", "json"),
        ("", "json"),
        ("text/csv", "csv"),
        ("text/csv, */*;q=0.1", "csv"),
        ("text/csv;q=0.5, application/json", "json"),
        ("text/csv;q=0.5, */*;q=0.8", "json"),
        ("text/csv;q=0", "json"),
        ("application/vnd.apache.parquet;q=0.9, application/x-ndjson;q=1.0", "ndjson"),
        ("Application/X-NDJSON", "ndjson"),
        ("image/png", "json"),
        ("text/html", "html"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "json"),  # a browser
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "json"),  # Java's HttpURLConnection
        ("application/json, text/plain, */*", "json"),  # axios
        ("application/json, text/javascript, */*; q=0.01", "json"),  # jQuery
        ("text/csv;q=2", "json"),
        ("text/csv;q=nan", "json"),
        ("text/csv" + " " * 400, "json"),
    ],
)
def test_the_form_with_the_highest_weight(accept: str | None, form: str) -> None:
    assert preferred_form(accept) == form


async def test_accept_counts_where_the_path_has_no_ending(world: World) -> None:
    result_id = (await world.get(path(world, ".json"))).json["query_result"]["id"]
    for asked in (path(world), f"/api/query_results/{result_id}", path(world, "?p_country=DE&max_age=600")):
        for _ in range(3):  # the fast path, too
            found: dict[str, Reply] = {}
            for accept, form in (("text/csv", "csv"), ("application/x-ndjson", "ndjson"), ("*/*", "json")):
                found[form] = await world.get(asked, accept=accept)
                assert found[form].headers["Content-Type"] == CONTENT_TYPES[form]  # type: ignore[index]
                assert "Accept," in found[form].headers["Vary"]
            assert len({reply.headers["ETag"] for reply in found.values()}) == 3
    assert (await world.get(path(world, ".json"), accept="text/csv")).headers["Content-Type"] == "application/json"


async def test_a_page_has_a_policy_that_forbids_everything(world: World) -> None:
    reply = await world.get(path(world, ".html"))
    assert reply.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Disposition"].startswith("inline;")


# -- trouble


async def test_a_process_that_fails_is_a_clear_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_environment", lambda: {"PYTHONPATH": str(world.directory)})
    (world.directory / "gateway.py").write_text("raise SystemExit(1)\n")  # found before the gateway itself
    reply = await world.get(latest(world, "ndjson"))
    assert reply.status == 503
    assert "could not be made" in reply.json["detail"]
    monkeypatch.undo()
    assert (await world.get(latest(world, "ndjson"))).status == 200


@pytest.mark.parametrize("name", ["n" * 6_000, ",".join(f"{n}-{'é' * 200}" for n in range(5))])
async def test_a_long_unknown_column_is_a_clear_400_from_a_process(world: World, name: str) -> None:
    reply = await world.get(f"{latest(world, 'ndjson')}?columns={name}")
    assert reply.status == 400
    assert "The result has no column '" in reply.json["detail"]
    assert len(reply.json["detail"]) < 3_000


async def test_an_unknown_column_of_a_result_with_long_names_is_a_clear_400(world: World) -> None:
    """Names are Redash's, and of any length."""
    library("pyarrow")
    query, names = world.named["kb1"], [f"{n}{'é' * 3_000}" for n in range(30)]
    world.sandbox.add_result(query, [(name, "string") for name in names], [], retrieved_at=world.clock.wall())
    for form in ("ndjson", "parquet"):  # the second is made in a process
        reply = await world.get(f"/api/queries/{query}/results.{form}?columns=nope")
        assert reply.status == 400
        assert "Its columns are: 0éé" in reply.json["detail"]


@pytest.mark.parametrize(
    "script",
    ["import sys; sys.stderr.write('[\"BadRequest'); sys.exit(3)", "import sys; sys.exit('x' * 1_000_000)"],
    ids=["cut", "long"],
)
async def test_whatever_a_process_says_is_a_clear_503(
    world: World, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """A process that fails must not wait for the reader of its traceback either."""
    start = asyncio.create_subprocess_exec

    async def other(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        return await start(sys.executable, "-c", script, **options)

    monkeypatch.setattr(process, "STALLED_SECONDS", 5.0)
    monkeypatch.setattr(process.asyncio, "create_subprocess_exec", other)
    reply = await world.get(latest(world, "ndjson"))
    assert (reply.status, reply.headers["Retry-After"]) == (503, "60")


async def test_a_process_may_be_silent_for_longer_over_a_large_result(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first byte it reads all rows twice where they are put in order or types are decided: over gigabytes,
    no fixed time is long enough.
    """
    start = asyncio.create_subprocess_exec

    async def slow(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        return await start(sys.executable, "-c", "import time; time.sleep(1); print(1)", **options)

    monkeypatch.setattr(process, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(process.asyncio, "create_subprocess_exec", slow)
    monkeypatch.setattr(process, "SLOWEST_BYTES", 10)  # a second: so the small result counts as a large one
    reply = await world.get(latest(world, "parquet"))
    assert (reply.status, reply.body) == (200, b"1\n")


async def test_a_form_that_takes_too_long_is_found_by_the_next_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, make = asyncio.Event(), making.ResultForms._make

    async def held(self: making.ResultForms, *given_: Any) -> Any:
        await go_on.wait()
        return await make(self, *given_)

    monkeypatch.setattr(making.ResultForms, "_make", held)
    until_ = making.ResultForms.make

    async def impatient(self: making.ResultForms, of: Any, reading: Any, sender: Any, until: float) -> Any:
        return await until_(self, of, reading, sender, self._clock.monotonic() + 0.05)

    monkeypatch.setattr(making.ResultForms, "make", impatient)
    reply = await world.get(path(world, ".ndjson"))
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    go_on.set()
    await until(lambda: len(world.runtime.results.forms._flights) == 0)
    assert (await world.get(path(world, ".ndjson"))).status == 200


async def test_nothing_is_left_of_a_process_when_the_gateway_stops(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def noted(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        child = await start(sys.executable, "-c", "import time; time.sleep(60)", **options)
        started.append(child)
        return child

    monkeypatch.setattr(process.asyncio, "create_subprocess_exec", noted)
    request = asyncio.create_task(world.get(latest(world, "ndjson")))
    await until(lambda: len(started) == 1)
    await world.runtime.results.forms.aclose()
    assert started[0].returncode is not None
    await asyncio.gather(request, return_exceptions=True)


def test_the_environment_of_a_process_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDASH_KEY", "secret")
    assert "secret" not in process._environment().values()
    assert process._environment()["PYTHONPATH"].partition(":")[0] == str(Path(gateway.__file__).parent.parent)
