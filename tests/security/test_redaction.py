"""Keys, public tokens, invitations and reset links never leave in metadata, wherever they are (CONTRACT 15)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.redash import routes
from gateway.redash.redaction import (
    LARGEST_METADATA,
    LONGEST_ERROR,
    LONGEST_REFUSAL,
    MOST_ITEMS,
    MOST_MEMBERS,
    shortened,
    text_without_keys,
)
from gateway.telemetry.log import Formatter

from .front import EVERYTHING, Front, Seen, Stub, Upstream, client, credential, key, query_object, result_object, token

SECRET = "Sup3rSecret0Key0Of0Redash0Nobody0May0See"
NAMES = ("api_key", "public_url", "invite_link", "reset_link")
BODY: dict[str, Any] = {
    **query_object(5),
    **dict.fromkeys(NAMES, SECRET),
    "kept": "stays",
    "nested": [
        {"visualization": {"query": dict.fromkeys(NAMES, f"https://redash/{SECRET}")}},
        [[{"api_key": {"deep": SECRET}}]],
    ],
    "results": [dict.fromkeys(NAMES, SECRET)],
    "widgets": [],
    "null": None,
    "api_key_of": "a name that only looks alike",
}

# Every route whose responses can contain keys, by CONTRACT 15 (seen or from the source).
ROUTES = (
    """
GET /api/queries | GET /api/queries/my | GET /api/queries/recent | GET /api/queries/favorites | GET /api/queries/archive
GET /api/queries/search?q=x | GET /api/queries/5 | POST /api/queries | POST /api/queries/5 | DELETE /api/queries/5
POST /api/queries/5/fork | POST /api/queries/5/regenerate_api_key | GET /api/dashboards | GET /api/dashboards/my
GET /api/dashboards/favorites | GET /api/dashboards/3 | GET /api/dashboards/sales?legacy | POST /api/dashboards
POST /api/dashboards/3 | DELETE /api/dashboards/3 | POST /api/dashboards/3/share | POST /api/dashboards/3/fork
DELETE /api/dashboards/3/share | POST /api/widgets | POST /api/widgets/4 | DELETE /api/widgets/4 | GET /api/alerts
GET /api/alerts/1 | POST /api/alerts | POST /api/alerts/1 | DELETE /api/alerts/1 | GET /api/users | POST /api/users
GET /api/users/2 | POST /api/users/2 | DELETE /api/users/2 | POST /api/users/2/invite | POST /api/users/2/reset_password
POST /api/users/2/regenerate_api_key | POST /api/users/2/disable | DELETE /api/users/2/disable
GET /api/admin/queries/outdated
""".replace("\n", " | ")
    .strip(" |")
    .split(" | ")
)


# Every other route of objects: its responses have none of these keys, seen in the recordings or from the source.
WITHOUT_KEYS = (
    """
/api/queries/{query_id}/dropdown | /api/queries/{query_id}/dropdowns/{dropdown_id} | /api/session
/api/databricks/databases/{id} | /api/databricks/databases/{id}/{database}/tables
/api/databricks/databases/{id}/{database}/columns/{table}
/api/data_sources/types | /api/organization/status | /api/dashboards/public/{token} | /api/queries/tags
/api/dashboards/tags | /api/data_sources | /api/data_sources/{id} | /api/data_sources/{id}/schema
/api/query_snippets | /api/query_snippets/{id} | /api/alerts/{id}/eval | /api/queries/format | /api/visualizations
/api/visualizations/{id} | /api/data_sources/{id}/pause | /api/data_sources/{id}/test | /api/groups | /api/groups/{id}
/api/groups/{id}/members | /api/groups/{id}/members/{id2} | /api/groups/{id}/data_sources
/api/groups/{id}/data_sources/{id2} | /api/destinations | /api/destinations/types | /api/destinations/{id}
/api/settings/organization | /api/queries/{query_id}/acl | /api/queries/{query_id}/acl/{word}
/api/dashboards/{dashboard}/acl | /api/dashboards/{dashboard}/acl/{word} | /api/events
""".replace("\n", " | ")
    .strip(" |")
    .split(" | ")
)


class Redash:
    status = 200
    response: Stub | None = None

    def __call__(self, seen: Seen) -> Stub:
        if self.response is not None:
            return self.response
        if "results" in seen.path:
            return Stub.json(result_object(7, 5, [{"api_key": "a column", "public_url": SECRET}]))
        named = re.search(r"/(?:queries|dashboards)/(\d+)$", seen.path)
        return Stub.json(BODY | {"id": int(named[1])} if named else BODY, self.status)


@pytest.fixture
def redash() -> Redash:
    return Redash()


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    made.write(
        credential(tmp_path, "user"), client("plain", EVERYTHING), client("open", EVERYTHING, "reveal_keys = true")
    )
    async with made:
        yield made


def test_the_list_of_routes_is_complete() -> None:
    assert len(ROUTES) == len(set(ROUTES)) == 42


def test_every_route_is_cleaned_or_listed_as_without_keys() -> None:
    objects = [route for route in routes.ROUTES if route.kind in ("metadata", "live", "write") and not route.keys]
    uncleaned = {route.template for route in objects}
    assert sorted(uncleaned - set(WITHOUT_KEYS)) == [], "give it `keys` in routes.py, or list it in WITHOUT_KEYS above"
    assert sorted(set(WITHOUT_KEYS) - uncleaned) == [], "these are cleaned, or no routes"


@pytest.mark.parametrize("status", [200, 201, 203, 400, 403, 409, 500])
async def test_no_route_shows_a_key_whatever_the_status(front: Front, redash: Redash, status: int) -> None:
    redash.status = status
    for route in ROUTES:
        method, _, path = route.partition(" ")
        reply = await front.call(method, path, {} if method == "POST" else None, client="plain")
        assert SECRET.encode() not in reply.body, (route, status)
        if reply.status == status and status < 300:
            members = reply.json
            assert [members[name] for name in NAMES] == [None] * 4
            assert members["nested"][0]["visualization"]["query"] == dict.fromkeys(NAMES)
            assert members["nested"][1] == [[{"api_key": None}]]
            assert (members["kept"], members["null"]) == ("stays", None)
            assert members["api_key_of"] == BODY["api_key_of"]
            assert list(members) == list(BODY)


@pytest.mark.parametrize("first", ["plain", "open"])
async def test_only_clients_that_may_see_keys_see_them_in_any_order(front: Front, first: str) -> None:
    for who in (first, "open", "plain", "open", "plain"):
        for path in ("/api/queries/5", "/api/queries", "/api/dashboards/3"):
            reply = await front.call("GET", path, client=who)
            assert (SECRET.encode() in reply.body) == (who == "open"), (who, path)
            assert reply.status == 200


@pytest.mark.parametrize("status", [201, 203, 206, 403, 404, 500])
async def test_a_query_object_instead_of_a_refusal_is_not_passed_on(front: Front, redash: Redash, status: int) -> None:
    """The gateway requests the query's object itself; whatever Redash sends then must not leave unread."""
    redash.response = Stub.json(BODY, status)
    for method, path in (
        ("POST", "/api/queries/5/results"),
        ("GET", "/api/queries/5/results.json"),
        ("GET", "/api/queries/5/results.csv?max_age=0"),
        ("GET", "/api/queries/5/results/7.json"),
    ):
        reply = await front.call(method, path, {} if method == "POST" else None, client="plain")
        assert SECRET.encode() not in reply.body, (method, path, reply.status)


async def test_rows_are_data(front: Front) -> None:
    # DESIGN 5: result bodies are never touched.
    for method, path, body in (
        ("GET", "/api/query_results/7.json", None),
        ("GET", "/api/queries/5/results.json", None),
        ("POST", "/api/queries/5/results", {}),
    ):
        reply = await front.call(method, path, body, client="plain")
        assert reply.json["query_result"]["data"]["rows"] == [{"api_key": "a column", "public_url": SECRET}]


@pytest.mark.parametrize("body", [b"", b"not json", b'{"api_key": "' + SECRET.encode(), b"[" * 100_000, b"\xff\xfe{}x"])
async def test_unreadable_metadata_is_502(front: Front, redash: Redash, body: bytes) -> None:
    redash.response = Stub(200, body)
    for path in ("/api/queries/5", "/api/queries", "/api/users"):
        reply = await front.call("GET", path, client="plain")
        assert reply.status == 502
        assert SECRET.encode() not in reply.body


@pytest.mark.parametrize("more", [0, 1])
async def test_metadata_above_32_mb_is_502(front: Front, redash: Redash, more: int) -> None:
    start, end = b'{"api_key": "' + SECRET.encode() + b'", "x": "', b'"}'
    redash.response = Stub(200, start + b"y" * (LARGEST_METADATA - len(start) - len(end) + more) + end)
    reply = await front.call("GET", "/api/queries", client="plain")
    assert reply.status == (502 if more else 200)
    assert SECRET.encode() not in reply.body[:1000]


@pytest.mark.parametrize(
    "inner",
    [
        b"{" + b",".join(b'"k%d":1' % number for number in range(MOST_MEMBERS + 1)) + b"}",
        b"[" + b"[]," * (MOST_ITEMS + 1) + b"0]",
    ],
    ids=["members", "items"],
)
async def test_metadata_that_takes_long_to_parse_is_502(front: Front, redash: Redash, inner: bytes) -> None:
    # Parsing holds the interpreter: 12 MB of members stopped everything for 1.8 s, 32 MB of "[]," took a gigabyte.
    redash.response = Stub(200, b'{"x": ' + inner + b"}")
    assert (await front.call("GET", "/api/queries", client="plain")).status == 502


async def test_large_bodies_are_cleaned_one_at_a_time(front: Front, redash: Redash) -> None:
    # Each takes many times its size while it is parsed.
    cleaning = front.runtime.results.metadata._cleaning
    assert cleaning.size == 1
    redash.response = Stub(200, b'{"x": "' + b"y" * 500_000 + b'"}')
    paths = [f"/api/users/{number}" for number in range(1, 6)]
    replies = await asyncio.gather(*(front.call("GET", path, client="plain") for path in paths))
    assert {reply.status for reply in replies} == {200}
    assert (cleaning.taken, cleaning.queued) == (0, 0)


@pytest.mark.parametrize("body", [b'{"a": "\xff"}', b"[1,]", b"{} x"])
async def test_what_is_no_json_is_502_where_nothing_is_cleaned_as_well(
    front: Front, redash: Redash, body: bytes
) -> None:
    redash.response = Stub(200, body)
    assert (await front.call("GET", "/api/data_sources", client="plain")).status == 502


async def test_a_refusal_too_long_to_be_searched_is_502(front: Front, redash: Redash) -> None:
    # All texts of a refusal are searched for keys, on the event loop.
    redash.response = Stub(400, b'{"message": "' + b"x " * LONGEST_REFUSAL + b'"}')
    assert (await front.call("GET", "/api/queries/5", client="plain")).status == 502
    redash.response = Stub(400, b'{"message": "' + b"x " * 1_000 + b'"}')
    assert (await front.call("GET", "/api/queries/5", client="plain")).status == 400


@pytest.mark.parametrize("before", range(0, 45, 3))
def test_an_error_text_is_cut_without_leaving_a_part_of_a_key(before: int) -> None:
    text = "e" * 20 + " " * (LONGEST_ERROR - 20 - before) + SECRET + " and more" * 1_000
    shown = shortened(text)
    assert len(shown) <= LONGEST_ERROR + 10
    assert not any(SECRET[:length] in shown for length in range(8, len(SECRET) + 1))


def test_a_short_error_text_stays() -> None:
    assert shortened("relation does not exist") == "relation does not exist"
    assert shortened("x" * LONGEST_ERROR).startswith("x" * 1_000)


@pytest.mark.parametrize(
    "text",
    [
        '{"api\\u005fkey": "%s"}',
        '{"a": {"api_key": "x", "api_key": "%s"}}',
        '{"api_key" : ["%s"]}',
        '\ufeff{"api_key": "%s"}',
    ],
)
async def test_all_spellings_of_a_name_are_cleaned(front: Front, redash: Redash, text: str) -> None:
    redash.response = Stub(200, (text % SECRET).encode())
    reply = await front.call("GET", "/api/users/2", client="plain")
    assert SECRET.encode() not in reply.body


async def test_utf16_is_cleaned_too(front: Front, redash: Redash) -> None:
    redash.response = Stub(200, f'{{"api_key": "{SECRET}"}}'.encode("utf-16"))
    reply = await front.call("GET", "/api/users/2", client="plain")
    assert SECRET.encode() not in reply.body
    assert SECRET.encode("utf-16-le") not in reply.body


async def test_numbers_and_texts_survive_the_cleaning(front: Front, redash: Redash) -> None:
    text = (
        '{"n": 12345678901234567890123, "f": 1.5e300, "s": "ü\\u2028\\ud83d\\ude00", "lone": "\\ud800", "api_key": "x"}'
    )
    redash.response = Stub(200, text.encode())
    reply = await front.call("GET", "/api/users/2", client="plain")
    assert reply.json == {**json.loads(text), "api_key": None}


# -- logs

LINES = {
    "token": f"said {token('plain')}",
    "header": f"Authorization: Key {token('plain')}",
    "header of Redash": f"Authorization: Key {key('user')}",
    "dictionary": str({"Authorization": f"Key {key('user')}"}),
    "json": json.dumps({"Authorization": f"Bearer {token('plain')}"}),
    "basic": "Authorization: Basic eDpyZ19wbGFpbl8wMTIzNDU2Nzg5YWJjZGVm",
    "basic in a dictionary": str({"Authorization": "Basic eDpyZ19wbGFpbl8wMTIzNDU2Nzg5YWJjZGVm"}),
    "argument": "GET /api/queries?api_key=short&x=1",
    "encoded argument": f"GET /api/queries?api%5Fkey={key('user')}",
    "after an escape": f"GET /x?a=%20{token('plain')}",
    "on a line of its own": f"first\n{token('plain')}\nlast",
    "key on a line of its own": f"first\n{key('user')}\n",
    "after a tab": f"x\t{key('user')}",
    "key in bytes": repr(f"\r\n{key('user')}\r\n".encode()),
    "token in bytes": repr(f"\r\n{token('plain')}\r\n".encode()),
    "in quotes": f"'{key('user')}' \"{token('plain')}\"",
}
HIDDEN = [token("plain"), key("user"), "eDpyZ19wbGFpbl8wMTIzNDU2Nzg5YWJjZGVm", "short"]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("name", LINES)
def test_no_line_of_the_log_holds_a_key(form: str, name: str) -> None:
    def hidden(line: str) -> None:
        assert not [secret for secret in HIDDEN if secret in line], line

    text = LINES[name]
    record = logging.LogRecord("gateway.x", logging.INFO, "f", 1, "%s", (text,), None)
    hidden(Formatter(form).format(record))
    record = logging.LogRecord("gateway.x", logging.INFO, "f", 1, "request", (), None)
    record.fields = {"what": text}
    hidden(Formatter(form).format(record))
    try:
        raise ValueError(text)
    except ValueError:
        record = logging.LogRecord("gateway.x", logging.ERROR, "f", 1, "broken", (), sys.exc_info())
    line = Formatter(form).format(record)
    hidden(line)
    assert "ValueError" in line
    if form == "json":
        assert json.loads(line)["level"] == "error"


def test_ordinary_words_stay_in_the_log() -> None:
    for text in (
        "query 42 took 3 s",
        "10f0dede-0a61-455b-ba85-243131c5b36e",
        "redash_gateway_requests_total",
        "a" * 64,
        "merg_ed",
        "https://redash.example.com/api/queries/1/results.json?p_x=1",
    ):
        assert text_without_keys(text) == text
    assert re.search("select", text_without_keys("select 1"))
