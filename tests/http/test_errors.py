"""What callers get when something is wrong: statuses, problem bodies, headers, CORS, request ids."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from multidict import CIMultiDict
from support.calls import TOKENS
from support.http import Reply, exchange
from support.inside import open_requests
from support.waiting import until
from support.world import World

from gateway import errors
from gateway.http import handler
from gateway.http.request import token_field
from gateway.policy.access import TOKEN_FIELDS

KEY = f"Authorization: Key {TOKENS['dashboard']}\r\n"


def problem(reply: Reply, status: int) -> dict[str, Any]:
    """Check that it is an error of the gateway itself: RFC 9457, with `message` for Redash's clients."""
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    members: dict[str, Any] = reply.json
    assert members["status"] == status
    assert members["message"] == members["detail"] != ""
    assert members["title"]
    assert members["request_id"] == reply.headers["X-Request-ID"]
    assert reply.headers["Cache-Control"] == "no-store"
    return members


async def raw(world: World, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Send a request unchanged; returns status, headers (lower case) and body of the first response."""
    received = await exchange(world.url, head.encode("latin-1") + b"\r\n" + body, timeout=3)
    top, _, rest = received.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split(" ")[1]), fields, rest


def get(target: str, *fields: str, host: str = "localhost") -> str:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{KEY}" + "".join(f"{f}\r\n" for f in fields)


# -- 400


@pytest.mark.parametrize(
    "target",
    [
        "/api/queries%2f1",
        "/api/queries/%31",
        "/api/queries/1%00",
        "/api/queries/1/../2",
        "/api/queries/./1",
        "/api/queries/%2e%2e/1",
        "//api/queries/1",
        "/api//queries/1",
        "/api/queries/1;x=1",
        "/api\\queries\\1",
        "/api/queries/1#x",
        "http://localhost//api/queries/1",
        "/api/queries/é",
    ],
)
async def test_aliases_of_paths_are_refused(world: World, target: str) -> None:
    # Many spellings lead to the same query in Redash (CONTRACT 20.3); one spelling can be checked, many cannot.
    status, fields, body = await raw(world, get(target))
    assert status == 400
    assert fields["content-type"] == "application/problem+json"
    assert json.loads(body)["message"]
    assert world.sandbox.counters.requests == 0


@pytest.mark.parametrize(
    "path", ["/api/queries/01", "/api/queries/+1", "/api/queries/0", "/api/Queries/1", "/api/queries/1/"]
)
async def test_other_spellings_of_ids_and_words_match_no_route(world: World, path: str) -> None:
    problem(await world.get(path), 404)
    assert world.sandbox.counters.requests == 0


async def test_two_authorization_headers_are_ambiguous(world: World) -> None:
    # Redash joins them and so refuses (CONTRACT 1); choosing one would be a guess.
    status, _, body = await raw(world, get("/api/queries", KEY.strip()))
    assert status == 400
    assert b"more than one Authorization" in body


@pytest.mark.parametrize("target", ["/api/queries?q=K\xc3\xb6ln", "/api/queries/\xe9", "/api/queries?q=\xff"])
async def test_raw_text_in_a_url_is_refused_with_a_hint(world: World, target: str) -> None:
    # RFC 3986 has ASCII only; what the bytes mean would be a guess, and another one in Redash.
    status, _, body = await raw(world, get(target))
    assert status == 400
    assert "percent-encod" in json.loads(body)["detail"].lower()
    assert world.sandbox.counters.requests == 0


async def test_tokens_in_two_fields_are_ambiguous(world: World) -> None:
    reply = await world.get("/api/queries", X_API_Key=TOKENS["second"])
    assert "X-API-Key" in problem(reply, 400)["detail"]


class Fields(CIMultiDict[str]):
    """The headers of a request, that remember which of them were looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)


def test_token_fields_names_every_header_that_can_bring_a_token() -> None:
    # `Vary`, CORS and the refusal of two tokens go by that list.
    fields = Fields()
    assert token_field(fields) is None
    assert fields.read == set(TOKEN_FIELDS), "policy/access.py: TOKEN_FIELDS and what http/request.py reads differ"


@pytest.mark.parametrize("given", ["%%%", "é", "w6k", "/w==", "a", "eDp5 eDp5", "\udc80"])
async def test_basic_credentials_that_cannot_be_decoded_are_400(world: World, given: str) -> None:
    # What is not ASCII was an internal error, for anybody.
    sent = f"GET /api/queries HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {given}\r\nConnection: close\r\n\r\n"
    received = await exchange(world.url, sent.encode("utf-8", "surrogateescape"))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"not base64" in received


async def test_every_way_to_bring_a_token(world: World) -> None:
    # Redash's own clients send `Key`; tools for spreadsheets and scripts know only Basic or a header of one value.
    token = TOKENS["dashboard"]
    for fields in (
        {"Authorization": f"Key {token}"},
        {"Authorization": f"Bearer {token}"},
        {"Authorization": token},
        {"X-API-Key": token},
        {"Authorization": basic("anybody", token)},
        {"Authorization": basic(token, "")},
        {"Authorization": basic(token, "x")},
    ):
        for _ in range(2):  # what was admitted once is remembered
            assert (await world.call("GET", "/api/session", client=None, headers=fields)).status == 200, fields
    for fields in ({"X-API-Key": f"{token}x"}, {"X-API-Key": ""}, {"Authorization": basic("x", "y")}):
        problem(await world.call("GET", "/api/session", client=None, headers=fields), 401)
    reply = await world.get("/api/session", client=None, X_API_Key=token)
    assert "X-API-Key" in reply.headers["Vary"]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_a_half_closed_caller_is_not_waited_for_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # One that has left altogether looks the same, until something is sent to it.
    monkeypatch.setattr(handler, "HALF_CLOSED_SECONDS", 0.1)
    world.sandbox.faults.add("hang", route="/api/queries")
    parts = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(get("/api/queries").encode() + b"\r\n")
    await until(lambda: open_requests(world.runtime) == 1)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await until(lambda: not open_requests(world.runtime))


@pytest.mark.parametrize("parameters", [[], "x", 5, None])
async def test_parameters_must_be_an_object(world: World, parameters: object) -> None:
    # CONTRACT 6: Redash responds 500 to null and lists.
    problem(await world.post("in_country", parameters=parameters), 400)
    assert world.sandbox.counters.posts.total() == 0


async def test_query_strings_that_are_not_text_are_400(world: World) -> None:
    problem(await world.get("/api/queries?q=%ff"), 400)


# -- 401


async def test_missing_unknown_and_expired_tokens_get_the_same_response(bare: World) -> None:
    # One text for all three: guessing tokens reveals nothing.
    await bare.start(second="expires = 2026-01-01")
    replies = [
        await bare.get("/api/queries", client=None),
        await bare.get("/api/queries", client=None, Authorization="Key rg_unknown"),
        await bare.get("/api/queries", client="second"),
        await bare.get("/api/queries?api_key=rg_unknown", client=None),
        await bare.get("/api/queries", client=None, Authorization=f"Key {bare.sandbox.user_keys['analyst']}"),
    ]
    errors = [problem(reply, 401) for reply in replies]
    assert len({(members["title"], members["detail"]) for members in errors}) == 1
    assert {reply.headers["WWW-Authenticate"] for reply in replies} == {"Key"}
    assert bare.sandbox.counters.requests == 0


async def test_unknown_routes_reveal_nothing_without_a_token(world: World) -> None:
    problem(await world.get("/api/nothing/here", client=None), 404)


# -- 403


@pytest.mark.parametrize(
    ("method", "path", "capability"),
    [
        ("POST", "/api/query_results", "adhoc"),
        ("POST", "/api/queries/1", "write"),
        ("DELETE", "/api/queries/1", "write"),
        ("POST", "/api/dashboards", "write"),
        ("GET", "/api/users", "admin"),
        ("POST", "/api/queries/1/regenerate_api_key", "admin"),
    ],
)
async def test_a_missing_capability_is_named(world: World, method: str, path: str, capability: str) -> None:
    members = problem(await world.call(method, path, {} if method == "POST" else None), 403)
    assert f"'{capability}'" in members["detail"]
    assert world.sandbox.counters.requests == 0


async def test_a_client_without_execute_runs_and_cancels_nothing(bare: World) -> None:
    await bare.start(second='can = ["read"]')
    query = f"/api/queries/{bare.named['above']}"
    for method, path in (
        ("POST", f"{query}/results"),
        ("POST", f"{query}/refresh"),
        ("GET", f"{query}/results.json?p_min_amount=1"),
        ("GET", f"{query}/results.json?max_age=0"),
        ("DELETE", "/api/jobs/00000000-0000-4000-8000-000000000000"),
    ):
        assert "'execute'" in problem(await bare.call(method, path, client="second"), 403)["detail"]
    assert bare.sandbox.counters.jobs == 0
    assert (await bare.get(f"{query}/results.json", client="second")).status == 200


@pytest.mark.parametrize(("name", "parameters"), [("customers_in_city", {"city": "x"}), ("undeclared", {"x": "1"})])
async def test_raw_sql_in_parameters_needs_more_than_execute(
    world: World, name: str, parameters: dict[str, str]
) -> None:
    # A text parameter, or a name without definition, lets the caller write SQL (CONTRACT 2, 20.10).
    members = problem(await world.post(name, max_age=0, parameters=parameters), 403)
    assert "text_parameters" in members["detail"]
    assert world.sandbox.counters.posts.total() == 0


async def test_query_key_clients_get_an_error_that_none_of_their_keys_can(world: World) -> None:
    problem(await world.post("by_country", client="narrow", max_age=0), 403)
    problem(await world.get("/api/queries", client="narrow"), 403)


# -- 404, 405, 413, 414, 421, 431


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/config", "/login", "/status.json", "/api/queries/1/nothing", "/sandbox/keys"]
)
async def test_paths_without_a_route_never_reach_redash(world: World, path: str) -> None:
    # Redash responds to unknown API paths with 200 and a page of HTML (CONTRACT 3).
    problem(await world.get(path), 404)
    assert world.sandbox.counters.requests == 0


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/queries/1/results", {"GET", "HEAD", "POST"}),
        ("PATCH", "/api/queries/1", {"GET", "HEAD", "POST", "DELETE"}),
        ("POST", "/api/query_results/1", {"GET", "HEAD"}),
        ("DELETE", "/api/query_results", {"POST"}),
        ("OPTIONS", "/api/queries", {"GET", "HEAD", "POST"}),
        ("TRACE", "/ping", {"GET", "HEAD"}),
    ],
)
async def test_other_methods_are_405_with_allow(world: World, method: str, path: str, allow: set[str]) -> None:
    # RFC 9110 15.5.6: Allow is required.
    reply = await world.call(method, path)
    problem(reply, 405)
    assert set(re.split(r", *", reply.headers["Allow"])) == allow
    assert world.sandbox.counters.requests == 0


async def test_a_body_above_the_limit_is_413_with_or_without_content_length(bare: World) -> None:
    await bare.start(server='max_request_body = "1KB"')
    body = json.dumps({"parameters": {"country": "x" * 2000}}).encode()
    path = f"/api/queries/{bare.named['in_country']}/results"
    problem(await bare.call("POST", path, body), 413)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{KEY}"
    status, _, body = await raw(bare, head, b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n")
    assert (status, json.loads(body)["status"]) == (413, 413)
    assert (await bare.post("in_country", parameters={"country": "DE"})).status == 200
    assert bare.sandbox.counters.posts.total() == 1


async def test_a_target_that_is_too_long_is_414(world: World) -> None:
    status, fields, body = await raw(world, get("/api/queries?q=" + "x" * 10_000))
    assert (status, json.loads(body)["status"]) == (414, 414)
    assert fields["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["X-Long", "Cookie", "Referer-URL"])
async def test_a_field_that_is_too_long_is_431(world: World, name: str) -> None:
    status, _, body = await raw(world, get("/api/queries", f"{name}: url line {'x' * 10_000}"))
    assert (status, json.loads(body)["status"]) == (431, 431)


async def test_too_many_fields_are_431(world: World) -> None:
    status, _, _ = await raw(world, get("/api/queries", *(f"X-{n}: y" for n in range(1000))))
    assert status == 431


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", "[::1]", ""]
)
async def test_other_host_names_are_misdirected(world: World, host: str) -> None:
    # A service on the loopback interface that adds keys to requests is a target for DNS rebinding.
    status, fields, body = await raw(world, get("/api/queries", host=host))
    assert (status, json.loads(body)["status"]) == (421, 421)
    assert fields["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "head",
    [
        "GET /ping HTTP/1.1\r\nHost: 10.0.0.7:8080\r\nConnection: close\r\n",
        "GET /ping HTTP/1.0\r\n",
        "HEAD /ping HTTP/1.0\r\nHost: balancer.internal\r\n",
    ],
)
async def test_load_balancers_ping_by_any_name(world: World, head: str) -> None:
    # They ask by address, or by no name at all; the response says nothing that a foreign page could use.
    status, _, _ = await raw(world, head)
    assert status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "localhost:8080", "127.0.0.1:1"])
async def test_configured_host_names_are_served_with_any_port(world: World, host: str) -> None:
    assert (await raw(world, get("/ping", host=host)))[0] == 200


POST = b"POST /api/queries/1/results HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /api/queries HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"GET /api/queries HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"BREW /ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/queries HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET  /api/queries\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
    ],
)
async def test_invalid_http_is_400_and_closed(world: World, sent: bytes) -> None:
    # RFC 9112 6.3: a message whose length is ambiguous must not be served, and the connection is closed.
    received = await exchange(world.url, sent, timeout=3)
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", received), received[:80]
    assert b"application/problem+json" in received
    assert len(re.findall(rb"HTTP/\d\.\d \d{3} ", received)) == 1
    assert world.sandbox.counters.requests == 0


# -- 406, 422, 429


async def test_a_failed_query_is_422_on_the_get_form(world: World) -> None:
    # A spreadsheet or pandas must see an error, not an empty table; the text is Redash's.
    members = problem(await world.get(f"/api/queries/{world.named['failing']}/results.csv?max_age=0"), 422)
    assert members["detail"] == "no such table: no_such_table"


async def test_a_client_over_its_rate_gets_429(bare: World) -> None:
    await bare.start(second='rate = "1/h"\nburst = 2')
    for _ in range(2):
        assert (await bare.get("/api/session", client="second")).status == 200
    reply = await bare.get("/api/session", client="second")
    problem(reply, 429)
    assert int(reply.headers["Retry-After"]) > 1000
    assert (await bare.get("/api/session")).status == 200


# -- 500 of Redash, 502, 503, 504


async def test_refusals_of_redash_are_passed_on_unchanged(world: World) -> None:
    # Its status and its JSON (CONTRACT 3): clients know these.
    reply = await world.get("/api/queries/99999")
    assert (reply.status, reply.headers["Content-Type"]) == (404, "application/json")
    assert reply.json["message"].startswith("The requested URL was not found")
    assert reply.cache.endswith("; detail=upstream_refused")  # whose 404 it is: the text does not say it
    posted = await world.post(99999, max_age=60)
    assert (posted.status, posted.cache) == (404, "redash-gateway; detail=upstream_refused")
    assert (await world.get("/api/nothing")).cache != reply.cache
    reply = await world.get("/api/queries?page=999")
    assert (reply.status, reply.headers["Content-Type"]) == (400, "application/json")
    reply = await world.get("/api/dashboards/no-such-slug")
    assert reply.status in (404, 500)
    assert reply.json["message"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [("html", 502), ("garbage", 502), ("reset_before_headers", 502), ("reset_in_body", 502), ("truncate", 502)],
)
@pytest.mark.parametrize(
    "path", ["/api/queries/1", "/api/queries", "/api/queries/1/results.json", "/api/query_results/1.csv"]
)
async def test_unusable_responses_are_502(world: World, kind: str, status: int, path: str) -> None:
    if kind == "garbage" and path.endswith(".csv"):
        return  # any bytes are a valid CSV
    world.sandbox.faults.add(kind)
    members = problem(await world.get(path), status)
    assert "Redash" in members["detail"]


@pytest.mark.parametrize("kind", ["html", "garbage", "reset_in_body", "truncate"])
async def test_an_unusable_response_to_a_post_is_502_and_nothing_is_stored(world: World, kind: str) -> None:
    fault = world.sandbox.faults.add(kind, route="/api/queries/<query_id>/results", method="POST")
    problem(await world.post("by_country", max_age=3600), 502)
    assert fault.hits == 1  # a POST that may have started a run is not sent twice
    world.sandbox.faults.clear()
    reply = await world.post("by_country", max_age=3600)
    assert reply.rows
    assert "hit" not in reply.cache


@pytest.mark.parametrize(("status", "expected"), [(502, 502), (503, 502), (504, 504)])
async def test_errors_of_a_proxy_before_redash_and_of_the_gateway_differ(
    world: World, status: int, expected: int
) -> None:
    world.sandbox.faults.add("status", status=status)
    members = problem(await world.get("/api/queries"), expected)
    assert str(status) in members["detail"]


async def test_a_key_that_redash_rejects_is_502(world: World) -> None:
    # CONTRACT 1: 404 "Please login". The caller cannot fix it; the operator sees it in metrics and log.
    world.sandbox.faults.add("reject_keys")
    members = problem(await world.get("/api/queries"), 502)
    assert "'analyst'" in members["detail"]
    assert await world.metric("redash_gateway_credential_up", credential="analyst") == 0
    world.sandbox.faults.clear()
    assert (await world.get("/api/queries?page=1")).status == 200
    assert await world.metric("redash_gateway_credential_up", credential="analyst") == 1


async def test_a_redash_that_hangs_is_504(bare: World) -> None:
    await bare.start(upstream='read_timeout = "200ms"')
    bare.sandbox.faults.add("hang")
    problem(await bare.get("/api/queries"), 504)


async def test_an_open_breaker_is_503_with_retry_after(bare: World) -> None:
    await bare.start(upstream='breaker_failures = 1\nbreaker_reset = "30s"')
    bare.sandbox.faults.add("status", status=503)
    await bare.get("/api/queries")
    requests = bare.sandbox.counters.requests
    reply = await bare.get("/api/dashboards")
    problem(reply, 503)
    assert 1 <= int(reply.headers["Retry-After"]) <= 30
    assert bare.sandbox.counters.requests == requests
    bare.sandbox.faults.clear()
    bare.clock.turn(31)
    assert (await bare.get("/api/dashboards")).status == 200


async def test_a_breaker_whose_probe_gets_any_response_closes(bare: World) -> None:
    # Redash responded, whatever the content: a page of HTML on one path must not keep all the others closed.
    await bare.start(upstream='breaker_failures = 1\nbreaker_reset = "30s"')
    bare.sandbox.faults.add("status", status=503, count=2)
    await bare.get("/api/queries")
    bare.sandbox.faults.clear()
    bare.sandbox.faults.add("html", count=1)
    bare.clock.turn(31)
    assert (await bare.get("/api/queries")).status == 502
    assert (await bare.get("/api/dashboards")).status == 200


async def test_a_waiting_caller_without_a_slot_in_time_gets_503(bare: World) -> None:
    await bare.start(upstream='max_executions = 1\nqueue_timeout = "200ms"')
    async with bare.sandbox.hold():
        await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0})
        reply = await bare.post("above", max_age=0, wait=10, parameters={"min_amount": 1})
        problem(reply, 503)
        assert int(reply.headers["Retry-After"]) >= 1


async def test_a_get_with_parameters_that_is_not_ready_after_nine_waits_is_503(bare: World) -> None:
    # A 202 with a job would be read as an empty table.
    await bare.start(server='max_wait = "0s"')
    path = f"/api/queries/{bare.named['above']}/results.csv?p_min_amount=7&max_age=60"
    async with bare.sandbox.hold():
        reply = await bare.get(path)
        assert reply.status == 307
        run = reply.headers["Location"].partition("&run=")[2]
        reply = await bare.get(path + f"&run={run}" * 8)
        problem(reply, 503)
        assert int(reply.headers["Retry-After"]) >= 1


# -- CORS


@pytest.mark.parametrize("path", ["/api/queries/1/results", "/api/jobs/00000000-0000-4000-8000-000000000000"])
async def test_preflights_need_no_token_and_never_reach_redash(bare: World, path: str) -> None:
    # A browser's preflight has no key, and Redash responds to it with 403 (CONTRACT 16).
    await bare.start(server='cors_origins = ["https://dash.example"]')
    headers = {"Origin": "https://dash.example", "Access-Control-Request-Method": "POST"}
    reply = await bare.call("OPTIONS", path, client=None, headers=headers)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["Access-Control-Allow-Origin"] == "https://dash.example"
    allowed = {name.strip().lower() for name in reply.headers["Access-Control-Allow-Headers"].split(",")}
    conditions = {"if-none-match", "range", "if-range"}
    assert allowed == {"authorization", "x-api-key", "content-type", "prefer", "traceparent"} | conditions
    assert "POST" in reply.headers["Access-Control-Allow-Methods"]
    assert "Origin" in reply.headers["Vary"]
    assert bare.sandbox.counters.requests == 0


async def test_other_origins_get_no_cors_headers(bare: World) -> None:
    await bare.start(server='cors_origins = ["https://dash.example"]')
    for origin in ("https://evil.example", "https://dash.example.evil.example", "http://dash.example", "null"):
        for method, more in (("OPTIONS", {"Access-Control-Request-Method": "GET"}), ("GET", {})):
            reply = await bare.call(method, "/api/session", headers={"Origin": origin, **more})
            assert not [name for name in reply.headers if name.lower().startswith("access-control-")]


async def test_responses_and_errors_can_be_read_across_origins(bare: World) -> None:
    await bare.start(server='cors_origins = ["https://dash.example"]')
    for path, status in (("/api/session", 200), ("/api/nothing", 404), ("/api/users", 403)):
        reply = await bare.get(path, origin="https://dash.example")
        assert reply.status == status
        assert reply.headers["Access-Control-Allow-Origin"] == "https://dash.example"
        exposed = {name.strip() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
        # A page must be able to name a download, slow down in time, and see where it was redirected to.
        assert exposed == {
            *("Age", "Cache-Status", "ETag", "Retry-After", "Preference-Applied", "X-Request-ID"),
            *("Content-Disposition", "Content-Range", "Location", "RateLimit", "RateLimit-Policy", "Server-Timing"),
            *("Accept-Ranges", "Content-Location"),
        }


SAFELISTED = {"cache-control", "content-language", "content-length", "content-type"}
"""Scripts can read these from every response (Fetch standard, "CORS-safelisted response-header name")."""

NOT_EXPOSED = {
    "connection": "only for the connection",
    "date": "not needed so far",
    "server": "not needed so far",
    "timing-allow-origin": "only for browsers",
    "vary": "only for caches",
    "x-content-type-options": "only for browsers",
}
"""Headers of a hit that scripts of other origins cannot read, and why."""


async def test_every_header_of_a_hit_is_exposed_to_other_origins_or_listed(bare: World) -> None:
    await bare.start(server='cors_origins = ["https://dash.example"]')
    path = f"/api/queries/{bare.named['by_country']}/results.json?max_age=60"
    for _ in range(2):
        reply = await bare.get(path, origin="https://dash.example", prefer="wait=10")
    assert "; hit" in reply.headers["Cache-Status"]
    exposed = {name.strip().lower() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
    sent = {name.lower() for name in reply.headers if not name.lower().startswith("access-control-")}
    unlisted = sorted(sent - exposed - SAFELISTED - NOT_EXPOSED.keys())
    assert unlisted == [], "http/head.py: add them to _EXPOSED, or say in NOT_EXPOSED why not"


# -- every error


def test_every_error_is_raised_or_used_somewhere() -> None:
    source = Path(errors.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in source.rglob("*.py") if path.name != "errors.py"]
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and kind is not errors.Body]
    assert [name for name in kinds if not any(re.search(rf"\b{name}\b", text) for text in texts)] == []


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_titles_are_words(kind: type) -> None:
    title = getattr(kind, "title", "Words")
    assert re.fullmatch(r"([A-Z]+|[A-Z]?[a-z]+)( [a-zA-Z]+)*", title), title


def test_every_error_says_what_it_is() -> None:
    # Without its own title it would be shown, and without its own reason counted, as an internal error.
    internal = {"GatewayError", "ConfigurationError", "StoreError"}  # no caller gets the last two
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and name not in internal}
    del kinds["Body"]
    assert [name for name, kind in kinds.items() if "reason" not in vars(kind)] == []
    assert [name for name, kind in kinds.items() if kind.title == errors.GatewayError.title] == []


# -- what every response has


@pytest.mark.parametrize("given", ["abc", "A-1_2.3:4", "x" * 128])
async def test_sane_request_ids_are_echoed(world: World, given: str) -> None:
    for path in ("/api/session", "/api/nothing", "/ping"):
        assert (await world.get(path, x_request_id=given)).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a/b", '"', "é", "<script>"])
async def test_other_request_ids_are_replaced(world: World, given: str) -> None:
    # They end up in logs and in the headers of others.
    status, fields, _ = await raw(world, get("/api/session", f"X-Request-ID: {given}"))
    assert status == 200
    assert re.fullmatch(r"[0-9a-f]{32}", fields["x-request-id"])


async def test_every_response_has_the_same_common_fields(world: World) -> None:
    # Redash's cookies, server name and policies stay inside (CONTRACT 4).
    for path in ("/api/session", "/api/queries/1/results", "/api/nothing", "/ping", "/api/queries/99999", "/api/users"):
        reply = await world.get(path)
        assert {"Authorization", "Accept-Encoding", "Prefer", "Origin"} <= set(reply.headers["Vary"].split(", "))
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Server"] == "redash-gateway"
        assert "Set-Cookie" not in reply.headers
        assert "Cookie" not in reply.headers["Vary"]
        assert reply.headers["X-Request-ID"]
        assert not [name for name in reply.headers if name.startswith(("Content-Security", "X-Frame", "X-XSS"))]


async def test_ping_needs_no_token(world: World) -> None:
    reply = await world.get("/ping", client=None)
    assert (reply.status, reply.body) == (200, b"PONG.")
    assert world.sandbox.counters.requests == 0


@pytest.mark.parametrize(
    ("status", "path", "reason"),
    [(401, "/api/queries", "unauthorized"), (404, "/api/nothing", "not_found"), (400, "/api//queries", "bad_request")],
)
async def test_errors_are_counted_by_reason(world: World, status: int, path: str, reason: str) -> None:
    before = await world.metric("redash_gateway_rejected_total", reason=reason)
    assert (await world.call("GET", path, client=None)).status == status
    assert await world.metric("redash_gateway_rejected_total", reason=reason) == before + 1
