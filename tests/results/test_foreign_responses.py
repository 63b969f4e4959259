"""Responses with status 200 that are not what was requested: a proxy's, a cache's, or Redash's own after a fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from security.front import Front, Seen, Stub, Upstream, client, credential, query_object, result_object

CSV = "text/csv; charset=UTF-8"
JOB = b'{"job": {"id": "x", "status": 2, "error": ""}}'
DASHBOARD = {"id": 3, "slug": "three", "widgets": [{"visualization": {"query": query_object(7)}}]}


class Stubs(dict[str, Callable[[], Stub]]):
    """What the upstream answers, by path."""

    def __call__(self, seen: Seen) -> Stub:
        return self[seen.path]() if seen.path in self else Stub.json({"message": "not found"}, 404)


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[tuple[Stubs, Front]]:
    answers = Stubs()
    answers["/api/queries/7"] = lambda: Stub.json(query_object(7, latest_query_data_id=5))
    answers["/api/queries/7/results.json"] = answers["/api/query_results/5.json"] = lambda: Stub.json(
        result_object(5, 7)
    )
    answers["/api/dashboards/3"] = lambda: Stub.json(DASHBOARD)
    async with Upstream(answers) as upstream:
        front = Front(tmp_path, upstream.url)
        front.write(
            credential(tmp_path, "user"),
            client("free"),
            client("reveals", "reveal_keys = true"),
            client("board", "dashboards = [3]"),
        )
        async with front:
            yield answers, front


def answered(body: bytes, content_type: str) -> Callable[[], Stub]:
    return lambda: Stub(200, body, {"Content-Type": content_type})


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"null", "application/json"),
        (b"", CSV),
        (JOB, "application/json"),
        (b"a,b\r\n1,2\r\n", "text/plain"),
        (b"a,b\r\n1,2\r\n", ""),
        (b"a,b\r\n1,2\r", CSV),  # a Content-Length that is too short cuts it
        (b"a,b\r\n1", CSV),
    ],
)
async def test_what_is_no_csv_is_neither_shown_nor_stored(
    told: tuple[Stubs, Front], body: bytes, content_type: str
) -> None:
    answers, front = told
    for path in ("/api/queries/7/results.csv", "/api/query_results/5.csv"):
        answers["/api/query_results/5.csv"] = answered(body, content_type)
        assert (await front.call("GET", path, client="free")).status == 502
        answers["/api/query_results/5.csv"] = answered(b"a\r\n1\r\n", "Text/CSV")
        reply = await front.call("GET", path, client="free")
        assert (reply.status, reply.body) == (200, b"a\r\n1\r\n")
        front.clock.turn(3700)  # beyond `rendered_ttl`


async def test_a_large_file_without_its_end_is_not_stored(told: tuple[Stubs, Front]) -> None:
    """Only its beginning was looked at. Whoever reads it while it arrives gets a connection that breaks off."""
    answers, front = told
    whole = b"a,b\r\n" + b"1,2\r\n" * 500_000
    answers["/api/query_results/5.csv"] = answered(whole[:-1], CSV)
    with pytest.raises(aiohttp.ClientPayloadError):
        await front.call("GET", "/api/query_results/5.csv", client="free")
    answers["/api/query_results/5.csv"] = answered(whole, CSV)
    assert (await front.call("GET", "/api/query_results/5.csv", client="free")).body == whole


@pytest.mark.parametrize("body", [b"", b"a,b\r\n1,2\r\n", JOB, b"PK\x03\x04" + bytes(100)])
async def test_what_is_no_workbook_is_not_shown(told: tuple[Stubs, Front], body: bytes) -> None:
    answers, front = told
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    answers["/api/query_results/5.xlsx"] = answered(body, kind)
    assert (await front.call("GET", "/api/query_results/5.xlsx", client="free")).status == 502


async def test_an_object_bears_the_id_that_was_asked_for(told: tuple[Stubs, Front]) -> None:
    answers, front = told
    answers["/api/queries/7"] = lambda: Stub.json(query_object(8, latest_query_data_id=5))
    answers["/api/dashboards/3"] = lambda: Stub.json({**DASHBOARD, "id": 4})
    for path in ("/api/queries/7", "/api/queries/7/results.json", "/api/dashboards/3"):
        assert (await front.call("GET", path, client="free")).status == 502, path
    # A board's queries are open to its clients, those of another one's are not.
    answers["/api/queries/7"] = lambda: Stub.json(query_object(7))
    assert (await front.call("GET", "/api/queries/7", client="board")).status == 502


@pytest.mark.parametrize("path", ["/api/queries/tags", "/api/data_sources", "/api/queries/7", "/api/queries"])
@pytest.mark.parametrize("body", [b'{"tags": [', b"", b"\xff\xfe", b'{"a": 1} trailing'])
async def test_broken_json_is_not_passed_on(told: tuple[Stubs, Front], path: str, body: bytes) -> None:
    answers, front = told
    answers[path] = answered(body, "application/json")
    for who in ("free", "reveals"):
        assert (await front.call("GET", path, client=who)).status == 502, who


@pytest.mark.parametrize("content_type", ["TEXT/HTML", "Text/Html; charset=utf-8", "application/jsön"])
async def test_content_types_are_read_in_any_case(told: tuple[Stubs, Front], content_type: str) -> None:
    answers, front = told
    for path in ("/api/queries/tags", "/api/queries/7/results.json", "/api/queries/7"):
        answers[path] = answered(b"[]", content_type)
        assert (await front.call("GET", path, client="free")).status == 502, path
