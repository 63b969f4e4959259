"""No key of Redash gets out, no token of a client gets in: after a varied load all output is searched."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support.calls import TOKENS
from support.http import Reply, exchange
from support.waiting import until
from support.world import World

from gateway.telemetry import log
from gateway.telemetry.log import Formatter

FAULTS = (
    "reset_before_headers",
    "reset_after_headers",
    "reset_in_body",
    "truncate",
    "html",
    "garbage",
    "status",
    "reject_keys",
)


class LogRecords(logging.Handler):
    """All log records of the process, in both log formats."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._formatters = [Formatter("text"), Formatter("json")]
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [formatter.format(record) for formatter in self._formatters]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogRecords]:
    handler, root = LogRecords(), logging.getLogger()
    level = root.level
    forms = [log.AccessLines("text"), log.AccessLines("json")]
    # Access log lines bypass `logging`: they go straight to the process's own writer.
    monkeypatch.setattr(log, "parts_of_line", forms[0].parts_of)
    monkeypatch.setattr(
        log,
        "write_requests",
        lambda told, ahead: handler.lines.extend(line for f in forms for line in f.of(told, ahead)),
    )
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def upstream_keys(world: World) -> set[str]:
    """All that gives access to Redash: users' and queries' keys and the tokens of shared dashboards."""
    boards = {token for board in world.sandbox.database.dashboards.values() for token in board.tokens}
    queries = {query.api_key for query in world.sandbox.queries.values()}
    return set(world.sandbox.user_keys.values()) | queries | boards


def spellings(secret: str) -> set[bytes]:
    """The plain text, and its encodings in headers and URLs."""
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    return {secret.encode(), basic.encode(), quote(secret, safe="").encode()}


def found_in(secrets: set[str], *texts: bytes) -> list[tuple[str, bytes]]:
    """Which secret stands where (the text around it)."""
    return [
        (secret[:8], text[max(0, at - 80) : at + len(needle) + 20])
        for secret in secrets
        for needle in spellings(secret)
        for text in texts
        if (at := text.find(needle)) >= 0
    ]


def files_below(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def as_bytes(reply: Reply) -> bytes:
    head = "\r\n".join(f"{name}: {value}" for name, value in reply.headers.items())
    return f"{reply.status}\r\n{head}\r\n\r\n".encode() + reply.body


class Load:
    """A varied load; `received` is everything that callers got."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.received: list[bytes] = []

    async def call(
        self, method: str, path: str, body: object = None, *, client: str | None = "dashboard", **headers: str
    ) -> Reply:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await self.world.call(method, path, body, client=client, headers=fields)
        self.received.append(as_bytes(reply))
        return reply

    async def raw(self, sent: bytes) -> None:
        self.received.append(await exchange(self.world.url, sent, timeout=0.2))

    async def successes(self) -> None:
        world, named = self.world, self.world.named
        for client in ("dashboard", "second", "sql", "writer"):
            for path in (
                "queries",
                "queries/1",
                "dashboards",
                "dashboards/1",
                "dashboards/2",
                "alerts",
                "alerts/1",
                "session",
            ):
                await self.call("GET", f"/api/{path}", client=client)
            for path in (
                "queries/my",
                "queries/recent",
                "queries/favorites",
                "queries/archive",
                "data_sources",
                "queries/tags",
            ):
                await self.call("GET", f"/api/{path}", client=client)
        for name, parameters in (("by_country", {}), ("in_country", {"country": "FR"}), ("failing", {}), ("large", {})):
            for client in ("dashboard", "narrow") if name == "in_country" else ("dashboard",):
                body = {"max_age": 0, "parameters": parameters}
                reply = await self.call("POST", f"/api/queries/{named[name]}/results", body, client=client)
                job = await world.finish(reply.job["id"], client=client)
                await self.call("GET", f"/api/jobs/{reply.job['id']}", client=client)
                await self.call(
                    "POST", f"/api/queries/{named[name]}/results", {"parameters": parameters}, client=client
                )
                for form in ("json", "csv", "xlsx"):
                    path = f"/api/queries/{named[name]}/results/{job['query_result_id']}.{form}"
                    await self.call("GET", path, client=client)
        body = {"query": "select 'x' as api_key", "data_source_id": 1, "max_age": 0}
        await self.call("POST", "/api/query_results", body, client="sql", prefer="wait=10")

    async def writes(self) -> None:
        made = await self.call(
            "POST",
            "/api/queries",
            {"name": "n", "query": "select 1", "data_source_id": 1, "options": {}},
            client="writer",
        )
        number = made.json["id"]
        await self.call("POST", f"/api/queries/{number}", {"name": "m"}, client="writer")
        await self.call("POST", f"/api/queries/{number}/fork", client="writer")
        await self.call("POST", "/api/dashboards/1/share", client="writer")
        await self.call("GET", "/api/dashboards/1", client="writer")
        await self.call("DELETE", "/api/dashboards/1/share", client="writer")
        await self.call("DELETE", f"/api/queries/{number}", client="writer")

    async def refusals(self) -> None:
        token = TOKENS["dashboard"]
        for path in (
            "/api/queries/99999",
            "/api/users",
            "/api/nothing",
            "/api/queries?page=999",
            "/api/queries/01",
            f"/{token}",
        ):
            await self.call("GET", path)
        for body in (b"{", b"[1]", b'{"max_age": "abc"}', b'{"parameters": []}', token.encode()):
            await self.call("POST", "/api/queries/1/results", body)
        for wrong in (
            f"Key {token}x",
            f"Key  {token}",
            f"Basic {token}",
            f"Token {token}",
            "",
            f"Key {token}, Key {token}",
        ):
            await self.call("GET", "/api/queries", client=None, Authorization=wrong)

    async def tokens_in_odd_places(self) -> None:
        token = TOKENS["dashboard"]
        basic = base64.b64encode(f"user:{token}".encode()).decode()
        for authorization in (f"Bearer {token}", token, f"Basic {basic}", f"Key {token}"):
            await self.call("GET", "/api/session", client=None, Authorization=authorization)
        for query in (
            f"api_key={token}",
            f"api%5Fkey={token}",
            f"api_key={token}&api_key={token}&page=1",
            f"page=1&api_key={token}",
        ):
            await self.call("GET", f"/api/queries?{query}", client=None)
            await self.call("POST", f"/api/queries/1/results?{query}", {"max_age": 0}, client=None, prefer="wait=10")
        for query in (f"signature={token}", f"user_id={token}", f"expires={token}", f"api_key={token}"):
            await self.call("GET", f"/api/queries?{query}")
        fields = (
            "Cookie",
            "X-Redash-Key",
            "X-Api-Key",
            "X-Forwarded-Remote-User",
            "X-Forwarded-For",
            "Forwarded",
            "Referer",
            "User-Agent",
            "Proxy-Authorization",
            "Via",
            "Origin",
            "X-Request-ID",
            "traceparent",
            "tracestate",
            "Accept",
        )
        above = f"/api/queries/{self.world.named['above']}"
        for number, name in enumerate(fields):  # nothing of it is stored or joined: each request goes to Redash
            value = f"session={token}" if name == "Cookie" else token
            await self.call("GET", f"/api/queries?page_size={number + 30}", **{name: value})
            body = {"max_age": 0, "parameters": {"min_amount": number}}
            await self.call("POST", f"{above}/results", body, prefer="wait=10", **{name: value})
        await self.call("POST", "/api/queries/1/results", {"max_age": 0, "api_key": token, "token": token})

    async def malformed(self) -> None:
        token = TOKENS["dashboard"].encode()
        key = b"Authorization: Key " + token + b"\r\n"
        head = b"GET /api/queries HTTP/1.1\r\nHost: localhost\r\n" + key
        for sent in (
            head + b"no colon " + token + b"\r\n\r\n",
            head + b"X\x00Y: " + token + b"\r\n\r\n",
            head + key + b"\r\n",
            head + b"Long: " + token * 400 + b"\r\n\r\n",
            b"GET /api/queries?api_key=" + token + b"&q=" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /api/queries?api_key=" + token + b" HTTP/9.9\r\nHost: localhost\r\n" + key + b"\r\n",
            b"GET http://" + token + b"@localhost/api/queries HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /api/queries?api_key=" + token + b" HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"POST /api/queries/1/results?api_key="
            + token
            + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
            b"POST /api/queries/1/results HTTP/1.1\r\nHost: localhost\r\n"
            + key
            + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
            + token,
            token + b"\r\n\r\n",
        ):
            await self.raw(sent)

    async def upstream_faults(self) -> None:
        for number, kind in enumerate(FAULTS):
            self.world.clock.turn(400)
            self.world.sandbox.faults.add(kind, status=500 + number % 5)
            for path in (
                "/api/queries",
                f"/api/queries/{number + 1}",
                "/api/queries/1/results",
                "/api/query_results/1.csv",
            ):
                await self.call("GET", path)
            for max_age in (0, 3600):
                await self.call("POST", "/api/queries/1/results", {"max_age": max_age})
            self.world.sandbox.faults.clear()
        await self.world.sandbox.disconnect()
        await self.call("GET", "/api/queries")
        await self.world.sandbox.reconnect()

    async def all(self) -> None:
        for part in (
            self.successes,
            self.writes,
            self.refusals,
            self.tokens_in_odd_places,
            self.malformed,
            self.upstream_faults,
        ):
            await part()


async def admin_pages(world: World) -> list[bytes]:
    pages = []
    for path in ("/metrics", "/api/status", "/readyz", "/livez", "/", "/nothing"):
        async with world.session.get(world.admin + path) as response:
            pages.append(await response.read())
    return pages


@pytest.fixture
async def loaded(bare: World, told: LogRecords, by_fast_path: list[bytes]) -> Load:
    await bare.start(upstream='read_timeout = "2s"\nbreaker_failures = 1000', writer='stale_if_error = "0s"')
    bare.runtime.telemetry.observer.access_log = True
    load = Load(bare)
    await load.all()
    for _ in range(5):
        load.received.append(as_bytes(await bare.post("by_country", max_age=86_400)))
    assert by_fast_path
    return load


async def test_no_secret_appears_anywhere_after_a_varied_load(loaded: Load, told: LogRecords, tmp_path: Path) -> None:
    world = loaded.world
    keys, tokens = upstream_keys(world), set(TOKENS.values())
    assert len(loaded.received) > 150
    assert len(told.lines) > 150
    lines = "\n".join(told.lines).encode()
    pages = await admin_pages(world)
    # 1. what callers got: no key of Redash (CONTRACT 15), and no token echoed
    assert found_in(keys | tokens, *loaded.received) == []
    # CONTRACT 4: Redash sets two cookies on every response; they stay inside
    assert not [text for text in loaded.received if b"set-cookie" in text.lower() or b"csrf_token" in text.lower()]
    # 2. logs, exceptions included
    assert found_in(keys | tokens, lines) == []
    # 3. metrics and status
    assert found_in(keys | tokens, *pages) == []
    # 4. what is on the disk, while it runs and after it
    for _ in range(2):
        files = files_below(tmp_path)
        assert "gateway.db" in files
        assert len(files) > 1  # the large result is a file of its own
        assert found_in(keys | tokens, *files.values()) == []
        await world.stop()
    await world.resume()


async def test_no_token_reaches_redash(loaded: Load) -> None:
    # CONTRACT 20.1, 20.2: neither in a header, nor in the URL, nor in a cookie; exactly one key of the gateway's.
    world = loaded.world
    log = list(world.sandbox.log)
    assert len(log) > 150
    sent = [
        b"\r\n".join(
            [f"{r.method} {r.path_qs}".encode(), *(f"{n}: {v}".encode() for n, v in r.headers.items()), r.body]
        )
        for r in log
    ]
    assert found_in(set(TOKENS.values()), *sent) == []
    keys = {f"Key {key}" for key in upstream_keys(world)}
    assert {r.headers["Authorization"] for r in log} <= keys
    forbidden = {
        "cookie",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-remote-user",
        "x-redash-key",
    }
    assert not [name for r in log for name in r.headers if name.lower() in forbidden]
    assert not [r.path_qs for r in log if "api_key" in r.path_qs or "signature" in r.path_qs or "user_id" in r.path_qs]


async def test_a_result_column_may_be_called_api_key(world: World) -> None:
    # Only metadata is cleaned; what a query returns is the caller's data and is passed on byte for byte.
    body = {"query": "select 'mine' as api_key, 'too' as public_url", "data_source_id": 1, "max_age": 0}
    reply = await world.call("POST", "/api/query_results", body, client="sql", headers={"Prefer": "wait=10"})
    assert reply.rows == [{"api_key": "mine", "public_url": "too"}]


async def test_reveal_keys_shows_keys_that_other_clients_do_not_see(bare: World) -> None:
    await bare.start(second="reveal_keys = true")
    path = f"/api/queries/{bare.named['by_country']}"
    for client, shown in (("second", bare.sandbox.query_key(bare.named["by_country"])), ("dashboard", None)) * 2:
        assert (await bare.get(path, client=client)).json["api_key"] == shown


@pytest.mark.parametrize("form", ["text", "json"])
async def test_keys_and_tokens_in_exceptions_are_removed_from_the_log(world: World, form: str) -> None:
    key, token = world.sandbox.user_keys["analyst"], TOKENS["dashboard"]
    try:
        raise ValueError(f"no such header: Authorization: Key {key} for https://x/api/queries?api_key={token}&a=1")
    except ValueError as error:
        record = logging.LogRecord(
            "gateway.x",
            logging.ERROR,
            "x",
            1,
            "failed: %s",
            (f"{token} {key}",),
            (ValueError, error, error.__traceback__),
        )
    line = Formatter(form).format(record)
    assert "ValueError" in line
    assert found_in({key, token}, line.encode()) == []
    if form == "json":
        assert json.loads(line)["level"] == "error"


async def test_an_internal_error_reveals_nothing_to_the_caller(
    world: World, told: LogRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = world.sandbox.user_keys["analyst"]

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"boom with {secret}")

    monkeypatch.setattr(world.runtime.results.definitions, "get", broken)
    reply = await world.post("by_country", max_age=0)
    assert reply.status == 500
    assert b"boom" not in reply.body
    assert any("boom" in line for line in told.lines)
    assert found_in({secret}, as_bytes(reply), "\n".join(told.lines).encode()) == []


async def test_a_caller_that_hangs_up_leaves_no_trace_of_its_token(world: World, told: LogRecords) -> None:
    world.runtime.telemetry.observer.access_log = True
    token = TOKENS["dashboard"].encode()
    async with world.sandbox.hold():
        parts = world.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(parts[0], int(parts[1]))
        body = b'{"max_age": 0}'
        head = b"POST /api/queries/1/results?api_key=" + token + b" HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=30\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await world.sandbox.wait_executions(1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: any('"status": 499' in line for line in told.lines))
    assert found_in(set(TOKENS.values()), "\n".join(told.lines).encode()) == []
