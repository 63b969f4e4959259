"""Results whose members stand in any order, as up to version 8 of Redash: read as others are, but for their rows."""

from __future__ import annotations

import itertools
import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body import Body
from gateway.errors import UpstreamUnusable
from gateway.redash import responses
from gateway.redash.redaction import LONGEST_ERROR
from gateway.redash.responses import Job, ResultHead, parse_beginning, parse_result_or_job

FULL: dict[str, Any] = {
    "id": 7,
    "query_hash": "c180243e989b2b9b4842664b348b6e51",
    "query": 'select "é" as "a\\b" -- }, {"a": 1}',
    "data": {"rows": [{"a": number, "b": '"retrieved_at": "x"}}'} for number in range(20)], "columns": [{"name": "a"}]},
    "data_source_id": 3,
    "runtime": 0.25,
    "retrieved_at": "2026-11-26T07:27:28.374Z",
}
REDUCED = {name: FULL[name] for name in ("data", "retrieved_at")}
HEAD = ResultHead(**{name: value for name, value in FULL.items() if name != "data"})
USUAL = tuple(FULL)


def body(names: tuple[str, ...], **changed: Any) -> bytes:
    return json.dumps({"query_result": {name: (FULL | changed)[name] for name in names}}).encode()


def parsed_as_large(data: bytes) -> ResultHead | Job:
    with mock.patch.object(responses, "PARSE_LIMIT", 0):
        return parse_result_or_job(Body.of(data))


@pytest.mark.parametrize("first", USUAL)
def test_a_large_result_is_read_in_any_order(first: str) -> None:
    for names in itertools.islice(itertools.permutations(USUAL), USUAL.index(first), None, 97):
        assert parsed_as_large(body((first, *(name for name in names if name != first)))) == HEAD
    reduced = ResultHead(retrieved_at=HEAD.retrieved_at)
    for names in itertools.permutations(REDUCED):
        assert parsed_as_large(body(names)) == reduced


@given(st.permutations(USUAL))
def test_the_beginning_shows_what_stands_before_the_rows(names: list[str]) -> None:
    # Only with its SQL, else nobody could tell whose rows follow; time and source count at the end only.
    data = body(tuple(names))
    before = names[: names.index("data")]
    head = parse_beginning(data[: data.index(b'"rows"')])
    if "query" in before:
        id, query_hash = (FULL[name] if name in before else other for name, other in (("id", 0), ("query_hash", "")))
        assert head == ResultHead(id=id, query_hash=query_hash, query=FULL["query"], retrieved_at="")
    elif set(before) - {"retrieved_at"}:
        assert head is None
    else:  # it may be a reduced one: only query keys get those, and their end is judged again
        assert head == ResultHead(retrieved_at="")


def test_an_id_behind_the_rows_is_not_taken_for_none() -> None:
    # The end of this one looks like the usual end.
    names = ("query_hash", "query", "data", "id", "data_source_id", "runtime", "retrieved_at")
    assert parsed_as_large(body(names)) == HEAD


def test_long_sql_may_stand_behind_the_rows() -> None:
    query = "select 'é' " * 300_000
    data = body(("data", "query", "id", "retrieved_at", "runtime", "data_source_id", "query_hash"), query=query)
    head = parse_result_or_job(Body.of(data))
    assert isinstance(head, ResultHead)
    assert head.query == query


def test_sql_longer_than_any_that_is_sent_is_refused() -> None:
    data = body(("data", "query", "id", "retrieved_at"), query="x" * (6 * 4 * 1024 * 1024 + 1))
    with pytest.raises(UpstreamUnusable):
        parse_result_or_job(Body.of(data))


@pytest.mark.parametrize(
    "data",
    [
        body(("data", "id", "query"))[:-1],
        body(("data", "id", "query", "retrieved_at")).replace(b'{"a": 7,', b'{"a": 7'),
        body(("data", "id", "query", "retrieved_at")) + b"}",
        body(("data", "id", "query")),  # no time
        body(("data", "retrieved_at", "id"), id={}),
        body(("data", "retrieved_at", "id"), id=[]),
        b'{"other": {}}',
        b"[1, 2]",
        b"\xff",
    ],
)
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(UpstreamUnusable):
        parsed_as_large(data)


def test_a_job_with_a_large_text_is_a_job() -> None:
    job = {"id": "x", "status": 4, "error": "word " * 60_000, "query_result_id": None, "updated_at": 0}
    found = parse_result_or_job(Body.of(json.dumps({"job": job}).encode()))
    assert isinstance(found, Job)
    assert (found.status, found.error) == (4, "word " * (LONGEST_ERROR // 5) + " …")
