"""What no proper client sends: smuggled requests, odd framing, slow and half-closed senders, aliases of paths.

RFC 9112 defines how a message is framed; a message with two readings must be refused (11.2). What is refused must not
reach Redash, and must not spoil the next connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.inside import connections, open_requests
from support.waiting import until

from gateway.http import connection, sending
from gateway.http import request as receiving

from .front import (
    EVERYTHING,
    SENT_FIELDS,
    Front,
    Responder,
    Seen,
    Stub,
    Upstream,
    client,
    credential,
    query_object,
    result_object,
    token,
)
from .wire import Got, Wire, ask

KEY = f"Authorization: Key {token('every')}"
HOST = "Host: localhost"
SQL = b'{"query": "select 1", "data_source_id": 1, "max_age": 0}'
SMUGGLED = f"GET /api/queries/66 HTTP/1.1\r\n{HOST}\r\n{KEY}\r\n\r\n".encode()


def obliging(seen: Seen) -> Stub:
    if seen.path.startswith("/api/queries/") and seen.path.count("/") == 3:
        return Stub.json(query_object(int(seen.path.rsplit("/", 1)[1])))
    if seen.method == "POST":
        return Stub.json(result_object(7, 1))
    return Stub.json({"count": 0, "page": 1, "page_size": 25, "results": []})


@pytest.fixture
def redash() -> Responder:
    return obliging


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    every = client("every", EVERYTHING)
    other = client("other", credentials='"second"')
    credentials = credential(tmp_path, "user") + credential(tmp_path, "second")
    made.write(credentials, every, other, cache='metadata_ttl = "0s"')
    async with made:
        yield made


def runs(log: list[Seen]) -> list[Seen]:
    """What callers sent; before a run, the gateway itself reads the data source."""
    return [seen for seen in log if seen.method == "POST"]


def head(start: str, *fields: str, host: str = HOST, end: str = "\r\n") -> bytes:
    return end.join([start, *([host] if host else []), *fields, "", ""]).encode("latin-1")


def get(target: str, *fields: str, host: str = HOST) -> bytes:
    return head(f"GET {target} HTTP/1.1", KEY, *fields, host=host)


def post(*fields: str, body: bytes = SQL) -> bytes:
    return head("POST /api/query_results HTTP/1.1", KEY, *fields) + body


async def refused(front: Front, upstream: Upstream, data: bytes, *statuses: int) -> list[Got]:
    """Send it: one clear error and nothing more, nothing reaches Redash, and the next connection is served."""
    got = await ask(front.url, data, quiet=0.1)
    assert [response.status for response in got] in [[status] for status in statuses or (400,)], got
    problem = json.loads(got[0].body) if got[0].body else {}
    if problem:
        assert problem["status"] == got[0].status
        assert problem["detail"]
        assert got[0].field("Content-Type") == "application/problem+json"
    assert token("every").encode() not in got[0].body
    assert [seen.target for seen in upstream.log] == []
    assert (await ask(front.url, get("/api/queries", "Connection: close")))[0].status == 200
    upstream.drain()
    return got


# -- framing

LENGTH = f"Content-Length: {len(SQL)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SQL), SQL)

FRAMING = {
    "length and chunked": post(LENGTH, CHUNKED, body=CHUNKS),
    "chunked and length": post(CHUNKED, "Content-Length: 5", body=CHUNKS),
    "two lengths": post(LENGTH, "Content-Length: 5"),
    "the same length twice": post(LENGTH, LENGTH),
    "a list of lengths": post(f"Content-Length: {len(SQL)}, {len(SQL)}"),
    "negative length": post("Content-Length: -1"),
    "signed length": post(f"Content-Length: +{len(SQL)}"),
    "hexadecimal length": post("Content-Length: 0x10"),
    "two numbers": post("Content-Length: 1 2"),
    "empty length": post("Content-Length:"),
    "length in other digits": post("Content-Length: \xb2"),
    "length with a dot": post(f"Content-Length: {len(SQL)}.0"),
    "length beyond 64 bits": post("Content-Length: 18446744073709551616"),
    "chunked last but not only": post("Transfer-Encoding: identity, chunked", body=CHUNKS),
    "chunked not last": post("Transfer-Encoding: chunked, identity", body=CHUNKS),
    "chunked twice": post("Transfer-Encoding: chunked, chunked", body=CHUNKS),
    "chunked in two fields": post(CHUNKED, CHUNKED, body=CHUNKS),
    "unknown coding": post("Transfer-Encoding: xchunked", body=CHUNKS),
    "quoted coding": post('Transfer-Encoding: "chunked"', body=CHUNKS),
    "coding after a vertical tab": post("Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "chunked behind a null": post("Transfer-Encoding: chunked\x00", body=CHUNKS),
    "compressed": post("Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "empty coding and length": post("Transfer-Encoding:", LENGTH),
    "blank before the colon": post(f"Content-Length : {len(SQL)}"),
    "tab before the colon": post(f"Content-Length\t: {len(SQL)}"),
    "obs-fold": post("Content-Length:", f" {len(SQL)}"),
    "folded field": head("GET /api/queries HTTP/1.1", "X-A: 1", "\tX-B: 2", KEY),
    "first field folded": head("GET /api/queries HTTP/1.1", " X-B: 2", KEY, host=""),
    "bare LF": head("GET /api/queries HTTP/1.1", KEY, end="\n"),
    "one bare LF": f"GET /api/queries HTTP/1.1\r\n{HOST}\n{KEY}\r\n\r\n".encode(),
    "bare LF at the end": f"GET /api/queries HTTP/1.1\r\n{HOST}\r\n{KEY}\r\n\n".encode(),
    "bare CR": f"GET /api/queries HTTP/1.1\r\n{HOST}\r\n{KEY}\rX: y\r\n\r\n".encode(),
    "field without colon": get("/api/queries", "nonsense"),
    "field without name": get("/api/queries", ": x"),
    "blank in a name": get("/api/queries", "X Y: x"),
    "null in a name": get("/api/queries", "X\x00Y: x"),
    "null in a value": get("/api/queries", "X: a\x00b"),
    "control in a value": get("/api/queries", "X: a\x01b"),
    "braces in a name": get("/api/queries", "X{}: x"),
    "non-ASCII in a name": get("/api/queries", "X\xe9: x"),
    "chunk of no number": post(CHUNKED, body=b"zz\r\n"),
    "chunk with a sign": post(CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n"),
    "negative chunk": post(CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk with 0x": post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk with an underscore": post(CHUNKED, body=b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    "chunk size behind a blank": post(CHUNKED, body=b" 5\r\nhello\r\n0\r\n\r\n"),
    "empty chunk size": post(CHUNKED, body=b"\r\nhello\r\n0\r\n\r\n"),
    "chunk beyond 64 bits": post(CHUNKED, body=b"fffffffffffffffff\r\nx"),
    "chunk longer than it says": post(CHUNKED, body=b"5\r\nhello!\r\n0\r\n\r\n"),
    "chunk ended by LF": post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"),
    "data ended by LF": post(CHUNKED, body=b"5\r\nhello\n0\r\n\r\n"),
    "LF in an extension": post(CHUNKED, body=b"5;x\ny\r\nhello\r\n0\r\n\r\n"),
    "bare CR in an extension": post(CHUNKED, body=b"5;x\ry\r\nhello\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", FRAMING)
async def test_two_readings_of_one_message_are_refused(front: Front, upstream: Upstream, name: str) -> None:
    # With a second request behind it, which one of the readings would accept.
    await refused(front, upstream, FRAMING[name] + SMUGGLED, 400, 501)


@pytest.mark.parametrize("name", [name for name in FRAMING if b"chunked\r\n\r\n" in FRAMING[name]])
async def test_a_body_that_breaks_its_framing_later_is_refused_at_once(
    front: Front, upstream: Upstream, name: str
) -> None:
    top, _, body = FRAMING[name].partition(b"\r\n\r\n")
    async with await Wire.open(front.url) as wire:
        await wire.send(top + b"\r\n\r\n")
        await asyncio.sleep(0.05)
        await wire.send(body + SMUGGLED)
        got = await wire.response(timeout=2)  # far below the deadline for bodies
        assert got is not None
        assert got.status in (400, 501)
        assert await wire.closed(2) == b""
    assert upstream.log == []


async def test_chunks_with_extensions_are_read(front: Front, upstream: Upstream) -> None:
    # RFC 9112 7.1.1: unknown extensions are ignored. They must not be passed on either.
    half = len(SQL) // 2
    body = b'%x;a=b;c="d"\r\n%s\r\n%x\r\n%s\r\n0;end\r\n\r\n' % (half, SQL[:half], len(SQL) - half, SQL[half:])
    (got,) = await ask(front.url, post(CHUNKED, body=body))
    assert got.status == 200
    (seen,) = runs(upstream.log)
    assert seen.json["query"] == "select 1"
    assert seen.all("Transfer-Encoding") == []


async def test_extensions_do_not_grow_for_ever(front: Front, upstream: Upstream) -> None:
    await refused(
        front, upstream, post(CHUNKED, body=b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"), 400, 431, 413
    )


async def test_trailers_are_no_fields(front: Front, upstream: Upstream) -> None:
    # RFC 9110 6.5.1: trailers are not merged into the fields; a token there would be another caller's.
    trailer = f"Authorization: Key {token('other')}\r\nHost: evil\r\nCookie: a=b\r\n".encode()
    body = CHUNKS[:-2] + trailer + b"\r\n"
    got = await ask(front.url, post(CHUNKED, body=body))
    assert got[0].status in (200, 400)
    for seen in upstream.log:
        assert seen.key.startswith("user")
        assert seen.all("Cookie") == []


async def test_trailers_do_not_grow_for_ever(front: Front, upstream: Upstream) -> None:
    trailer = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 4000) for n in range(500))
    await refused(front, upstream, post(CHUNKED, body=CHUNKS[:-2] + trailer + b"\r\n"), 400, 431, 413)


# -- start line and Host

START = {
    "HTTP/0.9": b"GET /api/queries\r\n\r\n",
    "no version": head("GET /api/queries", KEY),
    "HTTP/2": head("GET /api/queries HTTP/2.0", KEY),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": head("GET /api/queries HTTP/1.2", KEY),
    "HTTP/11": head("GET /api/queries HTTP/11", KEY),
    "lower-case version": head("GET /api/queries http/1.1", KEY),
    "lower-case method": head("get /api/queries HTTP/1.1", KEY),
    "tab": head("GET\t/api/queries HTTP/1.1", KEY),
    "blank in the target": head("GET /api/queries?q=a b HTTP/1.1", KEY),
    "something after the version": head("GET /api/queries HTTP/1.1 x", KEY),
    "method with signs": head("GE(T /api/queries HTTP/1.1", KEY),
    "absolute-form with a user": get("http://localhost@evil.example/api/queries"),
    "absolute-form of another scheme": get("ftp://localhost/api/queries"),
    "absolute-form of another": get("http://evil.example/api/queries"),
    "authority-form": get("localhost:80"),
    "asterisk-form": head("OPTIONS * HTTP/1.1", KEY),
    "CONNECT": head("CONNECT localhost:443 HTTP/1.1", KEY),
    "CONNECT with a path": head("CONNECT /api/queries HTTP/1.1", KEY),
    "TRACE": head("TRACE /api/queries HTTP/1.1", KEY),
    "OPTIONS": head("OPTIONS /api/queries HTTP/1.1", KEY),
    "TLS hello": bytes.fromhex("1603010200010001fc0303") + b"\0" * 64,
    "no Host": get("/api/queries", host=""),
    "two Hosts": get("/api/queries", "Host: localhost"),
    "two different Hosts": get("/api/queries", "Host: evil.example"),
    "another Host": get("/api/queries", host="Host: evil.example"),
    "another Host, first": get("/api/queries", HOST, host="Host: evil.example"),
    "a list of Hosts": get("/api/queries", host="Host: localhost, evil.example"),
    "empty Host": get("/api/queries", host="Host:"),
    "Host with a path": get("/api/queries", host="Host: localhost/x"),
    "Host with a user": get("/api/queries", host="Host: localhost@evil.example"),
    "Host with a user and a port": get("/api/queries", host="Host: localhost:80@evil.example"),
    "Host with a dot at the end": get("/api/queries", host="Host: localhost."),
    "Host that begins alike": get("/api/queries", host="Host: localhost.evil.example"),
    "two Authorizations": get("/api/queries", f"Authorization: Key {token('other')}"),
    "the same Authorization twice": get("/api/queries", KEY),
}


@pytest.mark.parametrize("name", START)
async def test_invalid_start_lines_and_hosts_are_refused(front: Front, upstream: Upstream, name: str) -> None:
    await refused(front, upstream, START[name], 400, 405, 421, 505)


async def test_absolute_form_of_our_own_host_is_served(front: Front, upstream: Upstream) -> None:
    # RFC 9112 section 3.2.2: a server must accept it, and ignore the Host beside it.
    for target, fields in (
        ("http://localhost/api/queries?page=2", ()),
        ("HTTP://LOCALHOST:8080/api/queries?page=2", ()),
        ("https://127.0.0.1/api/queries?page=2", ("Host: evil.example",)),
    ):
        got = await ask(front.url, get(target, *fields, "Connection: close", host=HOST if not fields else ""))
        assert [answer.status for answer in got] == [200]
        assert upstream.drain()[-1].target == "/api/queries?page=2"
    assert (await ask(front.url, get("http://localhost", "Connection: close")))[0].status == 404


# -- targets

ALIASES = [
    "/api/queries/01",
    "/api/queries/+1",
    "/api/queries/%201",
    "/api/queries/%31",
    "/api%2fqueries%2f1",
    "/api/queries%2f1",
    "//api/queries/1",
    "http://localhost//api/queries/1",
    "http://localhost/api/queries/1#x",
    "/api/queries/../queries/1",
    "/api/queries/%2e%2e/queries/1",
    "/api/./queries/1",
    "/api/%2e/queries/1",
    "/api//queries/1",
    "/api/queries/1/",
    "/api/queries/1%00",
    "/api/queries/1\x00",
    "/api/queries/1;x=1",
    "/api/queries;x/1",
    "/api\\queries\\1",
    "/api/queries/1%5c",
    "/api/queries/1#",
    "/api/queries/1#?api_key=x",
    "/api/queries/1%23",
    "/api/queries/1%3fx",
    "/api/queries/\xd9\xa1",
    "/api/queries/%D9%A1",
    "/API/queries/1",
    "/api/queries/1%0d%0aX:y",
    "/api/queries/1%0A",
    "/api/queries/1\x7f",
    "/api/queries/1\x01",
    "/api/queries/1.",
    "/api/queries/1/.",
    "/api/queries/1/..",
    "/..%2fapi/queries/1",
    "/api/queries/1%252e",
    "/%61pi/queries/1",
    "/api/querie%73/1",
    "/api/queries/1,2",
    "/api/queries/1_0",
    "/api/queries/0x1",
    "/api/queries/1e0",
    "/api/queries/\xb9",
    "/api/queries/1&x",
    "/api/queries/1=",
    "/api/queries/1|",
    "/api/queries/1^",
    "/api/queries/1`",
    '/api/queries/"1"',
    "/api/queries/<1>",
    "/api/queries/{1}",
    "api/queries/1",
    "?x",
    "*",
    "/api/queries/-1",
    "/api/queries/ 1",
    "/api/queries/1%",
    "/api/queries/1%zz",
    "/api/queries/1/..;/2",
    "/api/queries/..%c0%af1",
    "/api/queries/1\xc0\xaf",
]


@pytest.mark.parametrize("target", ALIASES)
async def test_aliases_of_a_path_are_refused(front: Front, upstream: Upstream, target: str) -> None:
    # CONTRACT 20.3: in Redash many of these reach query 1; one spelling can be checked, many cannot.
    await refused(front, upstream, get(target), 400, 404)


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "api%5Fkey",
        "api%5fkey",
        "%61pi_key",
        "a%70i%5Fke%79",
        "signature",
        "%73ignature",
        "expires",
        "user_id",
        "user%5Fid",
    ],
)
async def test_arguments_that_redash_treats_as_credentials_are_not_passed_on(
    front: Front, upstream: Upstream, name: str
) -> None:
    # CONTRACT 1 and 20.1: an `api_key` argument would override the header, an empty one would block it.
    for target in (
        f"/api/queries?q=1&{name}=x",
        f"/api/queries?{name}=x&{name}=",
        f"/api/queries?{name}",
        f"/api/queries?&&{name}=&q=1",
    ):
        (got,) = await ask(front.url, get(target, "Connection: close"))
        assert got.status == 200
    assert len(upstream.log) == 4
    for seen in upstream.log:
        assert seen.key.startswith("user")
        assert all(part in ("", "q=1") for part in seen.query.split("&")), seen.target


@pytest.mark.parametrize("name", ["api_key", "api%5Fkey", "%61pi%5fkey"])
async def test_the_token_argument_is_found_by_its_decoded_name(front: Front, upstream: Upstream, name: str) -> None:
    (got,) = await ask(front.url, head(f"GET /api/queries?{name}={token('other')} HTTP/1.1"))
    assert got.status == 200
    (seen,) = upstream.log
    assert seen.key.startswith("second")
    assert "rg_" not in seen.target


@pytest.mark.parametrize(
    "name",
    [
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-HTTP-Method",
        "X-Original-Method",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Uri",
        "X-Forwarded-Method",
    ],
)
async def test_override_fields_are_ignored_and_not_passed_on(front: Front, upstream: Upstream, name: str) -> None:
    (got,) = await ask(front.url, get("/api/queries/5", f"{name}: DELETE"))
    assert got.status == 200
    (seen,) = upstream.log
    assert (seen.method, seen.target) == ("GET", "/api/queries/5")
    assert seen.all(name) == []


async def test_only_the_gateways_own_fields_reach_redash(front: Front, upstream: Upstream) -> None:
    named = [
        "Cookie: session=abc",
        "X-Forwarded-For: 9.9.9.9",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Remote-User: admin",
        "Forwarded: for=9.9.9.9",
        "X-Redash-Key: x",
        "X-Real-IP: 9.9.9.9",
        "X-CSRF-Token: x",
        "X-Requested-With: XMLHttpRequest",
        "Proxy-Authorization: Key x",
        "JWT: x",
        "X-Amzn-Oidc-Data: x",
        "Keep-Alive: x",
        "TE: trailers",
        "Connection: x-secret, te",
        "X-Secret: 1",
        "Origin: https://evil",
        "Referer: x",
        "Range: bytes=0-1",
        "If-None-Match: x",
        "Accept-Language: de",
        "Via: 1.1 other",
        "Max-Forwards: 0",
        "From: a@b",
        "Proxy-Connection: keep-alive",
        "Content-Encoding: gzip",
        "User-Agent: mine",
        "Accept: text/html",
    ]
    (got,) = await ask(front.url, get("/api/queries/5", *named))
    assert got.status == 200
    (seen,) = upstream.log
    assert {name.lower() for name, _ in seen.fields} <= SENT_FIELDS
    assert seen.all("Host") == [upstream.url.removeprefix("http://")]
    assert "mine" not in seen.all("User-Agent")[0]
    assert "text/html" not in seen.all("Accept")[0]


# -- Expect, Upgrade


async def test_a_body_that_waits_for_100_is_read_once(front: Front, upstream: Upstream) -> None:
    async with await Wire.open(front.url) as wire:
        await wire.send(post(LENGTH, "Expect: 100-continue", body=b""))
        first = await wire.response()
        assert first is not None
        assert first.status == 100
        assert upstream.log == []
        await wire.send(SQL)
        second = await wire.response()
        assert second is not None
        assert second.status == 200
    assert len(runs(upstream.log)) == 1


async def test_other_expectations_never_become_a_second_request(front: Front, upstream: Upstream) -> None:
    got = await ask(front.url, post(LENGTH, "Expect: 200-ok") + get("/api/queries"))
    assert [response.status for response in got] in ([200, 200], [417], [417, 200])


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", "x"])
async def test_nothing_is_upgraded_and_a_body_stays_a_body(front: Front, upstream: Upstream, protocol: str) -> None:
    # RFC 9110 7.8: a server may ignore Upgrade. If the body were lost, `{}` would run instead of what was requested.
    more = [
        "Connection: Upgrade",
        f"Upgrade: {protocol}",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    got = await ask(front.url, post(LENGTH, *more))
    assert [response.status for response in got] in ([200], [400])
    for seen in runs(upstream.drain()):
        assert seen.json["query"] == "select 1"
        assert seen.all("Upgrade") == []
    got = await ask(front.url, get("/api/queries/5", *more) + SMUGGLED)
    assert got[0].status in (200, 400)
    assert all(response.status in (200, 400) for response in got)
    assert [seen.target for seen in upstream.log] in (["/api/queries/5"], ["/api/queries/5", "/api/queries/66"], [])
    assert (await ask(front.url, get("/api/queries")))[0].status == 200


UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
BLANK = SQL[:-1] + b"\r\n\r\n}"
BEFORE_OTHERS = {
    "get": get("/api/queries/1", *UPGRADE),
    "post": post(LENGTH, *UPGRADE),
    "post in chunks": post(CHUNKED, *UPGRADE, body=CHUNKS),
    "second of two": get("/api/queries/5") + get("/api/queries/1", *UPGRADE),
    "behind a body": post(LENGTH) + get("/api/queries/1", *UPGRADE),
    "two": get("/api/queries/1", *UPGRADE) * 2,
    "a blank line in a body": post(f"Content-Length: {len(BLANK)}", *UPGRADE, body=BLANK),
    "a large body": post("Content-Length: 300000", *UPGRADE, body=SQL.ljust(300_000)),
    "websocket": get("/api/queries/1", "Connection: Upgrade", "Upgrade: websocket"),
    "many": get("/api/queries/1") * 50 + get("/api/queries/1", *UPGRADE),
}


@pytest.mark.parametrize("name", BEFORE_OTHERS)
async def test_no_request_vanishes_behind_one_with_upgrade(front: Front, upstream: Upstream, name: str) -> None:
    # Java's HttpClient sends such requests by default. aiohttp's parser drops what it is given together with one.
    first = BEFORE_OTHERS[name]
    alone = len(await ask(front.url, first))
    upstream.drain()
    got = await ask(front.url, first + get("/api/queries/66") + get("/api/queries/67", "Connection: close"))
    if len(got) == alone + 2:
        assert upstream.log[-1].target == "/api/queries/67"
    else:
        assert got[-1].field("Connection") == "close"
    assert len(got) == alone + 2 or name in ("post in chunks", "a large body", "websocket", "many")


@pytest.mark.parametrize("name", ["get", "post", "a blank line in a body"])
async def test_nothing_vanishes_wherever_the_bytes_are_cut(front: Front, name: str) -> None:
    sent = BEFORE_OTHERS[name] + get("/api/queries/66") + get("/api/queries/67", "Connection: close")
    length = len(BEFORE_OTHERS[name])
    for cut in [*range(length - 6, length + 7), length - len(SQL) - 2]:
        async with await Wire.open(front.url) as wire:
            await wire.send(sent[:cut])
            await asyncio.sleep(0.002)  # another segment
            await wire.send(sent[cut:])
            assert [got.status for got in await wire.responses(quiet=5.0)] == [200] * 3, cut


@pytest.mark.parametrize("more", [(CHUNKED, *UPGRADE), (*UPGRADE, CHUNKED)])
async def test_a_broken_body_behind_an_upgrade_is_refused_at_once(
    front: Front, upstream: Upstream, more: tuple[str, ...]
) -> None:
    await refused(front, upstream, post(*more, body=b"zz\r\n" + SQL))


# -- sizes


async def test_a_long_target_is_414(front: Front, upstream: Upstream) -> None:
    await refused(front, upstream, get("/api/queries?q=" + "x" * 9_000), 414)
    await refused(front, upstream, get("/" + "x" * 70_000), 414)


async def test_a_field_of_64_kb_is_431(front: Front, upstream: Upstream) -> None:
    await refused(front, upstream, get("/api/queries", "X-Long: " + "x" * 65_536), 431)
    await refused(front, upstream, get("/api/queries", "X" * 65_536 + ": x"), 431)


async def test_64_kb_of_fields_are_431(front: Front, upstream: Upstream) -> None:
    await refused(front, upstream, get("/api/queries", *(f"X-{n}: {'x' * 2_000}" for n in range(40))), 431)


async def test_many_fields_are_431(front: Front, upstream: Upstream) -> None:
    await refused(front, upstream, get("/api/queries", *(f"X-{n}: 1" for n in range(5_000))), 431)


async def test_a_body_above_the_limit_is_413_and_no_part_of_it_is_a_request(front: Front, upstream: Upstream) -> None:
    body = b" " * 1_000_001 + SMUGGLED
    await refused(front, upstream, post(f"Content-Length: {len(body)}", body=body), 413)
    chunks = b"100000\r\n" + b" " * 0x100000 + b"\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    await refused(front, upstream, post(CHUNKED, body=chunks), 413)


@pytest.mark.parametrize("why", ["host", "authorization", "route", "method", "token", "path"])
async def test_the_body_of_a_refused_request_never_becomes_a_request(
    front: Front, upstream: Upstream, why: str
) -> None:
    start = {
        "route": "POST /api/nothing HTTP/1.1",
        "method": "PUT /api/queries/1 HTTP/1.1",
        "path": "POST //x HTTP/1.1",
    }
    fields = {"authorization": [KEY, KEY], "token": ["Authorization: Key rg_x"]}.get(why, [KEY])
    host = "Host: evil" if why == "host" else HOST
    first = head(
        start.get(why, "POST /api/query_results HTTP/1.1"), f"Content-Length: {len(SMUGGLED)}", *fields, host=host
    )
    got = await ask(front.url, first + SMUGGLED)
    assert len(got) == 1
    assert got[0].status in (400, 401, 404, 405, 421)
    assert upstream.log == []


# -- pipelining


async def test_pipelined_requests_are_answered_in_order_each_for_its_own_caller(
    front: Front, upstream: Upstream
) -> None:
    other = f"Authorization: Key {token('other')}"
    sent = b"".join(head(f"GET /api/queries/{n} HTTP/1.1", KEY if n % 2 else other) for n in range(1, 9))
    got = await ask(front.url, sent + head("GET /api/queries/9 HTTP/1.1") + get("/ping"), quiet=1)
    assert [response.status for response in got] == [200] * 8 + [401, 200]
    assert [json.loads(response.body)["id"] for response in got[:8]] == list(range(1, 9))
    keys = {seen.target: seen.key[:4] for seen in upstream.log}
    assert keys == {f"/api/queries/{n}": "user" if n % 2 else "seco" for n in range(1, 9)}


async def test_after_a_bad_request_nothing_more_of_the_connection_is_read(front: Front, upstream: Upstream) -> None:
    got = await ask(front.url, get("/api/queries/1") + b"GET /api/queries/2 HTTP/1.1\r\nX\r\n\r\n" + SMUGGLED)
    # aiohttp's parser drops what came with the bad request in one packet; then no request has reached Redash either.
    assert [response.status for response in got] in ([200, 400], [400])
    assert [seen.target for seen in upstream.log] == ["/api/queries/1"][: len(got) - 1]


async def test_a_flood_of_pipelined_requests_is_served_or_cut_and_harms_no_others(front: Front) -> None:
    async with await Wire.open(front.url) as wire:
        await wire.send(get("/ping") * 2_000)
        assert (await ask(front.url, get("/api/queries")))[0].status == 200
        responses = await wire.responses(quiet=1)
    assert {response.status for response in responses} == {200}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_known_requests_cut_and_joined_anywhere_are_the_same_requests(
    front: Front, upstream: Upstream, method: str
) -> None:
    """Repeated requests with the same bytes take the fast path, which must see the same messages."""
    body = b'{"max_age": 100000000}' if method == "POST" else b""
    path = "/api/queries/7/results" if body else "/api/query_results/7.json"
    known = head(f"{method} {path} HTTP/1.1", KEY, f"Content-Length: {len(body)}") + body
    upstream.respond = lambda seen: (
        Stub.json(query_object(7)) if seen.path == "/api/queries/7" else Stub.json(result_object(7, 7))
    )
    first = [await ask(front.url, known, quiet=0.05) for _ in range(4)]
    assert [[got.status for got in responses] for responses in first] == [[200]] * 4
    upstream.drain()
    for cut in range(1, len(known), 3):
        async with await Wire.open(front.url) as wire:
            await wire.send(known[:cut])
            await asyncio.sleep(0.001)
            await wire.send(known[cut:] + known)
            for _ in range(2):
                got = await wire.response()
                assert got is not None, cut
                assert (got.status, got.body) == (200, first[0][0].body), cut
    end = known.index(b"\r\n\r\n") + 4
    for data, statuses in (
        (known * 3, [200, 200, 200]),
        (known + b"GARBAGE\r\n\r\n", [200, 400]),
        (known + SMUGGLED.replace(b"/66", b"//6"), [200, 400]),
        (b"\r\n" + known + known, [200, 200]),
    ):
        async with await Wire.open(front.url) as wire:
            await wire.send(known)
            assert (await wire.response()) is not None
            await wire.send(data)
            received = [got.status for got in await wire.responses(quiet=0.2)]
        assert received in (statuses, statuses[-1:]), data
    if body:  # the known head, followed by other bytes in the place of its body
        async with await Wire.open(front.url) as wire:
            await wire.send(known[:end])
            await asyncio.sleep(0.05)
            await wire.send(SMUGGLED[: len(body)])
            got = await wire.response()
            assert got is not None
            assert got.status == 400
    assert upstream.log == []


# -- slow and half-closed senders


async def trickle(wire: Wire, data: bytes) -> None:
    """Arriving bytes do not move the deadline: it applies to the head as a whole."""
    while True:
        await asyncio.sleep(0.05)
        await wire.send(data)


async def test_a_slow_head_is_cut_off(front: Front, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)
    for first in (b"G", get("/api/queries")[:-2], b"\r\n" * 3 + b"GET /api"):
        async with await Wire.open(front.url) as wire:
            await wire.send(first)

            slowly = asyncio.create_task(trickle(wire, b"X: y\r\n" if first != b"G" else b"E"))
            try:
                received = await wire.closed(3)
            finally:
                slowly.cancel()
            assert received == b"" or b" 408 " in received or b" 400 " in received
    assert upstream.log == []
    assert (await ask(front.url, get("/api/queries")))[0].status == 200


async def test_a_slow_second_head_of_a_connection_is_cut_off(
    front: Front, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)
    async with await Wire.open(front.url) as wire:
        await wire.send(get("/ping"))
        assert await wire.response() is not None
        await wire.send(get("/api/queries")[:-2])
        await wire.closed(3)
    assert upstream.log == []


async def test_half_a_head_behind_a_whole_request_is_cut_off_as_idle(tmp_path: Path, upstream: Upstream) -> None:
    # It arrived while the first was served, so no deadline for heads runs: that for idle connections does.
    made = Front(tmp_path, upstream.url)
    made.write(credential(tmp_path, "user"), client("every"), server='idle_timeout = "400ms"\n')
    async with made, await Wire.open(made.url) as wire:
        await wire.send(get("/ping") + get("/api/queries")[:-2])
        assert await wire.response() is not None
        assert await wire.closed(3) == b""
    assert upstream.log == []


async def test_a_busy_connection_is_not_cut_off(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    async with await Wire.open(front.url) as wire:
        for _ in range(4):
            await wire.send(get("/api/queries"))
            assert (await wire.response()) is not None
            await asyncio.sleep(0.15)


async def test_a_silent_connection_is_closed(tmp_path: Path, upstream: Upstream) -> None:
    made = Front(tmp_path, upstream.url)
    made.write(credential(tmp_path, "user"), client("every"), server='idle_timeout = "400ms"\n')
    async with made, await Wire.open(made.url) as wire:
        assert await wire.closed(3) == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_slow_body_is_refused(
    front: Front, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, framing: str
) -> None:
    monkeypatch.setattr(receiving, "BODY_SECONDS", 0.4)
    async with await Wire.open(front.url) as wire:
        await wire.send(post(LENGTH if framing == "length" else CHUNKED, body=b""))
        for _ in range(4):
            await asyncio.sleep(0.05)
            await wire.send(SQL[:1] if framing == "length" else b"1\r\n{\r\n")
        got = await wire.response(timeout=3)
        assert got is not None
        assert got.status in (400, 408)
        assert b"did not arrive" in got.body
    assert upstream.log == []


async def test_a_slow_reader_is_cut_off(front: Front, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.5)
    rows = [{"x": "y" * 1000}] * 30_000
    upstream.respond = lambda seen: Stub.json(result_object(7, 1, rows))
    async with await Wire.open(front.url, limit=1024) as wire:
        await wire.send(get("/api/query_results/7.json"))
        await until(lambda: open_requests(front.runtime) == 1)
        await until(lambda: not open_requests(front.runtime))
        received = await wire.closed(5)
    assert b"200 OK" in received[:20]
    assert len(received) < 30_000_000
    assert (await ask(front.url, get("/ping")))[0].status == 200


async def test_half_closed_before_the_end_of_head_or_body_never_reaches_redash(
    front: Front, upstream: Upstream
) -> None:
    for data in (b"", b"GET", get("/api/queries")[:-2], post(LENGTH, body=SQL[:-1]), post(CHUNKED, body=CHUNKS[:-3])):
        async with await Wire.open(front.url) as wire:
            await wire.send(data)
            wire.writer.write_eof()
            received = await wire.closed(3)
            assert received == b"" or received.startswith(b"HTTP/1.1 400")
    assert upstream.log == []
    assert (await ask(front.url, get("/api/queries")))[0].status == 200


@pytest.mark.parametrize("times", [1, 3])
async def test_a_half_closed_caller_gets_its_responses(front: Front, upstream: Upstream, times: int) -> None:
    # It has sent all that it will, as `nc -N` does; RFC 9112 section 9.6 has servers close only after they responded.
    async with await Wire.open(front.url) as wire:
        await wire.send(post(LENGTH) * times)
        wire.writer.write_eof()
        received = await wire.closed(3)
    assert received.count(b"HTTP/1.1 200 OK") == times
    assert len(runs(upstream.log)) == times
    assert not open_requests(front.runtime)
    assert (await ask(front.url, get("/api/queries")))[0].status == 200


async def test_resets_in_the_middle_leave_nothing_behind(front: Front, upstream: Upstream) -> None:
    for data in (b"GET", get("/api/queries")[:-2], post(LENGTH, body=SQL[:-1])):
        wire = await Wire.open(front.url)
        await wire.send(data)
        wire.writer.transport.abort()
    await until(lambda: not connections(front.runtime))
    assert upstream.log == []
    assert (await ask(front.url, get("/api/queries")))[0].status == 200
