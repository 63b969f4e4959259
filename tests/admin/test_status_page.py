"""The page as served: complete without JavaScript, in agreement with /metrics, without secrets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from support.calls import TOKENS
from support.process import Process
from support.world import World

from gateway.admin.layout import CHARTS, TABLES
from gateway.admin.status_routes import CONTENT_POLICY
from gateway.outcome import ExecutionEnd, Outcome, UpstreamCall, batched

VOID = {"meta", "link", "path", "br", "input"}


class Page(HTMLParser):
    """A parsed page: texts by their place in the report, rows of tables, and every element with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.places: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.elements.append((tag, fields))
        if tag in VOID:
            return
        self._open.append((tag, fields))
        if tag == "table":
            self._rows = self.tables[str(fields["data-rows"])] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for tag, fields in self._open:
            if fields.get("data-place"):
                self.places.setdefault(str(fields["data-place"]), data)
            if tag in ("td", "th"):
                self._rows[-1][-1] += data


async def read(world: World, path: str = "/", **headers: str) -> tuple[int, Mapping[str, str], str]:
    async with world.session.get(world.admin + path, headers=headers) as response:
        return response.status, response.headers, await response.text()


async def status(world: World) -> Any:
    return json.loads((await read(world, "/api/status"))[2])


async def load(world: World) -> None:
    """Hits, misses, joins, refusals, failures, polls and pings."""
    await asyncio.gather(*(world.post("now", max_age=60, wait=20) for _ in range(5)))
    for _ in range(4):
        await world.post("by_country", max_age=600, wait=20, client="second")
    await world.rows("by_country", max_age=0)
    await world.post("failing", max_age=0, wait=20)
    for _ in range(3):
        await world.get("/api/queries", client=None)
    await world.get("/ping")
    await world.get("/api/users")
    await world.get("/no/such/route")


async def test_the_report_agrees_with_the_metrics(world: World) -> None:
    await load(world)
    report, page = await status(world), Page((await read(world))[2])
    for row in report["outcomes"]:
        assert row["total"] == await world.metric("redash_gateway_requests_total", cache=row["outcome"])
    for name, metric in {
        "requests": "requests_total",
        "refused": "rejected_total",
        "executions": "executions_total",
        "saved_executions": "saved_executions_total",
        "saved_seconds": "saved_execution_seconds_total",
        "upstream_requests": "upstream_requests_total",
    }.items():
        assert report["totals"][name] == pytest.approx(await world.metric(f"redash_gateway_{metric}")), name
    for row in report["clients"]:
        client = "-" if row["client"].startswith("(") else row["client"]
        assert row["requests"] == await world.metric("redash_gateway_requests_total", client=client)
    for row in report["queries"]:
        assert row["requests"] == await world.metric("redash_gateway_query_requests_total", query=str(row["query"]))
    assert report["hour"]["requests"] == report["totals"]["requests"] > 15
    assert page.places["totals.requests"] == str(report["totals"]["requests"])


async def test_the_page_without_javascript_shows_the_whole_report(world: World) -> None:
    await load(world)
    page, report = Page((await read(world))[2]), await status(world)
    assert page.places["verdict"].startswith("Serving. ")
    assert page.places["hour.requests"] == str(report["hour"]["requests"])
    for table in TABLES:
        head, *rows = page.tables.get(table.rows, [[column.title for column in table.columns]])
        assert head == [column.title for column in table.columns]
        assert len(rows) == len(report[table.rows])
    names = [f"{row['name']} {row['query']} ↗" for row in report["queries"]]
    assert [row[0] for row in page.tables["queries"][1:]] == names
    assert {row["name"] for row in report["queries"]} >= {"Orders by country"}
    drawn = {
        str(fields["data-series"]): fields["d"]
        for tag, fields in page.elements
        if tag == "path" and "d" in fields and "data-series" in fields
    }
    assert set(drawn) == {line.series for chart in CHARTS for line in chart.lines}
    assert all(drawn[series] for series in drawn if series != "errors"), "nothing failed with 500 and above"


async def test_the_page_is_accessible(world: World) -> None:
    page = Page((await read(world))[2])
    tags = [tag for tag, _ in page.elements]
    assert tags.count("main") == tags.count("h1") == tags.count("header") == tags.count("footer") == 1
    assert tags.count("caption") == tags.count("table") > 3
    assert all("scope" in fields for tag, fields in page.elements if tag == "th")
    ids = {fields["id"] for _, fields in page.elements if "id" in fields}
    for _, fields in page.elements:
        assert set((fields.get("aria-labelledby") or "").split()) <= ids
    pictures = [fields for tag, fields in page.elements if tag == "svg"]
    assert len(pictures) == len(CHARTS)
    assert all(fields["role"] == "img" and fields["aria-labelledby"] for fields in pictures)
    assert any(fields.get("aria-live") == "polite" for _, fields in page.elements)


async def test_the_page_loads_nothing_from_other_hosts(world: World) -> None:
    code, headers, html = await read(world)
    assert code == 200
    assert headers["Content-Security-Policy"] == CONTENT_POLICY
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    loaded = re.findall(r"<(?!a )[^>]*(?:src|href|action)=\"([^\"]*)\"", html)
    assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)]
    assert "<style" not in html
    assert not re.search(r"<script(?! src=)", html)
    assert " style=" not in html
    assert not re.search(r" on[a-z]+=", html)


async def test_assets_are_kept_by_browsers_until_they_change(world: World) -> None:
    html = (await read(world))[2]
    assets = re.findall(r'(?:href|src)="(assets/[^"]+)"', html)
    assert [path.rpartition(".")[2] for path in assets] == ["css", "js"]
    for path in assets:
        code, headers, body = await read(world, f"/{path}")
        assert (code, "immutable" in headers["Cache-Control"]) == (200, True)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "//" not in re.sub(r"(?m)//.*$|/\*.*?\*/", "", body)
        assert (await read(world, f"/{path}", **{"If-None-Match": headers["ETag"]}))[0] == 304


async def test_nothing_secret_is_shown(world: World) -> None:
    await load(world)
    await world.post("in_country", country="x", parameters={"country": "Secretland"}, max_age=60, wait=20)
    await world.call("GET", f"/api/queries?api_key={TOKENS['second']}&q=hidden-words", client=None)
    await world.get("/a/raw/path")
    shown = "".join([(await read(world, path))[2] for path in ("/", "/api/status")])
    for secret in (*TOKENS.values(), *world.sandbox.user_keys.values()):
        assert secret not in shown
    for text in ("select", "Secretland", "hidden-words", "raw/path", "no such table"):
        assert text not in shown


async def test_every_text_is_escaped(world: World) -> None:
    evil = "<script>alert('x')</script>&\"'"
    recorder = world.runtime.telemetry.recorder
    recorder.record_requests(*batched([Outcome(request_id="r", client=evil, cache="hit")]))
    recorder.record_upstream(UpstreamCall(evil, 200, 0.1, "analyst", True))
    recorder.record_execution(ExecutionEnd("x", 7, "success", 1.0, 1, 1.0))
    html = (await read(world))[2]
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert") == 2
    Page(html)


async def test_the_verdict_begins_with_what_is_wrong(world: World) -> None:
    world.runtime.telemetry.recorder.record_upstream(UpstreamCall("/api/session", 404, 0.1, "analyst", False))
    report = await status(world)
    assert report["state"] == "bad"
    assert report["verdict"].startswith("Serving, but Redash rejects the key of analyst.")
    assert next(p for p in report["health"] if p["name"] == "Credentials")["text"] == "Rejected: analyst"


async def test_the_status_command_prints_the_report(world: World) -> None:
    await load(world)
    done, text = await Process.run("status", "--admin", world.admin, cwd=world.directory)
    assert done == 0
    assert re.search(r"^verdict +Serving\. ", text, re.MULTILINE)
    assert "queries" in text
    assert re.search(r"(?m)^  p50 +[\d.]+ m?s$", text)
    assert "history" not in text
    done, text = await Process.run("status", "--json", "--admin", world.admin, cwd=world.directory)
    assert json.loads(text)["history"]["requests"]


async def test_the_number_of_clients_is_that_of_the_rows_below_it(world: World) -> None:
    """Clients of the configuration that have sent nothing yet have a row, too."""
    await world.get("/api/session")
    report = await status(world)
    assert report["clients_count"] == len(report["clients"]) > 1
