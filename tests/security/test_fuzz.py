"""Ten thousand odd requests: no 500, no traceback, no hang, and nothing odd reaches Redash."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.length import TIMES

from gateway.redash.routes import ROUTES

from .front import (
    EVERYTHING,
    SENT_FIELDS,
    Front,
    Seen,
    Stub,
    Upstream,
    client,
    credential,
    key,
    query_object,
    result_object,
    token,
)
from .wire import Wire

EXAMPLES = 60 * TIMES
BATCH = 40
"""Requests of one example: drawn together, sent over a few connections at once. 2 × 60 × 40 = 4,800."""

_ID = r"[1-9][0-9]{0,17}"
_PARTS = {
    "form": "(json|csv|tsv|xlsx|ndjson|parquet|arrow|html)",
    "job_id": "[0-9a-f-]{36}",
    "token": "[A-Za-z0-9]{40}",
    "dashboard": "[A-Za-z0-9_-]{1,200}",
    "word": "[a-z_]+",
}
UPSTREAM = [
    (route.method, re.compile(re.sub(r"\\\{(\w+)\\\}", lambda m: _PARTS.get(m[1], _ID), re.escape(route.template))))
    for route in ROUTES
]
"""What may be requested from Redash: the templates of the table with canonical parts."""

FIELDS = SENT_FIELDS | {"content-type", "content-length"}


def obliging(seen: Seen) -> Stub:
    if found := re.fullmatch(r"/api/queries/(\d+)", seen.path):
        parameters = [
            {"name": "n", "type": "number", "value": 1},
            {"name": "d", "type": "date-range", "value": "d_last_7_days"},
            {
                "name": "e",
                "type": "enum",
                "value": ["a"],
                "enumOptions": "a\nb",
                "multiValuesOptions": {"separator": ","},
            },
            {"name": "t", "type": "text", "value": "x"},
        ]
        return Stub.json(query_object(int(found[1]), options={"parameters": parameters}, latest_query_data_id=7))
    if found := re.search(r"results/(\d+)", seen.path):
        return Stub.json(result_object(int(found[1]), 1))
    if "results" in seen.path or seen.path.endswith("/refresh"):
        response: dict[str, Any] = result_object(7, 1)
        sent = seen.json if isinstance(seen.json, dict) else {}
        found = re.search(r"queries/(\d+)", seen.path)
        response["query_result"]["query"] = sent.get("query", f"select {found[1]}" if found else "")
        return Stub.json(response)
    return Stub.json({"id": 1})


def odd(seen: Seen) -> list[str]:
    """What is wrong with a request that reached Redash."""
    wrong = []
    if not any(seen.method == method and pattern.fullmatch(seen.path) for method, pattern in UPSTREAM):
        wrong.append("path")
    named = {unquote_plus(pair.partition("=")[0]) for pair in re.split("[&;]", seen.query)}
    if named & {"api_key", "signature", "expires", "user_id"}:
        wrong.append("credential argument")
    if seen.all("Authorization") != [f"Key {key('user')}"]:
        wrong.append("authorization")
    names = [name.lower() for name, _ in seen.fields]
    if set(names) - FIELDS or len(names) != len(set(names)):
        wrong.append(f"fields {names}")
    if seen.body:
        try:
            json.loads(seen.body)
        except ValueError:
            wrong.append("body")
    text = seen.target + repr(seen.fields) + repr(seen.body)
    return wrong + (["token"] if re.search(r"\brg_(?!x)\w", text) else [])


def filled(template: str, parts: tuple[str, ...]) -> str:
    """A template with these parts, whatever they are."""
    left = iter(parts)
    return re.sub(r"\{\w+\}", lambda _: next(left), template)


SEGMENTS = st.sampled_from(
    [
        "api",
        "queries",
        "query_results",
        "results",
        "results.json",
        "results.csv",
        "results.",
        "jobs",
        "dashboards",
        "my",
        "search",
        "tags",
        "refresh",
        "dropdown",
        "dropdowns",
        "session",
        "users",
        "public",
        "acl",
        "modify",
        "share",
        "fork",
        "1",
        "2",
        "007",
        "0",
        "-1",
        "+1",
        "1.json",
        "7.csv",
        "7.bogus",
        "1e3",
        "99999999999999999999",
        "%31",
        "%2e%2e",
        "..",
        ".",
        "",
        "%2f",
        "1%00",
        "a;b",
        "a\\b",
        "\u00e9",
        "sales-overview",
        "a" * 41,
        "t" * 40,
        "10f0dede-0a61-455b-ba85-243131c5b36e",
        "10F0DEDE-0A61-455B-BA85-243131C5B36E",
        "{query_id}",
        "__proto__",
        "*",
        "~",
    ]
) | st.text(max_size=6)
PATHS = st.one_of(
    st.sampled_from([route.template for route in ROUTES if route.kind != "events"]).flatmap(
        lambda template: st.tuples(*[SEGMENTS] * template.count("{")).map(lambda parts: filled(template, parts))
    ),
    st.sampled_from([route.template for route in ROUTES if route.kind != "events"]).map(
        lambda template: re.sub(
            r"\{(\w+)\}",
            lambda m: {
                "form": "json",
                "job_id": "10f0dede-0a61-455b-ba85-243131c5b36e",
                "token": "t" * 40,
                "dashboard": "sales",
                "word": "modify",
            }.get(m[1], "1"),
            template,
        )
    ),
    st.lists(SEGMENTS, max_size=6).map(lambda parts: "/" + "/".join(parts)),
    st.lists(SEGMENTS, max_size=4).map(lambda parts: "/api/" + "/".join(parts)),
    st.text(max_size=20),
)
NAMES = st.sampled_from(
    [
        "api_key",
        "api%5Fkey",
        "%61pi_key",
        "api_key%00",
        "signature",
        "expires",
        "user_id",
        "user%5fid",
        "q",
        "page",
        "page_size",
        "max_age",
        "p_n",
        "p_d",
        "p_d.start",
        "p_d.end",
        "p_e",
        "p_t",
        "p_x",
        "p_",
        "legacy",
        "api_key[]",
        ";api_key",
        "%26api_key",
        "&api_key",
        "x=1%26api_key",
    ]
) | st.text(max_size=5)
VALUES = st.sampled_from(
    [
        "",
        "1",
        "-1",
        "0",
        "1e9",
        "NaN",
        "rg_x",
        "x%26api_key=y",
        "%ff",
        "%00",
        "[1,2]",
        "[",
        "{",
        "d_now",
        "d_last_7_days",
        "9" * 400,
        "a%0d%0aX:y",
        "2024-01-01",
        "true",
        "null",
        '["a","b"]',
        "\u00fc",
        "%",
        "+",
        "--2024-01-01",
    ]
) | st.text(max_size=8)
QUERIES = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(lambda pairs: "&".join(f"{n}={v}" for n, v in pairs))
METHODS = st.sampled_from(
    ["GET"] * 6 + ["POST"] * 6 + ["HEAD", "DELETE", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "get", "FOO", "G E T"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "max_age",
                    "parameters",
                    "apply_auto_limit",
                    "query",
                    "data_source_id",
                    "query_id",
                    "n",
                    "d",
                    "t",
                    "start",
                    "api_key",
                ]
            )
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "max_age": JSON,
        "parameters": st.dictionaries(st.sampled_from("ndetx"), JSON, max_size=3) | JSON,
        "apply_auto_limit": JSON,
        "query": st.just("select 1") | JSON,
        "data_source_id": st.just(1) | JSON,
        "query_id": JSON,
    },
)
BODIES = st.one_of(
    MEMBERS.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps(value).encode()),
    MEMBERS.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    MEMBERS.map(lambda value: json.dumps(value).encode("utf-16")),
    st.binary(max_size=30),
    st.sampled_from(
        [
            b"",
            b"{",
            b"[" * 5_000,
            b'{"a":' * 5_000,
            b"1" * 5_000,
            b'{"max_age": ' + b"9" * 5_000 + b"}",
            b"\xef\xbb\xbf{}",
            b'{"max_age": 1e999}',
            b'{"max_age": -0.0}',
            b'{"max_age": "\\ud800"}',
            b'{"max_age": 1, "max_age": []}',
            b'{"parameters": {"\\u0000": "\\u0000"}}',
            b'{"parameters": {"d": {"start": 1, "end": [NaN]}}}',
            b'"x"',
            b"-",
            b"nul",
        ]
    ),
)
HEADERS = st.lists(
    st.sampled_from(
        [
            "Prefer: wait=0",
            "Prefer: wait=999999",
            "Prefer: wait=x",
            "Prefer: wait=\u0661",
            "Prefer: respond-async, wait=1",
            "Cookie: session=x",
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Host: evil",
            "Forwarded: for=x",
            "Connection: x-evil",
            "X-Evil: y",
            "X-HTTP-Method-Override: PUT",
            "If-None-Match: *",
            'If-None-Match: "',
            "Range: bytes=0-1",
            "Accept-Encoding: gzip;q=x, *;q=0",
            "Origin: null",
            "Origin: https://evil",
            "Access-Control-Request-Method: PUT",
            "X-Request-ID: a b",
            "X-Request-ID: " + "x" * 200,
            "X-Request-ID: ok-1",
            "traceparent: 00-0-0-0",
            "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            "Content-Type: text/xml",
            "Content-Encoding: gzip",
            "Accept: text/html",
            "TE: trailers",
            "Via: 1.1 x",
            "Proxy-Authorization: Key x",
            "User-Agent: \x7f",
            "Expect: x",
            "Max-Forwards: 0",
            "X: \u00e9",
        ]
    ),
    max_size=4,
)
GOOD = f"Authorization: Key {token('every')}"
TOKENS = st.sampled_from(
    [GOOD] * 8
    + [
        "",
        "Authorization:",
        "Authorization: Basic",
        "Authorization: Basic %%",
        "Authorization: Basic OnJnX3g=",
        "Authorization: Key",
        "Authorization: Key  x",
        "Authorization: Key rg_x",
        "Authorization: Bearer \u00e9",
        f"{GOOD}\r\n{GOOD}",
        f"Authorization: Bearer {token('every')}",
        f"Authorization: {token('every')}",
        f"Authorization: Key {token('bound')}",
    ]
)
SENT = st.tuples(
    st.just("POST"),
    st.sampled_from(
        [
            "/api/queries/1/results",
            "/api/queries/2/results",
            "/api/query_results",
            "/api/queries/1/refresh",
            "/api/queries",
            "/api/queries/1",
            "/api/dashboards/3/share",
            "/api/users",
        ]
    ),
    QUERIES,
    st.just(GOOD),
    HEADERS,
    BODIES,
) | st.tuples(
    st.just("GET"),
    st.sampled_from(["/api/queries/1/results.json", "/api/queries/1/results.csv", "/api/queries", "/api/dashboards/3"]),
    QUERIES,
    st.just(GOOD),
    HEADERS,
    st.just(b""),
)
REQUESTS = st.tuples(METHODS, PATHS, QUERIES, TOKENS, HEADERS, BODIES)
MIXED = REQUESTS | REQUESTS | SENT
"""Good requests among them: what an odd one leaves on a connection would harm the next."""


def encoded(request: tuple[str, str, str, str, list[str], bytes]) -> bytes:
    method, path, query, authorization, more, body = request
    target = (path + (f"?{query}" if query else "")).replace("\r", "").replace("\n", "").replace(" ", "%20")
    fields = ["Host: localhost", *([authorization] if authorization else []), *more, f"Content-Length: {len(body)}"]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode("utf-8", "surrogatepass") + body


class Traces(logging.Handler):
    """Collects what is logged as an error or with an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.lines.append(logging.Formatter().format(record))


class Rig:
    """One gateway for all examples of a test, in its own event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.upstream = Upstream(obliging)
        self.statuses: Counter[int] = Counter()
        self.reached = 0
        self.traces = Traces()

    def open(self) -> None:
        logging.getLogger().addHandler(self.traces)
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        directory = Path(self.directory.name)
        await self.upstream.__aenter__()
        self.front = Front(directory, self.upstream.url)
        every = client("every", EVERYTHING)
        self.front.write(
            credential(directory, "user"), every, client("bound", "queries = [1]"), server='max_wait = "1s"'
        )
        await self.front.start()

    def close(self) -> None:
        self.loop.run_until_complete(self._close())
        self.loop.close()
        self.directory.cleanup()
        logging.getLogger().removeHandler(self.traces)

    async def _close(self) -> None:
        await self.front.__aexit__()
        await self.upstream.__aexit__()

    def send(self, requests: list[bytes]) -> None:
        self.loop.run_until_complete(self._batch(requests))

    async def _batch(self, requests: list[bytes]) -> None:
        async with asyncio.timeout(30):
            await asyncio.gather(*(self._connection(requests[start::4]) for start in range(4)))
        assert self.traces.lines == [], self.traces.lines[0][:3000]
        for seen in self.upstream.drain():
            self.reached += 1
            assert odd(seen) == [], (odd(seen), seen)

    async def _connection(self, requests: list[bytes]) -> None:
        """One after the other on a connection that is used as long as the gateway keeps it open."""
        wire: Wire | None = None
        for request in requests:
            for _ in range(2):
                fresh, wire = wire is None, wire or await Wire.open(self.front.url)
                await wire.send(request)
                got = await wire.response(head=request.startswith(b"HEAD"), timeout=10)
                if got is not None:
                    break
                await wire.__aexit__()
                wire = None
                assert not fresh, (request, "closed without a response")
            assert got is not None
            self.statuses[got.status] += 1
            assert got.status not in (500, 599), (request, got)
            assert token("every").encode() not in got.body + repr(got.fields).encode(), (request, got)
            assert key("user").encode() not in got.body, (request, got)
            if got.field("Connection").lower() == "close" and wire is not None:
                await wire.__aexit__()
                wire = None
        if wire is not None:
            await wire.__aexit__()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.open()
    yield made
    made.close()


# Without shrinking: the request that caused the failure is in the message.
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    database=None,
)


@pytest.mark.timeout(240)
def test_requests_of_odd_grammar(rig: Rig) -> None:
    @FUZZ
    @given(st.lists(MIXED, min_size=BATCH, max_size=BATCH))
    def run(requests: list[tuple[str, str, str, str, list[str], bytes]]) -> None:
        rig.send([encoded(request) for request in requests])

    run()
    assert rig.statuses.total() >= EXAMPLES * BATCH * 0.9
    assert rig.reached > EXAMPLES


@pytest.mark.timeout(240)
def test_bodies_and_arguments_of_good_requests(rig: Rig) -> None:
    @FUZZ
    @given(st.lists(SENT, min_size=BATCH, max_size=BATCH))
    def run(requests: list[tuple[str, str, str, str, list[str], bytes]]) -> None:
        rig.send([encoded(request) for request in requests])

    run()
    assert rig.statuses.total() >= EXAMPLES * BATCH * 0.9
    assert rig.reached > 4 * EXAMPLES
