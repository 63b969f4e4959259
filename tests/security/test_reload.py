"""Hot reload: all or nothing, and what is revoked stops within one second everywhere (DESIGN 5, 10)."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from support.calls import AS_OPERATOR
from support.inside import open_requests, waiters
from support.process import certificate
from support.waiting import until, within

from gateway import config

from .front import EVERYTHING, Front, Seen, Stub, Upstream, client, credential, key, query_object, result_object, token
from .wire import Wire, ask

ROWS = 40_000


class Redash:
    """Responds with the name of the key in the request; runs end when `done` is set."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.rows: list[object] = []
        self.result = 700

    async def __call__(self, seen: Seen) -> Stub:
        who = seen.key[:6]
        if found := re.fullmatch(r"/api/queries/(\d+)", seen.path):
            return Stub.json(query_object(int(found[1]), description=who, latest_query_data_id=500))
        if seen.path.startswith("/api/jobs/"):
            status, rid = (3, self.result) if self.done.is_set() else (2, None)
            job = {"id": seen.path.rsplit("/", 1)[1], "status": status, "error": "", "query_result_id": rid}
            return Stub.json({"job": job})
        if seen.method == "POST" and b"100000000" in seen.body:
            return Stub.json(result_object(501, 5, [{"who": who}]))
        if seen.method == "POST":
            return Stub.json({"job": {"id": "10f0dede-0a61-455b-ba85-243131c5b36e", "status": 1, "error": ""}})
        if seen.path.endswith(".csv"):
            return Stub(200, f"who\r\n{who}\r\n".encode(), {"Content-Type": "text/csv; charset=UTF-8"})
        if found := re.search(r"/(\d+)\.\w+$", seen.path):
            return Stub.json(result_object(int(found[1]), 5, [{"who": who}, *self.rows]))
        if "/results" in seen.path:
            return Stub.json(result_object(500, 5, [{"who": who}, *self.rows]))
        return Stub.json({"who": who})


@pytest.fixture
def redash() -> Redash:
    return Redash()


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    configure(made, client("one"), client("two"))
    async with made:
        yield made


def configure(front: Front, *tables: str, **sections: str) -> None:
    front.write(credential(front.directory, "user"), credential(front.directory, "second"), *tables, **sections)


async def reload(front: Front) -> tuple[int, dict[str, object]]:
    url = f"{front.runtime.admin_address.url}/reload"
    async with front.session.post(url, headers=AS_OPERATOR) as response:
        return response.status, await response.json()


async def metric(front: Front, name: str) -> float:
    async with front.session.get(f"{front.runtime.admin_address.url}/metrics") as response:
        text = await response.text()
    return sum(float(v) for v in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


# -- all or nothing

MISTAKES = {
    "unknown key": "[server]\nnonsense = 1\n",
    "not TOML": "[[[",
    "unknown credential": client("three", credentials='"nobody"'),
    "bad hash": '[clients.three]\ntoken_sha256 = ["abc"]\ncredentials = ["user"]\n',
    "adhoc of a bound client": client("three", "queries = [1]", 'can = ["read", "adhoc"]'),
    "missing key file": '[credentials.third]\nkind = "user"\nkey_file = "/nonexistent/key"\n',
    "bad rate": client("three", 'rate = "many"'),
    "empty list": client("three", "queries = []"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_file_with_mistakes_changes_nothing(front: Front, mistake: str) -> None:
    # `one` would be revoked by it: it must not be, because the rest cannot be applied.
    configure(front, client("two"), client("new"), MISTAKES[mistake])
    status, body = await reload(front)
    assert status >= 400
    assert token("one") not in json.dumps(body)
    assert key("user") not in json.dumps(body)
    assert (await front.call("GET", "/api/session", client="one")).status == 200
    assert (await front.call("GET", "/api/session", client="new")).status == 401
    assert await metric(front, "redash_gateway_config_last_reload_successful") == 0
    configure(front, client("two"))
    assert (await reload(front))[0] == 200
    assert (await front.call("GET", "/api/session", client="one")).status == 401
    assert await metric(front, "redash_gateway_config_last_reload_successful") == 1


@pytest.mark.parametrize(
    "content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n"]
)
async def test_an_invalid_ca_file_changes_nothing(front: Front, content: str | None) -> None:
    file = front.directory / "ca.pem"
    if content is not None:
        file.write_text(content)
    configure(front, client("two"), upstream=f'ca_file = "{file}"')
    status, body = await reload(front)
    assert status >= 400
    assert "ca_file" in json.dumps(body)
    assert (await front.call("GET", "/api/session", client="one")).status == 200
    assert await metric(front, "redash_gateway_config_last_reload_successful") == 0


async def test_a_missing_file_changes_nothing(front: Front) -> None:
    front.file.unlink()
    assert (await reload(front))[0] >= 400
    assert (await front.call("GET", "/api/session", client="one")).status == 200


# -- tokens


async def test_a_revoked_token_is_refused_on_a_connection_that_stays_open(front: Front) -> None:
    request = f"GET /api/session HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token('one')}\r\n\r\n".encode()
    async with await Wire.open(front.url) as wire:
        await wire.send(request)
        got = await wire.response()
        assert got is not None
        assert got.status == 200
        configure(front, client("two"))
        assert (await reload(front))[0] == 200
        await wire.send(request)
        got = await wire.response()
        assert got is None or got.status == 401
    assert (await front.call("GET", "/api/session?api_key=" + token("one"), client=None)).status == 401
    assert (await front.call("GET", "/api/session", client="two")).status == 200


@pytest.mark.parametrize("how", ["gone", "another token", "expired"])
async def test_what_a_revoked_client_waits_for_ends_within_a_second(front: Front, redash: Redash, how: str) -> None:
    async def held(who: str, method: str, path: str, body: object) -> int:
        try:
            return (await front.call(method, path, body, client=who, headers={"Prefer": "wait=30"})).status
        except aiohttp.ClientError:
            return 0

    job = (await front.call("POST", "/api/queries/5/results", {"max_age": 0}, client="one")).job["id"]
    waiting = [
        asyncio.create_task(held("one", "POST", "/api/queries/6/results", {"max_age": 0})),
        asyncio.create_task(held("one", "GET", f"/api/jobs/{job}", None)),
        asyncio.create_task(held("one", "GET", "/api/queries/7/results.json?max_age=0", None)),
    ]
    other = asyncio.create_task(held("two", "POST", "/api/queries/6/results", {"max_age": 0}))
    await until(lambda: waiters(front.runtime) == 4)
    assert not any(task.done() for task in waiting)
    tables = {
        "gone": [],
        "another token": [client("one").replace(config.token_hash(token("one")), config.token_hash("rg_new"))],
        "expired": [client("one", "expires = 2020-01-01")],
    }[how]
    configure(front, client("two"), *tables)
    async with within(1.0):
        assert (await reload(front))[0] == 200
        statuses = await asyncio.gather(*waiting)
    assert set(statuses) <= {0, 401}
    assert not other.done()  # the run itself continues for clients that may wait for it
    redash.done.set()
    assert await asyncio.wait_for(other, 10) == 200


async def test_a_request_whose_body_is_still_arriving_is_checked_by_the_new_configuration(front: Front) -> None:
    body = b'{"max_age": 0}'
    top = f"POST /api/queries/5/results HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token('one')}\r\n"
    async with await Wire.open(front.url) as wire:
        await wire.send(f"{top}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        await until(lambda: open_requests(front.runtime) == 1)
        configure(front, client("two"))
        assert (await reload(front))[0] == 200
        await wire.send(body[5:])
        got = await wire.response()
        assert got is None or got.status == 401


@pytest.mark.parametrize("source", ["upstream", "store"])
async def test_a_large_download_stops_when_its_token_is_revoked(front: Front, redash: Redash, source: str) -> None:
    redash.rows = [{"text": "x" * 1000}] * ROWS
    if source == "store":
        assert (await front.call("GET", "/api/query_results/9.json", client="one")).status == 200
    async with await Wire.open(front.url, limit=1024) as wire:
        request = (
            f"GET /api/query_results/9.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token('one')}\r\n\r\n"
        )
        await wire.send(request.encode())
        first = await wire.reader.read(1000)
        assert b" 200 " in first
        configure(front, client("two"))
        assert (await reload(front))[0] == 200
        await until(lambda: not open_requests(front.runtime))
        rest = await wire.closed(10)
    # What is in the kernel's buffers was sent; the rest must not follow.
    assert len(first) + len(rest) < ROWS * 1000 * 0.75


async def test_a_client_may_have_two_tokens_and_one_may_be_removed(front: Front) -> None:
    both = client("one").replace('"]', f'", "{config.token_hash("rg_next_0123456789abcdef")}"]', 1)
    configure(front, both)
    assert (await reload(front))[0] == 200
    next_one = {"Authorization": "Bearer rg_next_0123456789abcdef"}
    assert (await front.call("GET", "/api/session", client="one")).status == 200
    assert (await front.call("GET", "/api/session", client=None, headers=next_one)).status == 200
    configure(
        front, client("one").replace(config.token_hash(token("one")), config.token_hash("rg_next_0123456789abcdef"))
    )
    assert (await reload(front))[0] == 200
    assert (await front.call("GET", "/api/session", client="one")).status == 401
    assert (await front.call("GET", "/api/session", client=None, headers=next_one)).status == 200


# -- rights

CHANGES = {
    "gone": [client("two")],
    "another token": [client("one").replace(config.token_hash(token("one")), config.token_hash("rg_new"))],
    "expired": [client("one", "expires = 2020-01-01")],
    "bound to another query": [client("one", "queries = [6]")],
    "may read nothing": [client("one", 'can = ["write"]')],
    "another credential": [client("one", credentials='"second"')],
    "no token in URLs": [client("one", "query_token = false")],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "target",
    [
        "/api/query_results/501.json",
        "/api/queries/5/results.json",
        "/api/queries/5/results/501.csv",
        "POST",
        "/api/queries/5",
    ],
)
async def test_fast_path_responses_end_with_the_permission(front: Front, change: str, target: str) -> None:
    """The same bytes again and again on one connection: no response may be from before the change."""
    configure(front, client("one"), cache='metadata_ttl = "60s"')
    assert (await reload(front))[0] == 200
    in_url = change == "no token in URLs"
    body = b'{"max_age": 100000000}' if target == "POST" else b""
    path = "/api/queries/5/results" if target == "POST" else target
    path += f"?api_key={token('one')}" if in_url else ""
    fields = [] if in_url else [f"Authorization: Key {token('one')}"]
    method = "POST" if body else "GET"
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *fields, f"Content-Length: {len(body)}", "", ""]
    request = "\r\n".join(lines).encode() + body
    async with await Wire.open(front.url) as wire, await Wire.open(front.url) as other:
        for _ in range(4):
            for connection in (wire, other):
                await connection.send(request)
                got = await connection.response()
                assert got is not None
                assert got.status == 200, got
        configure(front, *CHANGES[change], cache='metadata_ttl = "60s"')
        assert (await reload(front))[0] == 200
        for connection in (wire, other):
            await connection.send(request)
            got = await connection.response()
            if change == "another credential":
                assert got is None or b"user0K" not in got.body
            else:
                assert got is None or got.status in (401, 403, 404), got


async def test_a_token_expires_on_the_fast_path_too(front: Front) -> None:
    moment = datetime.fromtimestamp(front.clock.wall() + 20, UTC).replace(microsecond=0)
    configure(front, client("one", f"expires = {moment.isoformat().replace('+00:00', 'Z')}"))
    assert (await reload(front))[0] == 200
    request = (
        f"GET /api/query_results/501.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token('one')}\r\n\r\n"
    ).encode()
    async with await Wire.open(front.url) as wire:
        statuses = []
        for turn in (0, 0, 0, 0, 15, 10):
            front.clock.turn(turn)
            await wire.send(request)
            got = await wire.response()
            assert got is not None
            statuses.append(got.status)
    assert statuses == [200] * 5 + [401]


async def test_rates_count_fast_path_responses(front: Front) -> None:
    configure(front, client("one", 'rate = "6/m"', "burst = 6"))
    assert (await reload(front))[0] == 200
    request = (
        f"GET /api/query_results/501.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {token('one')}\r\n\r\n"
    ).encode()
    statuses, left = [], []
    async with await Wire.open(front.url) as wire:
        for _ in range(9):
            await wire.send(request)
            got = await wire.response()
            assert got is not None
            statuses.append(got.status)
            left.append(got.field("RateLimit").partition(";t=")[0])
    assert statuses == [200] * 6 + [429] * 3
    assert left[:6] == [f'"client";r={n}' for n in (5, 4, 3, 2, 1, 0)]


async def test_changed_permissions_apply_from_the_next_request_on(front: Front, redash: Redash) -> None:
    redash.done.set()
    assert (await front.call("POST", "/api/queries/5/results", {}, client="one")).status == 200
    assert (await front.call("GET", "/api/queries/5", client="one")).status == 200
    configure(front, client("one", 'can = ["execute"]', "queries = [6]"))
    assert (await reload(front))[0] == 200
    assert (await front.call("POST", "/api/queries/5/results", {}, client="one")).status == 403
    assert (await front.call("GET", "/api/queries/6", client="one")).status == 403
    assert (await front.call("POST", "/api/queries/6/results", {}, client="one")).status == 200
    configure(front, client("one", EVERYTHING))
    assert (await reload(front))[0] == 200
    assert (await front.call("GET", "/api/users", client="one")).status == 200


async def test_keys_revealed_before_a_reload_are_not_served_after_it(front: Front) -> None:
    configure(front, client("one", "reveal_keys = true"), cache='metadata_ttl = "60s"')
    assert (await reload(front))[0] == 200
    assert (await front.call("GET", "/api/queries/5", client="one")).json["api_key"] is not None
    configure(front, client("one"), cache='metadata_ttl = "60s"')
    assert (await reload(front))[0] == 200
    assert (await front.call("GET", "/api/queries/5", client="one")).json["api_key"] is None


async def test_nothing_of_a_rotated_keys_scope_is_served(front: Front, redash: Redash) -> None:
    """A new key may see less: what the old one fetched is not shown under it (DESIGN 1, scope)."""
    redash.done.set()
    seen_before = []
    job = (await front.call("POST", "/api/queries/5/results", {"max_age": 0}, client="one")).job["id"]
    done = (await front.call("GET", f"/api/jobs/{job}", client="one", headers={"Prefer": "wait=10"})).job
    rid = done["query_result_id"]
    paths = [
        "/api/queries/5",
        "/api/session",
        "/api/queries/5/results.json",
        f"/api/queries/5/results/{rid}.json",
        f"/api/query_results/{rid}",
        "/api/queries/5/results.json?max_age=-1",
        f"/api/query_results/{rid}.csv",
    ]
    for path in paths:
        reply = await front.call("GET", path, client="one")
        assert reply.status == 200, path
        seen_before.append(reply.body)
    assert all(b"user0K" in body for body in seen_before)
    (front.directory / "user.key").write_text(key("rotated"))
    assert (await reload(front))[0] == 200
    for path in paths:
        reply = await front.call("GET", path, client="one")
        assert b"user0K" not in reply.body, path
    held = await front.call("POST", "/api/queries/5/results", {}, client="one", headers={"Prefer": "wait=10"})
    assert b"user0K" not in held.body
    assert b"rotate" in held.body


async def test_a_run_under_the_old_key_is_not_joined_under_the_new(
    front: Front, redash: Redash, upstream: Upstream
) -> None:
    await front.call("POST", "/api/queries/5/results", {"max_age": 0}, client="one")
    upstream.drain()
    (front.directory / "user.key").write_text(key("rotated"))
    assert (await reload(front))[0] == 200
    await front.call("POST", "/api/queries/5/results", {"max_age": 0}, client="one")
    assert [seen.key[:6] for seen in upstream.log if seen.method == "POST"] == ["rotate"]


async def test_anonymous_is_served_only_while_it_is_configured(front: Front) -> None:
    anonymous = '[clients.anonymous]\ncredentials = ["second"]\n'
    assert (await front.call("GET", "/api/session", client=None)).status == 401
    configure(front, client("one"), anonymous)
    assert (await reload(front))[0] == 200
    assert (await front.call("GET", "/api/session", client=None)).json == {"who": "second"}
    assert (await front.call("GET", "/api/session", client="one")).json == {"who": "user0K"}
    # A wrong token does not make a client anonymous: its owner must learn that it is wrong.
    for headers in (
        {"Authorization": "Key rg_wrong"},
        {"Authorization": ""},
        {"Authorization": "Key"},
        {"Authorization": "Basic Og=="},
    ):
        assert (await front.call("GET", "/api/session", client=None, headers=headers)).status == 401, headers
    for query in ("?api_key=", "?api_key=rg_wrong", "?api%5fkey=x"):
        assert (await front.call("GET", f"/api/session{query}", client=None)).status == 401, query
    configure(front, client("one"))
    assert (await reload(front))[0] == 200
    assert (await front.call("GET", "/api/session", client=None)).status == 401


# -- limits


async def test_rates_are_shown_kept_over_a_reload_and_removed_by_one(front: Front) -> None:
    rated = client("one", 'rate = "6/m"', "burst = 3")
    configure(front, rated, client("two"))
    assert (await reload(front))[0] == 200
    left = []
    for _ in range(3):
        reply = await front.call("GET", "/api/session", client="one")
        assert reply.status == 200
        assert reply.headers["RateLimit-Policy"] == '"client";q=6;w=60'
        left.append(re.fullmatch(r'"client";r=(\d+);t=(\d+)', reply.headers["RateLimit"])[1])  # type: ignore[index]
    assert left == ["2", "1", "0"]
    assert (await reload(front))[0] == 200  # a reload does not refill an unchanged rate
    refused = await front.call("GET", "/api/session", client="one")
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert refused.headers["RateLimit"].startswith('"client";r=0;')
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert "RateLimit" not in (await front.call("GET", "/api/session", client="two")).headers
    front.clock.turn(11)
    assert (await front.call("GET", "/api/session", client="one")).status == 200
    configure(front, client("one"))
    assert (await reload(front))[0] == 200
    for _ in range(5):
        assert (await front.call("GET", "/api/session", client="one")).status == 200


async def test_executions_of_one_client_are_limited_and_hits_and_joins_are_not(front: Front, redash: Redash) -> None:
    configure(front, client("one", "max_executions = 2"), client("two"))
    assert (await reload(front))[0] == 200
    for query in (5, 6):
        assert (await front.call("POST", f"/api/queries/{query}/results", {"max_age": 0}, client="one")).status == 200
    refused = await front.call("POST", "/api/queries/7/results", {"max_age": 0}, client="one")
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await front.call("GET", "/api/queries/7/results.json?max_age=0", client="one")).status == 429
    assert (await front.call("POST", "/api/queries/6/results", {"max_age": 0}, client="one")).status == 200
    assert (await front.call("POST", "/api/queries/7/results", {"max_age": 0}, client="two")).status == 200
    assert (await front.call("POST", "/api/queries/7/results", {"max_age": 0}, client="one")).status == 200  # joins
    redash.done.set()
    job = (await front.call("POST", "/api/queries/6/results", {"max_age": 3600}, client="one")).json.get("job")
    if job is not None:
        await front.call("GET", f"/api/jobs/{job['id']}", client="one", headers={"Prefer": "wait=10"})
    assert (await front.call("POST", "/api/queries/8/results", {"max_age": 0}, client="one")).status == 200


# -- TLS


async def shown(front: Front) -> bytes:
    """The certificate that the listener presents now, DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = front.runtime.api_addresses[0]
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found
    finally:
        writer.close()
        await writer.wait_closed()


async def test_the_listeners_certificate_is_reloaded_and_a_bad_one_changes_nothing(
    tmp_path: Path, upstream: Upstream, needs: object
) -> None:
    needs("openssl")  # type: ignore[operator]
    first, second = certificate(tmp_path, "first"), certificate(tmp_path, "second")
    tls = 'tls_cert = "{}"\ntls_key = "{}"'
    front = Front(tmp_path, upstream.url)
    configure(front, client("one"), server=tls.format(*first))
    async with front:
        address = front.runtime.api_addresses[0]
        context = ssl.create_default_context(cafile=str(first[0]))
        url = f"https://localhost:{address.port}/api/session"
        headers = {"Authorization": f"Key {token('one')}"}
        async with front.session.get(url, headers=headers, ssl=context) as response:
            assert response.status == 200
        before = await shown(front)
        configure(front, client("one"), server=tls.format(*second))
        assert (await reload(front))[0] == 200
        after = await shown(front)
        assert before != after
        for bad in ((first[0], second[1]), (tmp_path / "none.pem", first[1]), (front.file, first[1])):
            configure(front, client("two"), server=tls.format(*bad))
            assert (await reload(front))[0] >= 400
            assert await shown(front) == after
        # Plain HTTP on the TLS listener gets no response.
        async with await Wire.open(f"http://127.0.0.1:{address.port}") as wire:
            await wire.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in await wire.closed(5)


async def test_old_tls_is_refused(tmp_path: Path, upstream: Upstream, needs: object) -> None:
    needs("openssl")  # type: ignore[operator]
    front = Front(tmp_path, upstream.url)
    configure(front, client("one"), server='tls_cert = "{}"\ntls_key = "{}"'.format(*certificate(tmp_path, "first")))
    async with front:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLS"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        address = front.runtime.api_addresses[0]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(address.host, address.port, ssl=context)


async def test_upstreams_certificate_is_verified(tmp_path: Path, redash: Redash, needs: object) -> None:
    """A man in the middle between gateway and Redash would get the key (DESIGN 5)."""
    needs("openssl")  # type: ignore[operator]
    cert, private = certificate(tmp_path, "redash")
    wrong_name = certificate(tmp_path, "elsewhere", host="redash.elsewhere.example")
    heard: list[str] = []

    async def respond(request: web.BaseRequest) -> web.Response:
        heard.append(request.headers.get("Authorization", ""))
        return web.json_response({"who": "tls"})

    async def serve(pair: tuple[Path, Path]) -> tuple[web.ServerRunner, int]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
        runner = web.ServerRunner(web.Server(respond, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        return runner, runner.addresses[0][1]

    runner, port = await serve((cert, private))
    other, other_port = await serve(wrong_name)
    try:
        front = Front(tmp_path, f"https://localhost:{port}")
        configure(front, client("one"))
        async with front:
            reply = await front.call("GET", "/api/session", client="one")
            assert reply.status == 502
            assert heard == []  # no key is sent without a trusted certificate
            configure(front, client("one"), upstream=f'ca_file = "{cert}"')
            assert (await reload(front))[0] == 200
            assert (await front.call("GET", "/api/session", client="one")).json == {"who": "tls"}
            front.url_upstream = f"https://localhost:{other_port}"  # trusted, but for another name
            heard.clear()
            configure(front, client("one"), upstream=f'ca_file = "{wrong_name[0]}"')
            assert (await reload(front))[0] == 200
            reply = await front.call("GET", "/api/queries/5", client="one")
            assert reply.status == 502
            assert heard == []
    finally:
        await runner.cleanup()
        await other.cleanup()


async def test_the_listener_still_serves_after_all_that(front: Front) -> None:
    for _ in range(5):
        configure(front, client("one"), client("two"))
        assert (await reload(front))[0] == 200
    got = await ask(front.url, b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert [response.status for response in got] == [200]
