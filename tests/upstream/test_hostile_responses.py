"""Numbers, ids and statuses in responses that no Redash sends: never an internal error, and never passed on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from security.front import Front, Seen, Stub, Upstream, client, credential, key, query_object

from gateway.body import Body
from gateway.redash.organisation import parse_organisation
from gateway.redash.responses import parse_beginning, parse_job, parse_result_or_job

Answer = Callable[[Seen], Stub]
LONG = "9" * 5_000
"""Python's `int()` refuses texts of more than 4,300 digits."""


def result(
    *,
    result_id: str = "5",
    source: str = "1",
    runtime: str = "0.1",
    at: str = "2026-11-23T20:55:26.762Z",
    rows: int = 1,
) -> bytes:
    """A result as Redash writes it, but for these members; of 12,000 rows, only the ends are parsed."""
    many = ",".join(['{"n": 1, "text": "of a few letters"}'] * rows)
    return (
        f'{{"query_result": {{"id": {result_id}, "query_hash": "{7:032x}", "query": "select 7", '
        f'"data": {{"columns": [], "rows": [{many}]}}, '
        f'"data_source_id": {source}, "runtime": {runtime}, "retrieved_at": "{at}"}}}}'
    ).encode()


@pytest.fixture
def answers() -> dict[str, Answer]:
    """What the upstream answers, by path; the definition is that of query 7."""
    return {"/api/queries/7": lambda _: Stub.json(query_object(7, latest_query_data_id=5))}


@pytest.fixture
async def front(tmp_path: Path, answers: dict[str, Answer]) -> AsyncIterator[Front]:
    def respond(seen: Seen) -> Stub:
        return answers.get(seen.path, lambda _: Stub.json({"message": "no"}, 404))(seen)

    async with Upstream(respond) as upstream:
        made = Front(tmp_path, upstream.url)
        keyed = credential(tmp_path, "own", 7)
        lines = 'can = ["read", "execute", "adhoc", "write", "admin"]'
        made.write(credential(tmp_path, "user"), keyed, client("every", lines), client("narrow", credentials='"query"'))
        async with made:
            yield made


@pytest.mark.parametrize("rows", [1, 12_000], ids=["small", "large"])
@pytest.mark.parametrize(
    "member",
    [
        {"result_id": LONG},
        {"result_id": "-1"},
        {"result_id": "9" * 25},
        {"result_id": str(2**52)},
        {"source": LONG},
        {"runtime": "1-1"},
        {"runtime": LONG + "e"},
        {"at": "é"},
        {"at": "\\u0000"},
        {"at": "\\ud800"},
        {"at": "2026-11-23T" + "0" * 5_000},
    ],
    ids=lambda member: " ".join(f"{name}={value[:8]}" for name, value in member.items()),
)
async def test_a_result_with_an_odd_number_is_502(
    front: Front, answers: dict[str, Answer], member: dict[str, str], rows: int
) -> None:
    # The ids of results from 2**52 on are the gateway's own.
    body = result(**member, rows=rows)
    for path in ("/api/queries/7/results", "/api/query_results/5.json", "/api/queries/7/results.json"):
        answers[path] = lambda _: Stub(200, body)
    for method, path, sent in [
        ("POST", "/api/queries/7/results", {"max_age": 0}),
        ("GET", "/api/query_results/5.json", None),
        ("GET", "/api/queries/7/results.json", None),
    ]:
        try:
            reply = await front.call(method, path, sent, client="every", headers={"Prefer": "wait=5"})
        except aiohttp.ClientPayloadError:
            assert rows > 1, "only a response that has begun may break off"
        else:
            assert reply.status == 502, (method, path, reply.status, reply.body[:200])


@pytest.mark.parametrize("named", ["-1", LONG, "9" * 25, str(2**52), "true", '"5"', "1.5"])
async def test_a_job_that_names_no_result_is_502(
    front: Front, answers: dict[str, Answer], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.executions.runner.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("gateway.executions.runner.AGAIN_SECONDS", 0.01)
    body = f'{{"job": {{"id": "x", "status": 3, "error": "", "query_result_id": {named}}}}}'.encode()
    answers["/api/queries/7/results"] = lambda _: Stub(200, body)
    headers = {"Prefer": "wait=5"}
    reply = await front.call("POST", "/api/queries/7/results", {"max_age": 0}, client="every", headers=headers)
    text = reply.json["job"]["error"] if reply.status == 200 else reply.json["detail"]
    assert "Redash" in text
    assert "Internal" not in text


@pytest.mark.parametrize("status", [999, 600])
async def test_a_status_that_is_none_of_http_is_502(front: Front, answers: dict[str, Answer], status: int) -> None:
    # A reader of HTTP may take it for anything (RFC 9110 section 15).
    for path in ("/api/queries/8", "/api/query_results/5.json", "/api/session", "/api/queries/7/results"):
        answers[path] = lambda _: Stub(status)
    for path in ("/api/queries/8", "/api/query_results/5.json", "/api/session"):
        assert (await front.call("GET", path, client="every")).status == 502
    assert (await front.call("POST", "/api/queries/7/results", {}, client="every")).status == 502


@pytest.mark.parametrize("after", [LONG, "٣", "-1", "1.5", "soon"])
async def test_a_retry_after_that_is_no_number_is_passed_on_as_any_refusal(
    front: Front, answers: dict[str, Answer], after: str
) -> None:
    fields = {"Content-Type": "application/json", "Retry-After": after}
    answers["/api/queries/8"] = lambda _: Stub(429, b'{"message": "later"}', fields)
    reply = await front.call("GET", "/api/queries/8", client="every")
    assert (reply.status, reply.json["message"]) == (429, "later")


@pytest.mark.parametrize(
    "date",
    [
        "Thu, 26 Nov 9999999999 20:00:00 GMT",
        "Thu, 26 Nov 2026 9999999999:00:00 GMT",
    ],
)
async def test_a_date_that_is_none_is_as_no_date(front: Front, answers: dict[str, Answer], date: str) -> None:
    # email.utils passes such numbers on to datetime, which raises OverflowError for what no integer of C holds.
    fields = {"Content-Type": "application/json", "Date": date}
    answers["/api/queries/7"] = lambda _: Stub(200, json.dumps(query_object(7)).encode(), fields)
    answers["/api/queries/7/results"] = lambda _: Stub(200, result(), fields)
    assert (await front.call("GET", "/api/queries/7", client="every")).status == 200
    assert (await front.call("POST", "/api/queries/7/results", {"max_age": 0}, client="every")).status == 200


@pytest.mark.parametrize("depth", [900, 960, 990, 1_500])
async def test_a_cell_too_deep_for_its_text_is_502(front: Front, answers: dict[str, Answer], depth: int) -> None:
    # The gateway renders what a query's key gets. A cell that can be parsed may still be too deep to be written.
    for large in (False, True):
        cell = '{"n": ' + "[" * depth + "]" * depth + "}"
        rows = ",".join([cell] * (300 if large else 1))
        data = f'{{"columns": [{{"name": "n", "type": null}}], "rows": [{rows}]}}'
        body = f'{{"query_result": {{"data": {data}, "retrieved_at": "2026-11-23T20:55:26.762Z"}}}}'.encode()
        answers["/api/queries/7/results"] = lambda _, body=body: Stub(200, body)  # type: ignore[misc]
        reply = await front.call("GET", "/api/queries/7/results.csv?max_age=0", client="narrow")
        assert reply.status in (200, 502), reply.body[:200]


def test_what_is_no_result_by_its_beginning_is_none() -> None:
    assert parse_beginning(result(result_id=LONG)) is None
    beginning = parse_beginning(result())
    assert beginning is not None
    assert beginning.id == 5


def test_the_ends_of_a_large_result_say_the_same_as_the_whole() -> None:
    for runtime in ("0", "0.25", "1e-05", "12345.678", "3E+2"):
        small, large = result(runtime=runtime), result(runtime=runtime, rows=12_000)
        assert parse_result_or_job(Body.of(large)) == parse_result_or_job(Body.of(small))


def test_json_too_deep_is_no_job_and_has_no_formats() -> None:
    deep = b'{"x": ' + b"[" * 2_000 + b"]" * 2_000 + b"}"
    assert parse_job(deep) is None
    assert parse_organisation(deep) is None


async def test_a_deep_schema_is_no_internal_error(front: Front, answers: dict[str, Answer]) -> None:
    deep = b'{"schema": ' + b"[" * 1_500 + b"]" * 1_500 + b"}"
    answers["/api/data_sources/1/schema"] = lambda _: Stub(200, deep)
    assert (await front.call("GET", "/api/data_sources/1/schema", client="every")).status in (200, 502)
    assert key("user") not in json.dumps((await front.call("GET", "/api/session", client="every")).json)
