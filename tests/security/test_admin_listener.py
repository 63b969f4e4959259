"""The admin listener before hostile pages and broken requests: as careful as the listener for callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.calls import ADMIN_TOKEN, AS_OPERATOR
from support.http import Reply, exchange, send

from gateway.http import connection

from .front import Front, Seen, Stub, Upstream, client, credential
from .wire import Wire, ask

HEAD = f"POST /purge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n".encode()


@pytest.fixture
def redash() -> object:
    def respond(seen: Seen) -> Stub:
        return Stub.json({"message": "Not found."}, 404)

    return respond


def configure(front: Front, *, hosts: str) -> None:
    front.write(credential(front.directory, "user"), client("one"), server=f"hosts = {hosts}")


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    configure(made, hosts='["*"]')
    async with made:
        yield made


def admin(front: Front) -> str:
    return front.runtime.admin_address.url


async def post(front: Front, path: str, body: bytes = b"", **headers: str) -> Reply:
    return await send(front.session, "POST", admin(front) + path, body, headers=AS_OPERATOR | headers)


# -- pages of other origins


@pytest.mark.parametrize("path", ["/reload", "/purge", "/metrics", "/api/status", "/", "/events"])
async def test_any_host_for_callers_is_not_any_host_for_the_admin_listener(front: Front, path: str) -> None:
    # A page whose name resolves to 127.0.0.1 (DNS rebinding) is of the same origin as what it asks.
    method = "POST" if path in ("/reload", "/purge") else "GET"
    headers = {"Host": "evil.example:8081", "Origin": "http://evil.example:8081"}
    async with asyncio.timeout(5):
        reply = await send(front.session, method, admin(front) + path, None, headers=headers)
    assert reply.status == 421


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LocalHost"])
async def test_the_names_of_loopback_are_known(front: Front, name: str) -> None:
    for host in (name, f"{name}:8081"):
        reply = await send(front.session, "GET", admin(front) + "/livez", None, headers={"Host": host})
        assert reply.status == 200


async def test_a_star_is_no_name(front: Front) -> None:
    assert (await send(front.session, "GET", admin(front) + "/livez", None, headers={"Host": "*"})).status == 421


async def test_hosts_that_are_named_are_known_beside_a_star(tmp_path: Path, upstream: Upstream) -> None:
    made = Front(tmp_path, upstream.url)
    configure(made, hosts='["gateway.example", "*"]')
    async with made as front:
        url = admin(front) + "/livez"
        assert (await send(front.session, "GET", url, None, headers={"Host": "gateway.example"})).status == 200
        assert (await send(front.session, "GET", url, None, headers={"Host": "evil.example"})).status == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
async def test_pages_of_other_origins_cannot_act(front: Front, origin: str) -> None:
    for path in ("/reload", "/purge"):
        reply = await post(front, path, b'{"all": true}', Origin=origin)
        assert reply.status == 403


# -- what cannot be parsed

SECRET_LINES = [
    b"Authorization Bearer " + ADMIN_TOKEN.encode(),
    b"Authorization: Bearer " + ADMIN_TOKEN.encode() + b"\x00",
    b"Authorization : Bearer " + ADMIN_TOKEN.encode(),
    b"Author\xffization: Bearer " + ADMIN_TOKEN.encode(),
    b"X: y\r\n : Bearer " + ADMIN_TOKEN.encode(),
    b"Authorization: " + ADMIN_TOKEN.encode() * 500,
]


@pytest.mark.parametrize("line", SECRET_LINES)
async def test_a_header_that_cannot_be_parsed_is_not_repeated(front: Front, line: bytes) -> None:
    # aiohttp's own response to a bad head shows the offending line, in the body and in the log.
    (got,) = await ask(admin(front), b"POST /reload HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n\r\n")
    assert got.status in (400, 431)
    assert ADMIN_TOKEN.encode() not in got.body
    assert got.field("Content-Type") == "application/problem+json"
    assert "aiohttp" not in got.field("Server").lower()


async def test_a_head_has_a_deadline(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    for partial in (b"GET", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "):
        async with await Wire.open(admin(front)) as wire:
            await wire.send(partial)
            assert await wire.closed(5) == b""


async def test_a_body_has_a_deadline_and_a_limit(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.request.BODY_SECONDS", 0.05)
    start = HEAD + b"Content-Length: "
    (got,) = await ask(admin(front), start + b'20\r\n\r\n{"all"')
    assert got.status == 400
    (got,) = await ask(admin(front), start + b"99999999\r\n\r\n{")
    assert got.status == 413


BODIES = {
    "not UTF-8": b'{"query": "\xff\xfe"}\xff',
    "deep": b"[" * 100_000,
    "deep object": b'{"query":' * 100_000,
    "not JSON": b"{",
    "no object": b"[1]",
    "long number": b'{"query": ' + b"9" * 10_000 + b"}",
    "number beyond SQLite's": b'{"query": 99999999999999999999}',
    "negative": b'{"query": -1}',
    "true": b'{"query": true}',
    "fraction": b'{"query": 1.5}',
    "dashboard beyond SQLite's": b'{"dashboard": 99999999999999999999}',
    "lone surrogate": b'{"scope": "\\ud800"}',
    "NaN": b'{"query": NaN}',
    "empty": b"",
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_means_nothing_is_400(front: Front, name: str) -> None:
    reply = await post(front, "/purge", BODIES[name])
    assert reply.status == 400, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert json.loads(reply.body)["detail"]


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", ";;=,", "text/plain;escaping=none;q=a"])
async def test_no_accept_field_breaks_the_metrics(front: Front, accept: str) -> None:
    reply = await send(front.session, "GET", admin(front) + "/metrics", None, headers={"Accept": accept})
    assert reply.status == 200


async def test_a_purge_with_an_expectation_gets_one_continue(front: Front) -> None:
    head = HEAD + b"Content-Length: 13\r\nExpect: 100-continue\r\n\r\n"
    async with await Wire.open(admin(front)) as wire:
        await wire.send(head)
        got = await wire.response()
        assert got is not None
        assert got.status == 100
        await wire.send(b'{"all": true}')
        got = await wire.response()
        assert got is not None
        assert (got.status, json.loads(got.body)) == (200, {"purged": 0})


# -- what responses say of their server


async def test_no_response_names_the_software_below(front: Front) -> None:
    requests = [("GET", path) for path in ("/", "/livez", "/readyz", "/metrics", "/api/status", "/none", "/purge")]
    requests += [("POST", "/livez"), ("POST", "/purge"), ("POST", "/reload"), ("HEAD", "/")]
    for method, path in requests:
        reply = await send(front.session, method, admin(front) + path, None, headers={})
        assert reply.headers["Server"] == "redash-gateway", (method, path)
    for url in (admin(front), front.url):
        for data in (b"GET / HTTP/3.0\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"):
            (got,) = await ask(url, data)
            assert got.field("Server") == "redash-gateway", data


@pytest.mark.parametrize("version", ["0.9", "1.0", "1.1", "1.2", "2.0", "3.0"])
async def test_no_response_claims_a_version_that_is_not_spoken(front: Front, version: str) -> None:
    # It repeated the version of the request: a client of HTTP/2 may take that for an agreement (RFC 9112 2.3).
    for url in (admin(front), front.url):
        for path in ("/livez", "/ping", "/nothing"):
            received = await exchange(
                url, f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode(), timeout=0.3
            )
            assert received.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), (url, path)
            assert received.startswith(b"HTTP/1.0 ") or version not in ("0.9", "1.0"), (url, path)


async def test_a_purge_goes_on_when_its_caller_leaves(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def purge(what: object) -> int:
        began.set()
        await go_on.wait()
        done.set()
        return 0

    monkeypatch.setattr(front.runtime.operations, "purge", purge)
    async with await Wire.open(admin(front)) as wire:
        await wire.send(HEAD + b'Content-Length: 13\r\n\r\n{"all": true}')
        await began.wait()
    go_on.set()
    async with asyncio.timeout(5):
        await done.wait()
