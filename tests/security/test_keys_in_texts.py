"""No text that came from Redash shows a key, whichever way it takes; the gateway's own keys least of all (DESIGN 5).

Redash repeats what it was sent in places that nobody lists (CONTRACT 15: "pieces of SQL in errors"), and data sources
put whatever they like into their errors.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.world import SECRETS

from gateway.redash.redaction import body_without_own_keys, refusal_without_keys, text_without_keys, without_keys
from gateway.redash.routes import ROUTES
from gateway.secret import Secret
from gateway.telemetry.log import Formatter

from .front import EVERYTHING, Front, Seen, Stub, Upstream, client, credential, key, query_object, result_object

STRANGE = "Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2Rr1Qq0Pp9Oo8Nn7M"
"""A key that is none of ours: 40 letters and digits."""

SHORT = "own-key-of-another-make"
"""A key that does not look like one. Redash makes none such, but its database may hold one."""

TEXT = f"no such column: {STRANGE}, {key('user')} or {SHORT}; see query 42"


class Redash:
    """Says `told` to everything but what leads to a run; there the job fails with `TEXT`."""

    def __init__(self) -> None:
        self.told = Stub.json({"message": TEXT}, 400)
        self.fails = "job"
        self.query = query_object(5)

    def __call__(self, seen: Seen) -> Stub:
        if self.fails == "all":
            return self.told
        if seen.path == "/api/queries/5":
            return Stub.json(self.query)
        if seen.path.startswith("/api/jobs/") or "/jobs/" in seen.path:
            return Stub.json({"job": {"id": "j", "status": 4, "error": TEXT, "query_result_id": None}})
        if seen.method == "POST" and self.fails == "job":
            return Stub.json({"job": {"id": "j", "status": 1, "error": "", "query_result_id": None}})
        return self.told


@pytest.fixture
def redash() -> Redash:
    return Redash()


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    (tmp_path / "short.key").write_text(SHORT)
    made.write(
        credential(tmp_path, "user"),
        credential(tmp_path, "short"),
        client("plain", EVERYTHING),
        client("open", EVERYTHING, "reveal_keys = true"),
    )
    SECRETS.update({key("user"), SHORT, STRANGE})
    async with made:
        yield made


def check(text: bytes | str, *, strange: bool = True) -> None:
    """Nothing in it is a key; the rest of the text is still there."""
    shown = text.decode() if isinstance(text, bytes) else text
    found = [secret for secret in (key("user"), SHORT, *([STRANGE] if strange else [])) if secret in shown]
    assert not found, shown
    assert "see query 42" in shown


async def test_a_jobs_error_shows_no_key(front: Front) -> None:
    job = (await front.call("POST", "/api/queries/5/results", {"max_age": 0}, client="plain")).job["id"]
    for path in (f"/api/jobs/{job}", f"/api/queries/5/jobs/{job}"):
        reply = await front.call("GET", path, client="plain", headers={"Prefer": "wait=10"})
        assert reply.job["status"] == 4
        check(reply.job["error"])


async def test_what_the_ledger_keeps_shows_no_key(tmp_path: Path, upstream: Upstream) -> None:
    made = Front(tmp_path, upstream.url)
    made.write(credential(tmp_path, "user"), credential(tmp_path, "short"), client("plain"))
    (tmp_path / "short.key").write_text(SHORT)
    made.file.write_text(made.file.read_text().replace('"memory:"', '"sqlite:cache.db"'))
    async with made as front:
        headers = {"Prefer": "wait=10"}
        await front.call("POST", "/api/queries/5/results", {"max_age": 0}, client="plain", headers=headers)
    files = [tmp_path / f"cache.db{end}" for end in ("", "-wal")]
    data = b"".join(file.read_bytes() for file in files if file.exists())
    assert b"see query 42" in data
    assert not [secret for secret in (STRANGE, SHORT, key("user")) if secret.encode() in data]


async def test_the_text_of_a_failed_query_shows_no_key(front: Front) -> None:
    reply = await front.call("GET", "/api/queries/5/results.csv?max_age=0", client="plain")
    assert reply.status == 422
    check(reply.json["detail"])


@pytest.mark.parametrize("shape", ["message", "job"])
async def test_a_refused_run_shows_no_key(front: Front, redash: Redash, shape: str) -> None:
    redash.fails = "post"
    job = {"job": {"status": 4, "error": TEXT}}
    redash.told = Stub.json(job if shape == "job" else {"message": TEXT}, 400)
    for method, path, body in (
        ("POST", "/api/queries/5/results", {"max_age": 0}),
        ("POST", "/api/query_results", {"query": "select 1", "data_source_id": 1, "max_age": 0}),
        ("GET", "/api/queries/5/results.json?max_age=0", None),
        ("GET", "/api/query_results/7.json", None),
    ):
        reply = await front.call(method, path, body, client="plain")
        assert reply.status == 400, path
        check(reply.body)


def relayed() -> list[tuple[str, str]]:
    parts = {"query_id": 5, "dropdown_id": 6, "id": 3, "id2": 4, "dashboard": 3, "token": "a" * 40, "word": "view"}
    parts |= {"database": "main", "table": "orders"}
    kinds = ("metadata", "live", "write")
    return [(r.method, r.template.format_map(parts)) for r in ROUTES if r.kind in kinds]


BODIES: dict[str, Callable[[], Any]] = {
    "message": lambda: {"message": TEXT},
    "list": lambda: [TEXT, {"errors": {"field": [TEXT]}}],
    "member names": lambda: {TEXT: 1, "x": TEXT},
}


@pytest.mark.parametrize("shape", BODIES)
@pytest.mark.parametrize("who", ["plain", "open"])
async def test_no_refusal_of_any_route_shows_a_key(front: Front, redash: Redash, who: str, shape: str) -> None:
    redash.fails = "all"
    for status in (400, 403, 404, 500):
        redash.told = Stub.json(BODIES[shape](), status)
        for method, path in relayed():
            reply = await front.call(method, path, {} if method == "POST" else None, client=who)
            assert reply.status == status, (method, path)
            check(reply.body)


@pytest.mark.parametrize("who", ["plain", "open"])
async def test_our_own_key_leaves_on_no_route(front: Front, redash: Redash, who: str) -> None:
    """Not even to those who may see keys: those are keys of Redash's users, this one is the gateway's."""
    redash.fails = "all"
    found = {**query_object(5), "api_key": key("user"), "description": TEXT, "widgets": []}
    for method, path in relayed():
        redash.told = Stub.json(found | {"id": 3 if "/dashboards/" in path else 5})
        reply = await front.call(method, path, {} if method == "POST" else None, client=who)
        assert reply.status == 200, (method, path)
        check(reply.body, strange=False)  # what people have written into their objects stays as it is
        assert reply.json["name"] == "Query 5"


def escaped(text: str) -> str:
    """JSON text with every letter escaped that stands within a string."""
    return re.sub(r'[A-Za-z0-9-](?=[^"]*"(?:[^"]*"[^"]*")*[^"]*$)', lambda m: f"\\u{ord(m[0]):04X}", text)


WRITTEN: dict[str, Callable[[str], bytes]] = {
    "escaped": lambda text: escaped(text).encode(),
    "hidden by a later member of that name": lambda text: text.replace(
        "{", f'{{"name": "{escaped_key()}", ', 1
    ).encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "UTF-16 and escaped": lambda text: escaped(text).encode("utf-16"),
}


def escaped_key() -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in key("user"))


@pytest.mark.parametrize("who", ["plain", "open"])
@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("status", [200, 400])
async def test_a_key_of_ours_is_found_however_it_is_written(
    front: Front, redash: Redash, who: str, way: str, status: int
) -> None:
    # Every reader of JSON undoes escapes, and RFC 8259 readers know UTF-16 and UTF-32 as well.
    redash.fails = "all"
    found = {**query_object(5), "api_key": key("user"), "description": TEXT, "widgets": []}
    # With keys and without, and a write; all routes have the same way (see the tests above).
    for method, path in (("GET", "/api/queries/5"), ("GET", "/api/data_sources"), ("POST", "/api/queries/5")):
        text = json.dumps(found)
        redash.told = Stub(status, WRITTEN[way](text))
        reply = await front.call(method, path, {} if method == "POST" else None, client=who)
        assert reply.status == status, (method, path)
        members = json.loads(reply.body)
        check(json.dumps(members, ensure_ascii=False), strange=False)
        assert key("user") not in re.sub(r"\\u(....)", lambda m: chr(int(m[1], 16)), reply.body.decode())
        assert members["name"] == "Query 5"


async def test_a_body_without_our_key_stays_as_it_is(front: Front, redash: Redash) -> None:
    # Clients that may see keys get Redash's own bytes, spaces and escapes included.
    redash.fails = "all"
    body = rb'{"id": 5,  "name": "\u00e9 \"x\" \/",   "api_key": "another"}'
    redash.told = Stub(200, body)
    assert (await front.call("GET", "/api/queries/5", client="open")).body == body


async def test_where_a_search_is_sent_shows_no_key(front: Front, redash: Redash) -> None:
    redash.fails = "all"
    fields = {"Content-Type": "application/json", "Location": f"/api/queries?q={key('user')}&x=see+query+42"}
    redash.told = Stub(301, b"{}", fields)
    reply = await front.call("GET", "/api/queries/search?q=x", client="plain")
    assert reply.status == 301
    check(reply.headers["Location"].replace("+", " "))


async def test_no_field_of_a_response_shows_a_key(front: Front, redash: Redash) -> None:
    redash.fails = "all"
    for text in (f"application/json; x={key('user')}", f"application/json; {SHORT}"):
        redash.told = Stub(200, b"{}", {"Content-Type": text})
        reply = await front.call("GET", "/api/data_sources", client="plain")
        assert not [value for value in reply.headers.values() if key("user") in value or SHORT in value]


async def test_the_name_of_a_file_shows_no_key_of_ours(front: Front, redash: Redash) -> None:
    redash.fails = "nothing"
    redash.told = Stub.json(result_object(7, 5))
    redash.query = query_object(5, name=TEXT, latest_query_data_id=7)
    reply = await front.call("GET", "/api/queries/5/results.json", client="plain")
    assert reply.status == 200
    assert key("user") not in reply.headers["Content-Disposition"]
    assert SHORT not in reply.headers["Content-Disposition"]


async def test_rows_are_data_even_if_they_hold_our_key(front: Front, redash: Redash) -> None:
    # DESIGN 5: result bodies are never touched.
    redash.fails = "rows"
    redash.told = Stub.json(result_object(7, 5, [{"text": key("user")}]))
    reply = await front.call("GET", "/api/query_results/7.json", client="plain")
    assert reply.rows == [{"text": key("user")}]


# -- the place itself


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_knows_our_keys_whatever_they_look_like(form: str) -> None:
    secret = Secret("an.own-key_1")
    plain = Secret("0wnkeyofletters")
    for text in (f"said {secret.reveal()}", plain.reveal(), f"x{plain.reveal()}y", f"a\n{secret.reveal()}"):
        record = logging.LogRecord("gateway.x", logging.INFO, "f", 1, "%s", (text,), None)
        record.fields = {"what": text}
        line = Formatter(form).format(record)
        assert secret.reveal() not in line
        assert plain.reveal() not in line


@pytest.mark.parametrize("clean", [body_without_own_keys, without_keys, refusal_without_keys])
@pytest.mark.parametrize("text", ['a"quoted"key', "a\\key\\of/ours", "schlüssel-für-redash"])
def test_a_key_of_signs_that_json_escapes_is_found(clean: Callable[[bytes], bytes], text: str) -> None:
    secret = Secret(text)
    value = {text: [f"see {text}", {"x": text}]}
    for data in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value).replace("/", "\\/")):
        assert json.loads(clean(data.encode())) == {"[key]": ["see [key]", {"x": "[key]"}]}
    assert secret.reveal() == text


def test_a_key_that_is_kept_no_more_is_forgotten() -> None:
    text = "once-a-key-of-ours"
    secret = Secret(text)
    assert text_without_keys(text) == "[key]"
    del secret
    assert text_without_keys(text) == text


def test_the_longer_of_two_keys_leaves_nothing_behind() -> None:
    kept = [Secret("kept-key-1"), Secret("kept-key-1-and-more"), Secret("")]
    assert text_without_keys("a kept-key-1-and-more b kept-key-1") == "a [key] b [key]"
    assert len(kept) == 3


def test_a_key_within_a_longer_word_is_found() -> None:
    secret = Secret(key("inner").lower())
    assert text_without_keys(f"abc{secret.reveal()}def") in ("[key]", "abc[key]def")
    assert json.dumps(text_without_keys(f"%3D{secret.reveal()}")).count(secret.reveal()) == 0
