"""The fast path gives the same responses as the normal path, byte for byte, and stops at once when they would differ.

Raw sockets throughout: the fast path parses requests itself, and their split into segments matters, too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import socket
import tempfile
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from unittest import mock
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.calls import TOKENS
from support.client_requests import client_requests
from support.clocks import StandingClock
from support.inside import cached_bytes, connections, deny, prepared_responses, unrecorded
from support.waiting import until
from support.world import World

import gateway.http.api
import gateway.http.connection
import gateway.http.request
import gateway.http.response
from gateway.body import Body
from gateway.http import response_cache, sending
from gateway.http.connection import Connection
from gateway.http.handler import Handler
from gateway.http.response_cache import ResponseCache
from gateway.model import Entry, ReuseTerms
from gateway.outcome import Outcome
from gateway.sandbox import Sandbox
from gateway.telemetry import log

pytestmark = pytest.mark.standing_clock

DAY: Final = 86_400


async def settled() -> None:
    """Let the event loop, in which the gateway runs, read what has arrived and finish what can be finished at once."""
    for _ in range(4):
        await asyncio.sleep(0)


class Got(msgspec.Struct, frozen=True):
    """One response as it was on the wire."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def fields(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.body)["query_result"]["data"]["rows"]
        return rows


class Wire:
    """One connection, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *segments: bytes) -> None:
        """Send each segment on its own: between two of them the gateway, in the same loop, reads what has arrived."""
        for segment in segments:
            self.writer.write(segment)
            await settled()

    async def got(self, method: str = "GET") -> Got | None:
        """One whole response, without 100 (Continue); None when the other side has closed instead."""
        async with asyncio.timeout(10):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 100 "):
                    head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            status = head.split(b" ", 2)[1]
            bare = method == "HEAD" or status in (b"204", b"304")
            size = 0 if bare or found is None else int(found[1])
            try:
                return Got(head, await self.reader.readexactly(size))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def ask(self, *segments: bytes) -> Got:
        """Send one request and return its response."""
        await self.send(*segments)
        got = await self.got(segments[0].split(b" ", 1)[0].decode())
        assert got is not None, "closed without a response"
        return got

    async def closed(self) -> bool:
        """Wait until the other side closes; False if it sends something instead."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def wire(world: World, *, buffer: int | None = None) -> AsyncIterator[Wire]:
    """A connection to the gateway; `buffer` makes the receive buffer small, for slow readers."""
    parts = urlsplit(world.url)
    plug = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if buffer is not None:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, (parts.hostname, parts.port))
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader, writer = await asyncio.open_connection(sock=plug, limit=1 << 16)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def request(
    method: str,
    target: str,
    *fields: str,
    body: object = None,
    client: str = "dashboard",
    version: str = "1.1",
) -> bytes:
    """The bytes of one request; `body` is JSON unless it is bytes."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    length = [f"Content-Length: {len(data)}"] if body is not None else []
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", f"Authorization: Key {TOKENS[client]}"]
    return "\r\n".join([*lines, *fields, *length, "", ""]).encode() + data


def post(world: World, name: str, *fields: str, client: str = "dashboard", **body: object) -> bytes:
    return request("POST", f"/api/queries/{world.named[name]}/results", *fields, body=body, client=client)


def latest(world: World, name: str, *fields: str, form: str = "json", client: str = "dashboard") -> bytes:
    return request("GET", f"/api/queries/{world.named[name]}/results.{form}", *fields, client=client)


async def learnt(line: Wire, sent: bytes, by_fast_path: list[bytes]) -> Got:
    """Repeat a request until the fast path serves it; returns its response."""
    for _ in range(6):
        before = len(by_fast_path)
        got = await line.ask(sent)
        if len(by_fast_path) > before:
            return got
    raise AssertionError(f"the fast path never served it: {got.head!r}")


async def learnt_in_parts(world: World, by_fast_path: list[bytes]) -> tuple[bytes, bytes]:
    """Repeat a request, head and body in separate segments, until the fast path serves it; returns the two."""
    head, mark, body = post(world, "kb1", max_age=DAY).partition(b"\r\n\r\n")
    async with wire(world) as line:
        for _ in range(4):
            await line.ask(head + mark, body)
    assert by_fast_path
    return head + mark, body


async def never_learnt(line: Wire, sent: bytes, by_fast_path: list[bytes], *, times: int = 5) -> list[Got]:
    """Repeat a request; the fast path must never serve it."""
    before = len(by_fast_path)
    found = [await line.ask(sent) for _ in range(times)]
    assert len(by_fast_path) == before, "the fast path served it"
    return found


# -- what the fast path learns, and what it never does


async def test_learns_a_request_from_the_second_time_on(world: World, by_fast_path: list[bytes]) -> None:
    # Requests that come only once must not evict those that come all day.
    sent, seen = post(world, "kb1", max_age=DAY), []
    async with wire(world) as line:
        for _ in range(5):
            got = await line.ask(sent)
            seen.append(("hit" in got.fields.get("cache-status", ""), len(by_fast_path)))
    assert seen == [(False, 0), (True, 0), (True, 0), (True, 1), (True, 2)]


KINDS: Final[dict[str, Callable[[World], bytes]]] = {
    "post": lambda w: post(w, "kb1", max_age=DAY),
    "post-100-kb": lambda w: post(w, "kb100", max_age=DAY),
    "post-parameters": lambda w: post(w, "in_country", max_age=DAY, parameters={"country": "DE"}),
    "post-prefer": lambda w: post(w, "kb1", "Prefer: wait=20", max_age=DAY),
    "latest": lambda w: latest(w, "kb1"),
    "latest-csv": lambda w: latest(w, "kb1", form="csv"),
    "head": lambda w: request("HEAD", f"/api/queries/{w.named['kb1']}/results.json"),
    "token-in-target": lambda w: (
        f"GET /api/queries/{w.named['kb1']}/results.json?api_key={TOKENS['dashboard']} HTTP/1.1\r\n"
        "Host: localhost\r\n\r\n"
    ).encode(),
    "origin": lambda w: latest(w, "kb1", "Origin: https://board.example"),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_response_is_the_same_except_the_request_id(
    world: World, by_fast_path: list[bytes], kind: str
) -> None:
    sent = KINDS[kind](world)
    async with wire(world) as line:
        for _ in range(3):
            ordinary = await line.ask(sent)
        assert by_fast_path == []
        fast = await line.ask(sent)
    assert by_fast_path == [sent]
    assert plain(fast) == plain(ordinary)
    assert fast.fields.get("etag") == ordinary.fields.get("etag")
    assert fast.fields["x-request-id"] != ordinary.fields["x-request-id"]


async def test_not_modified_is_served_too(world: World, by_fast_path: list[bytes]) -> None:
    async with wire(world) as line:
        tag = (await line.ask(latest(world, "kb1"))).fields["etag"]
        fast = await learnt(line, latest(world, "kb1", f"If-None-Match: {tag}"), by_fast_path)
        assert (fast.status, fast.body) == (304, b"")
        # RFC 9110: a 304 carries the tag that a 200 would have carried.
        assert fast.fields["etag"] == tag


async def test_a_body_in_a_segment_of_its_own(world: World, by_fast_path: list[bytes]) -> None:
    # Many clients send head and body with two writes, and so does nearly every proxy.
    head, _, body = post(world, "kb1", max_age=DAY).partition(b"\r\n\r\n")
    head += b"\r\n\r\n"
    async with wire(world) as line:
        for _ in range(3):
            await line.ask(head, body)
        assert by_fast_path == []
        assert (await line.ask(head, body)).status == 200
        assert by_fast_path == [head + body]
        # The same head with another body is another request.
        other = json.dumps({"max_age": 86401}).encode()
        assert len(other) == len(body)
        assert (await line.ask(head, other)).status == 200
        assert (await line.ask(head, body[:5], body[5:])).status == 200
        assert (await line.ask(head + body)).status == 200
        assert set(by_fast_path) == {head + body}


TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "field",
    [
        "Connection: keep-alive",
        "connection: Keep-Alive",
        "Expect: 100-continue",
        "Upgrade: h2c",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB",
        f"traceparent: {TRACE}",
        "Cookie: remember=me",
        "If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT",
    ],
)
async def test_fields_that_change_no_response_do_not_keep_a_request_out(
    world: World, by_fast_path: list[bytes], field: str
) -> None:
    # Browsers, requests, httpx and node send `Connection: keep-alive`; Java asks for an upgrade; services trace.
    plain_one = latest(world, "kb1")
    async with wire(world) as line:
        expected = plain(await learnt(line, plain_one, by_fast_path))
        count = len(by_fast_path)
        assert plain(await line.ask(latest(world, "kb1", field))) == expected
        assert len(by_fast_path) == count + 1
        assert plain(await line.ask(plain_one)) == expected
        assert len(by_fast_path) == count + 2


async def test_a_connection_that_is_to_be_closed_is_closed_after_the_response(
    world: World, by_fast_path: list[bytes]
) -> None:
    sent = latest(world, "kb1", "Connection: close")
    for times in range(5):
        async with wire(world) as line:
            got = await line.ask(sent)
            assert (got.status, got.fields["connection"]) == (200, "close")
            assert await line.closed()
            assert len(by_fast_path) == max(0, times - 2)


async def test_the_caller_s_own_request_id_is_used(world: World, by_fast_path: list[bytes]) -> None:
    async with wire(world) as line:
        await learnt(line, latest(world, "kb1"), by_fast_path)
        for given, used in (("mine-1", True), ("not sane", False), (TOKENS["dashboard"], False)):
            count = len(by_fast_path)
            got = await line.ask(latest(world, "kb1", f"X-Request-ID: {given}"))
            assert len(by_fast_path) == count + 1
            assert (got.fields["x-request-id"] == given) == used


@pytest.mark.parametrize(
    "fields",
    [
        ("Transfer-Encoding: chunked",),
        ("Upgrade: websocket", "Connection: Upgrade"),
        ("Upgrade: tcp",),
        ("User-Agent: one", "User-Agent: two"),  # aiohttp refuses it
        ("Host: localhost",),  # the second one
        ("Authorization: Key rg_other",),
        *((f"{name}: x",) for name in ("X-API-Key", "Origin")),
        tuple(f"X-{number}: y" for number in range(120)),
    ],
)
async def test_doubtful_requests_are_never_served(
    world: World, by_fast_path: list[bytes], fields: tuple[str, ...]
) -> None:
    async with wire(world) as line:
        await learnt(line, latest(world, "kb1"), by_fast_path)
    count = len(by_fast_path)
    sent = latest(world, "kb1", *fields) + (b"0\r\n\r\n" if "chunked" in fields[0] else b"")
    async with wire(world) as line:
        await line.ask(sent)
    assert len(by_fast_path) == count


async def test_http_1_0_is_never_learnt(world: World, by_fast_path: list[bytes]) -> None:
    # Its connection closes after each response.
    sent = request("GET", f"/api/queries/{world.named['kb1']}/results.json", version="1.0")
    for _ in range(5):
        async with wire(world) as line:
            assert (await line.ask(sent)).status == 200
            assert await line.closed()
    assert by_fast_path == []


async def test_errors_jobs_and_misses_are_never_learnt(world: World, by_fast_path: list[bytes]) -> None:
    async with wire(world) as line:
        await never_learnt(line, request("GET", "/api/nothing"), by_fast_path)
        await never_learnt(line, request("GET", "/api/queries/999999/results.json"), by_fast_path)
        await never_learnt(line, latest(world, "kb1").replace(TOKENS["dashboard"].encode(), b"rg_other"), by_fast_path)
        await never_learnt(line, post(world, "kb1", max_age=0), by_fast_path, times=2)
        await never_learnt(line, request("GET", f"/api/queries/{world.named['kb1']}"), by_fast_path)


async def test_every_response_has_its_own_request_id(world: World, by_fast_path: list[bytes]) -> None:
    async with wire(world) as line:
        ids = [(await line.ask(post(world, "kb1", max_age=DAY))).fields["x-request-id"] for _ in range(30)]
    assert len(by_fast_path) >= 25
    assert len(set(ids)) == 30


async def test_a_query_named_like_the_request_id_field_keeps_its_name(world: World, by_fast_path: list[bytes]) -> None:
    # The id is inserted into the head; the name that a user gave to a query is in the head, too.
    world.sandbox.edit_query(world.named["kb1"], name="X-Request-ID: 7")
    sent = latest(world, "kb1", form="csv")
    async with wire(world) as line:
        for _ in range(3):
            ordinary = await line.ask(sent)
        fast = await learnt(line, sent, by_fast_path)
    assert "X-Request-ID" in fast.fields["content-disposition"]
    assert plain(fast) == plain(ordinary)


async def test_a_request_that_is_faster_than_aiohttp_s_task_is_served(
    world: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response has been sent, the caller answers at once, and aiohttp's task has not run again yet.

    With uvloop nearly every caller in another process is as fast as that; it lost the fast path for good.
    """
    sent, original, busy = post(world, "kb1", max_age=DAY), Handler.waits, [False]
    monkeypatch.setattr(Handler, "waits", lambda self: busy.pop() if busy else original(self))
    async with wire(world) as line:
        await learnt(line, sent, by_fast_path)
        for parts in ((sent,), (sent[:40], sent[40:]), (sent + sent,)):
            assert (await line.ask(request("GET", "/api/nothing"))).status == 404
            busy.append(False)  # twice: when the request arrives, and when it is tried again
            busy.append(False)
            count = len(by_fast_path)
            assert (await line.ask(*parts)).status == 200
            if parts == (sent + sent,):
                assert (await line.got("POST")) is not None
            else:
                assert len(by_fast_path) == count + 1


# -- access


async def test_a_revoked_token_is_refused_at_once(world: World, by_fast_path: list[bytes]) -> None:
    sent = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        await learnt(line, sent, by_fast_path)
        hashed = world.settings().clients["dashboard"].token_sha256[0]
        world.reconfigure(world.text.replace(hashed, "ab" * 32))
        assert [got.status for got in await never_learnt(line, sent, by_fast_path)] == [401] * 5


async def test_a_removed_capability_is_gone_at_once(world: World, by_fast_path: list[bytes]) -> None:
    sent = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        await learnt(line, sent, by_fast_path)
        hashed = world.settings().clients["dashboard"].token_sha256[0]
        world.reconfigure(world.text.replace(f'["{hashed}"]', f'["{hashed}"]\ncan = ["read"]'))
        assert [got.status for got in await never_learnt(line, sent, by_fast_path)] == [403] * 5


async def test_clients_with_a_rate_are_counted_one_by_one(bare: World, by_fast_path: list[bytes]) -> None:
    await bare.start(dashboard='rate = "10/m"\nburst = 10')
    async with wire(bare) as line:
        found = [await line.ask(post(bare, "kb1", max_age=DAY)) for _ in range(12)]
    assert [got.status for got in found] == [200] * 10 + [429] * 2
    assert [got.fields["ratelimit"] for got in found] == [
        *(f'"client";r={left};t={(10 - left) * 6}' for left in range(9, -1, -1)),
        *['"client";r=0;t=60'] * 2,
    ]
    assert {got.fields["ratelimit-policy"] for got in found} == {'"client";q=10;w=60'}
    assert len(by_fast_path) >= 7


async def test_serves_clients_bound_to_dashboards_until_those_must_be_read_again(
    bare: World, by_fast_path: list[bytes]
) -> None:
    # The queries of a dashboard can change in Redash at any time; what was read is valid for 60 s.
    await bare.start(cache='definition_check = "1h"', dashboard="dashboards = [1]")
    sent = post(bare, "by_country", max_age=DAY)
    async with wire(bare) as line:
        await learnt(line, sent, by_fast_path)
        bare.clock.turn(60)
        count = len(by_fast_path)
        assert (await line.ask(sent)).status == 200
        assert len(by_fast_path) == count
        bare.sandbox.database.widgets.clear()
        bare.clock.turn(61)
        assert {got.status for got in await never_learnt(line, sent, by_fast_path)} == {403}


async def test_a_token_expires_to_the_second(bare: World, by_fast_path: list[bytes]) -> None:
    await bare.start(dashboard="expires = 2027-01-16", cache='definition_check = "30d"')
    expires = bare.settings().clients["dashboard"].expires
    assert expires is not None
    sent = post(bare, "kb1", max_age=30 * DAY)
    async with wire(bare) as line:
        await learnt(line, sent, by_fast_path)
        bare.clock.turn(expires - bare.clock.wall() - 0.5)
        count = len(by_fast_path)
        assert (await line.ask(sent)).status == 200
        assert len(by_fast_path) == count + 1
        bare.clock.turn(0.5)
        assert {got.status for got in await never_learnt(line, sent, by_fast_path)} == {401}


# -- how long a response is served


async def test_serves_until_max_age_and_no_longer(world: World, by_fast_path: list[bytes]) -> None:
    sent = post(world, "kb1", max_age=30)
    async with wire(world) as line:
        await learnt(line, sent, by_fast_path)
        world.clock.turn(29.5)
        assert (await line.ask(sent)).fields["cache-status"] == "redash-gateway; hit; ttl=0"
        assert len(by_fast_path) == 2
        world.clock.turn(0.5)
        # Inclusive, as in Redash (CONTRACT 10): at 30 s it still is a hit, on both paths.
        assert "hit" in (await line.ask(sent)).fields["cache-status"]
        count = len(by_fast_path)
        world.clock.turn(0.5)
        assert "hit" not in (await line.ask(sent)).fields.get("cache-status", "")
        assert len(by_fast_path) == count


async def test_serves_until_the_definition_must_be_read_again(bare: World, by_fast_path: list[bytes]) -> None:
    await bare.start(cache='definition_check = "10s"')
    sent = post(bare, "kb1", max_age=DAY)
    async with wire(bare) as line:
        await learnt(line, sent, by_fast_path)
        bare.clock.turn(4.5)
        await line.ask(sent)
        assert len(by_fast_path) == 2
        bare.sandbox.edit_query(bare.named["kb1"], query="select 'other' as x")
        bare.clock.turn(6)  # older than the limit: the definition is read first
        got = await line.ask(sent)
        assert len(by_fast_path) == 2
        assert "hit" not in got.fields.get("cache-status", "")


async def test_serves_until_any_age_must_be_confirmed_again(bare: World, by_fast_path: list[bytes]) -> None:
    await bare.start(cache='any_age_confirm = "10s"')
    sent = post(bare, "now")
    async with wire(bare) as line:
        await learnt(line, sent, by_fast_path)
        newer = await bare.sandbox.execute_directly(bare.named["now"])
        bare.clock.turn(9.5)
        await line.ask(sent)
        assert len(by_fast_path) == 2
        bare.clock.turn(1)
        got = await line.ask(sent)
        assert len(by_fast_path) == 2
        assert json.loads(got.body)["query_result"]["id"] == newer.id


async def test_serves_files_until_rendered_ttl(bare: World, by_fast_path: list[bytes]) -> None:
    # CSV depends on settings in Redash that the gateway cannot see: `rendered_ttl` limits how long they are wrong.
    await bare.start(cache='rendered_ttl = "10s"')
    sent = latest(bare, "kb1", form="csv")
    async with wire(bare) as line:
        await learnt(line, sent, by_fast_path)
        bare.clock.turn(9.5)
        await line.ask(sent)
        count = len(by_fast_path)
        assert count == 2
        bare.clock.turn(1)
        got = await line.ask(sent)
        assert len(by_fast_path) == count
        assert "fwd=" in got.fields["cache-status"]


async def test_age_ttl_and_date_change_with_time(world: World, by_fast_path: list[bytes]) -> None:
    sent = post(world, "kb1", max_age=50)
    async with wire(world) as line:
        first = await learnt(line, sent, by_fast_path)
        for passed in (1, 7, 20):
            world.clock.turn(passed)
            got = await line.ask(sent)
            assert got.fields["age"] == str(int(first.fields["age"]) + int(world.clock.ahead))
            assert got.fields["cache-status"] == f"redash-gateway; hit; ttl={50 - int(got.fields['age'])}"
            assert parsedate_to_datetime(got.fields["date"]).timestamp() == int(world.clock.wall())
        assert len(by_fast_path) == 4


# -- changes


async def test_a_newer_result_replaces_it(world: World, by_fast_path: list[bytes]) -> None:
    await world.rows("now", max_age=0)
    sent = post(world, "now", max_age=DAY)
    async with wire(world) as line:
        old = (await learnt(line, sent, by_fast_path)).rows
        # By another client of the same credential: a response depends on the entry, not on the client.
        await world.rows("now", client="second", max_age=0)
        new = (await line.ask(sent)).rows
    assert new[0]["run"] == old[0]["run"] + 1


async def test_the_end_of_a_run_shows_in_latest(world: World, by_fast_path: list[bytes]) -> None:
    # A caller that polls a job to its end and then reads "latest" must see the new rows.
    await world.rows("now", max_age=0)
    for sent in (latest(world, "now"), latest(world, "now", form="csv")):
        async with wire(world) as line:
            old = await learnt(line, sent, by_fast_path)
            await world.rows("now", client="second", max_age=0)
            assert (await line.ask(sent)).body != old.body


@pytest.mark.parametrize("what", ["query", "scope", "all"])
async def test_a_purge_empties_the_cache(world: World, by_fast_path: list[bytes], what: str) -> None:
    purges = {"query": {"query": world.named["kb1"]}, "scope": {"scope": "analyst"}, "all": {"all": True}}
    sent = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        await learnt(line, sent, by_fast_path)
        count = len(by_fast_path)
        await world.purge(purges[what])
        got = await line.ask(sent)
        assert "hit" not in got.fields.get("cache-status", "")
        assert len(by_fast_path) == count


async def test_the_end_of_a_run_shows_in_latest_also_where_the_result_was_stored_for_no_query(
    world: World, by_fast_path: list[bytes]
) -> None:
    # A result fetched by its id alone is stored before its query is known.
    query = await world.get(f"/api/queries/{world.named['now']}", client="second")
    await world.get(f"/api/query_results/{query.json['latest_query_data_id']}")
    async with wire(world) as line:
        old = await learnt(line, latest(world, "now"), by_fast_path)
        rows = await world.rows("now", max_age=0, client="second")
        new = await line.ask(latest(world, "now"))
    assert new.rows == rows != old.rows


async def test_a_refusal_also_denies_results_stored_for_no_query(world: World, by_fast_path: list[bytes]) -> None:
    query = await world.get(f"/api/queries/{world.named['kb1']}", client="writer")
    await world.get(f"/api/query_results/{query.json['latest_query_data_id']}")
    async with wire(world) as line:
        await learnt(line, latest(world, "kb1"), by_fast_path)
        scope = world.runtime.live.access.credentials["analyst"].scope
        await deny(world.runtime, world.named["kb1"], scope)
        count = len(by_fast_path)
        before = len(world.sandbox.log)
        await line.ask(latest(world, "kb1"))
    assert len(by_fast_path) == count
    assert len(world.sandbox.log) > before


async def test_an_edit_through_the_gateway_ends_it(world: World, by_fast_path: list[bytes]) -> None:
    query_id = world.named["never_run"]
    await world.rows("never_run", max_age=0)
    for sent in (post(world, "never_run", max_age=DAY), latest(world, "never_run", form="csv")):
        async with wire(world) as line:
            await learnt(line, sent, by_fast_path)
            count = len(by_fast_path)
            reply = await world.call("POST", f"/api/queries/{query_id}", {"name": f"Edited {count}"}, client="writer")
            assert reply.status == 200
            await line.ask(sent)
            assert len(by_fast_path) == count


async def test_a_refusal_denies_all_other_entries(bare: World, by_fast_path: list[bytes]) -> None:
    # 403 and 404 for the definition deny all entries of that scope, results by id included.
    await bare.start(cache='definition_check = "10s"')
    path = f"/api/queries/{bare.named['kb1']}/results/"
    async with wire(bare) as line:
        whole = await line.ask(latest(bare, "kb1"))
        by_id = request("GET", f"{path}{json.loads(whole.body)['query_result']['id']}.json")
        await learnt(line, by_id, by_fast_path)
        bare.sandbox.database.sources[1].groups.clear()
        bare.clock.turn(21)
        assert {got.status for got in await never_learnt(line, by_id, by_fast_path, times=2)} == {403}


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[asyncio.Event, asyncio.Event]]]:
    """Delay the end of the next response, as a slow reader does; returns (it is being sent, let it end)."""
    turns: deque[tuple[asyncio.Event, asyncio.Event]] = deque()
    original = gateway.http.api.send

    async def slow(*arguments: Any, **named: Any) -> None:
        await original(*arguments, **named)
        if turns:
            sent, go = turns.popleft()
            sent.set()
            await go.wait()

    for module in (gateway.http.api, gateway.http.response):
        monkeypatch.setattr(module, "send", slow)

    def arm() -> tuple[asyncio.Event, asyncio.Event]:
        turns.append((asyncio.Event(), asyncio.Event()))
        return turns[-1]

    yield arm
    for _, go in turns:
        go.set()


async def reloaded_with_a_rate(world: World, line: Wire, go: asyncio.Event) -> None:
    """Give the client a rate of three while a response is being sent; then let it end."""
    hashed = world.settings().clients["dashboard"].token_sha256[0]
    world.reconfigure(world.text.replace(f'["{hashed}"]', f'["{hashed}"]\nrate = "3/m"\nburst = 3'))
    go.set()
    await line.got("POST")
    await settled()


async def test_a_response_sent_before_a_reload_is_not_cached_after_it(
    world: World, by_fast_path: list[bytes], late: Callable[[], tuple[asyncio.Event, asyncio.Event]]
) -> None:
    # It was judged under the old configuration, which had no rate for this client.
    sent = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        await line.ask(sent)
        await line.ask(sent)
        on_its_way, go = late()
        await line.send(sent)
        await on_its_way.wait()
        await reloaded_with_a_rate(world, line, go)
        assert [(await line.ask(sent)).status for _ in range(5)] == [200] * 3 + [429] * 2


async def test_a_response_sent_before_the_end_of_a_run_is_not_cached_after_it(
    world: World, by_fast_path: list[bytes], late: Callable[[], tuple[asyncio.Event, asyncio.Event]]
) -> None:
    # "Latest" was right when it was sent; after the run the definition must be read again, on the fast path, too.
    await world.rows("now", max_age=0)
    sent = latest(world, "now")
    async with wire(world) as line:
        old = await line.ask(sent)
        assert "hit" in old.fields["cache-status"]
        on_its_way, go = late()
        await line.send(sent)
        await on_its_way.wait()
        await world.rows("now", client="second", max_age=0)
        go.set()
        await line.got()
        await settled()
        assert (await line.ask(sent)).rows[0]["run"] == old.rows[0]["run"] + 1


# -- connections


async def test_a_large_download_is_not_interrupted_by_a_hit(world: World, by_fast_path: list[bytes]) -> None:
    """A known request in the middle of a file being sent waits for its end (aiohttp clears the request before)."""
    large, small = latest(world, "large"), post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        whole = await line.ask(large)
        await learnt(line, small, by_fast_path)
    async with wire(world, buffer=4096) as line:
        await line.send(large)
        for _ in range(5):
            await line.send(small)
        assert (await line.got()) is not None
        cache = [await line.got("POST") for _ in range(5)]
    assert len(whole.body) > 4_000_000
    assert [response is not None and response.status for response in cache] == [200] * 5


async def test_after_half_a_head_nothing_is_served(world: World, by_fast_path: list[bytes]) -> None:
    """A known request inside the body of an unfinished one is not a request: that would be request smuggling."""
    small = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        await learnt(line, small, by_fast_path)
    count = len(by_fast_path)
    async with wire(world) as line:
        await line.send(b"GET /api/queries HTTP/1.1\r\nHost: localhost\r\nX-Rest: ")
        await line.send(small)
        got = await line.got()
        assert got is not None
        assert got.status == 400  # the rest of the head was a field's value: there are two hosts and two lengths
    async with wire(world) as line:
        await line.send(request("POST", "/api/nothing", body=b"x" * len(small)).removesuffix(b"x" * len(small)), small)
        got = await line.got()
        assert got is not None
        assert got.status == 404
        assert (await line.ask(request("GET", "/ping"))).body == b"PONG."
    async with wire(world) as line:
        chunked = request("POST", "/api/nothing", "Transfer-Encoding: chunked")
        await line.send(chunked, b"%x\r\n" % len(small), small, b"\r\n0\r\n\r\n")
        got = await line.got()
        assert got is not None
        assert got.status == 404
    assert len(by_fast_path) == count


async def test_a_caller_that_does_not_read_gets_back_pressure(world: World, by_fast_path: list[bytes]) -> None:
    """Without back-pressure, a client that sends and never reads would fill the gateway's memory."""
    sent = post(world, "kb100", max_age=DAY)
    async with wire(world) as line:
        size = len((await learnt(line, sent, by_fast_path)).body)
    opened: list[Connection] = []
    original = Connection.connection_made

    def noted(self: Connection, transport: asyncio.BaseTransport) -> None:
        opened.append(self)
        original(self, transport)

    with mock.patch.object(Connection, "connection_made", noted):
        async with wire(world, buffer=4096) as line:
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]
            biggest = 0
            for _ in range(300):
                await line.send(sent)
                transport = opened[0].transport
                assert transport is not None
                biggest = max(biggest, transport.get_write_buffer_size())
            assert biggest > 0, "nobody was slow"
            assert biggest < 4 * size
            line.writer.transport.resume_reading()  # type: ignore[attr-defined]
            # Nothing is lost: every request gets its response, in order, when the caller reads.
            for _ in range(300):
                got = await line.got("POST")
                assert got is not None
                assert len(got.body) == size


async def test_a_fast_path_response_keeps_the_connection_open(
    bare: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp closes idle connections; it does not see the fast path's responses."""
    await bare.start(server='idle_timeout = "600ms"')
    loop = asyncio.get_running_loop()
    sent = post(bare, "kb1", max_age=DAY)
    async with wire(bare) as line:
        await learnt(line, sent, by_fast_path)
        began = loop.time()
        while loop.time() < began + 1.5:
            await asyncio.sleep(0.1)
            assert (await line.ask(sent)).status == 200
        quiet = loop.time()
        assert await line.closed()
        assert loop.time() - quiet > 0.4


async def test_a_connection_served_only_by_the_fast_path_is_closed_when_idle(
    bare: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise clients that connect, send one request and vanish would hold their sockets for ever."""
    await bare.start(server='idle_timeout = "300ms"')
    sent = post(bare, "kb1", max_age=DAY)
    async with wire(bare) as line:
        await learnt(line, sent, by_fast_path)
    async with wire(bare) as line:
        count = len(by_fast_path)
        await line.ask(sent)
        assert len(by_fast_path) == count + 1
        async with asyncio.timeout(5):
            assert await line.closed()


async def test_a_connection_with_a_long_held_head_is_still_closed_when_idle(
    bare: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # While the body is late, aiohttp gets the head; after the response the connection is as idle as any other.
    monkeypatch.setattr(gateway.http.connection, "HOLD_SECONDS", 0.0)
    await bare.start(server='idle_timeout = "200ms"')
    head, body = await learnt_in_parts(bare, by_fast_path)
    async with wire(bare) as line:
        await line.send(head)
        await asyncio.sleep(0.1)
        assert (await line.ask(body)).status == 200
        async with asyncio.timeout(5):
            assert await line.closed()


async def test_a_held_head_whose_caller_leaves_is_counted(world: World, by_fast_path: list[bytes]) -> None:
    head, _ = await learnt_in_parts(world, by_fast_path)
    async with wire(world) as line:
        await line.send(head)
    await until(lambda: not connections(world.runtime))
    assert await world.metric("redash_gateway_requests_total") == 5
    assert await world.metric("redash_gateway_requests_total", status="4xx") == 1


async def test_odd_lengths_turn_it_off(world: World, by_fast_path: list[bytes]) -> None:
    sent = post(world, "kb1", max_age=DAY)
    odd = sent.replace(b"Content-Length: ", b"Content-Length: " + b"0" * 16)
    async with wire(world) as line:
        await learnt(line, sent, by_fast_path)
        assert (await line.ask(odd)).status == 200
        await never_learnt(line, sent, by_fast_path)


async def test_a_held_head_without_a_body_times_out(
    bare: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.http.connection, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(gateway.http.connection, "HOLD_SECONDS", 0.0)
    monkeypatch.setattr(gateway.http.request, "BODY_SECONDS", 0.3)
    await bare.start()
    head, _ = await learnt_in_parts(bare, by_fast_path)
    async with wire(bare) as line:
        assert (await line.ask(head)).status == 400


async def test_stopping_lets_a_request_in_progress_end(world: World, by_fast_path: list[bytes]) -> None:
    """A request whose head has arrived gets its response within `drain_timeout`, with and without the fast path."""
    head, _, body = post(world, "kb1", max_age=DAY).partition(b"\r\n\r\n")
    head += b"\r\n\r\n"
    async with wire(world) as line:
        for _ in range(4):
            await line.ask(head, body)
        assert by_fast_path == [head + body]
        await line.send(head)
        stopping = asyncio.create_task(world.runtime.stop())
        await until(lambda: not world.runtime.serving)
        await settled()
        await line.send(body)
        got = await line.got("POST")
        await stopping
        assert got is not None
        assert got.status == 200
    with mock.patch.object(world.runtime, "stop", mock.AsyncMock()):
        await world.stop()
    del world.session


async def test_stopping_closes_connections_of_the_fast_path(world: World, by_fast_path: list[bytes]) -> None:
    sent = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        await learnt(line, sent, by_fast_path)
        stopping = asyncio.create_task(world.runtime.stop())
        assert await line.closed()
        await stopping
    with mock.patch.object(world.runtime, "stop", mock.AsyncMock()):
        await world.stop()
    del world.session


# -- recorded like all others


async def test_hits_are_counted_exactly(world: World, by_fast_path: list[bytes]) -> None:
    route = "/api/queries/{query_id}/results"
    sent = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        for _ in range(40):
            await line.ask(sent)
            world.clock.turn(0.4)
    assert len(by_fast_path) >= 30
    assert await world.metric("redash_gateway_requests_total", route=route, client="dashboard", cache="hit") == 39
    assert await world.metric("redash_gateway_request_duration_seconds_count", route=route, cache="hit") == 39
    assert await world.metric("redash_gateway_query_requests_total", cache="hit") == 39
    assert await world.metric("redash_gateway_saved_executions_total", cache="hit") == 39
    assert await world.metric("redash_gateway_served_age_seconds_count") >= 39


async def test_hits_before_a_reload_or_purge_are_counted(world: World, by_fast_path: list[bytes]) -> None:
    sent = post(world, "kb1", max_age=DAY)
    async with wire(world) as line:
        for _ in range(10):
            await line.ask(sent)
        world.reconfigure(world.text)
        for _ in range(10):
            await line.ask(sent)
        await world.purge({"all": True})
    assert len(by_fast_path) >= 12
    assert await world.metric("redash_gateway_requests_total", client="dashboard") == 20


async def test_hits_are_recorded_without_further_requests(
    world: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the console would show them in the minute in which it is opened."""
    monkeypatch.setattr(response_cache, "RECORD_SECONDS", 0.01)
    async with wire(world) as line:
        for _ in range(20):
            await line.ask(post(world, "kb1", max_age=DAY))
    assert len(by_fast_path) >= 15
    counted = world.runtime.telemetry.recorder.requests
    assert sum(counted.values()) < 20
    world.clock.turn(2.0)  # their second is over
    await until(lambda: sum(counted.values()) == 20)
    assert not unrecorded(world.runtime)


def access_lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The fields of every access log line from now on."""
    found: list[dict[str, str]] = []
    forms = log.AccessLines("text")

    def write(outcomes: Any, ahead: float) -> None:
        lines = forms.of(outcomes, ahead)
        found.extend(dict(pair.partition("=")[::2] for pair in line.split()[4:]) for line in lines)

    monkeypatch.setattr(log, "parts_of_line", forms.parts_of)
    monkeypatch.setattr(log, "write_requests", write)
    return found


async def test_a_caller_that_leaves_during_a_cached_response_is_logged_as_such(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_MAY_ENLARGE", False)
    lines = access_lines(monkeypatch)
    world.runtime.telemetry.observer.access_log = True
    sent = post(world, "large", max_age=DAY)
    async with wire(world) as line:
        for _ in range(4):
            await line.ask(sent)
    address = world.runtime.api_addresses[0]
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=4_096)
    writer.write(sent)
    await reader.readexactly(100)
    writer.transport.abort()
    await until(lambda: len(lines) == 5)
    assert [line["status"] for line in lines] == ["200"] * 4 + ["499"]
    assert lines[-1]["bytes"] == "0"


async def test_every_hit_has_a_line_in_the_access_log(
    bare: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = access_lines(monkeypatch)
    await bare.start()
    bare.reconfigure(bare.text.replace("access = false", "access = true"))
    async with wire(bare) as line:
        ids = [(await line.ask(post(bare, "kb1", max_age=DAY))).fields["x-request-id"] for _ in range(20)]
    assert len(by_fast_path) >= 15
    await until(lambda: len(lines) == 20)
    assert [line["request_id"] for line in lines] == ids
    alike = [{name: one[name] for name in one.keys() - {"request_id", "ms", "age"}} for one in lines[1:]]
    assert alike == [alike[0]] * 19
    assert alike[0]["cache"] == "hit"
    assert await bare.metric("redash_gateway_requests_total", client="dashboard") == 20


async def test_no_hit_is_lost_when_the_access_log_is_switched_or_the_gateway_stops(
    bare: World, by_fast_path: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = access_lines(monkeypatch)
    await bare.start()
    text, logged = bare.text, []
    async with wire(bare) as line:
        for access in ("true", "false", "true"):
            bare.reconfigure(text.replace("access = false", f"access = {access}"))
            ids = [(await line.ask(post(bare, "kb1", max_age=DAY))).fields["x-request-id"] for _ in range(10)]
            logged += ids if access == "true" else []
    assert len(by_fast_path) >= 20
    counted = bare.runtime.telemetry.recorder.requests
    await bare.runtime.stop()
    assert sum(counted.values()) == 30
    assert [line["request_id"] for line in lines] == logged


# -- bounded memory


class _Nothing:
    def peek(self, key: bytes) -> None:
        return None

    def holds(self, key: bytes, entry: Entry) -> bool:
        return False


def cached_responses(world: World, limit_bytes: int = 10**6) -> tuple[ResponseCache, ReuseTerms]:
    cache = ResponseCache(_Nothing(), world.runtime.telemetry.observer, world.clock, limit_bytes)
    entry = Entry(body_id=b"", scope="", query_id=1, result_id=1, form="full")
    return cache, ReuseTerms(b"", entry, 1, math.inf)


async def test_a_request_seen_once_costs_little_memory(world: World) -> None:
    """One client can send any number of long, different requests; remembering each whole would fill the memory."""
    cache, terms = cached_responses(world)
    tracemalloc.start()
    try:
        for number in range(2_000):
            key = (f"GET /api/queries/1/results.json?x={number:08000} HTTP/1.1".encode(),)
            cache.put(key, terms, b"", Body.of(b""), Outcome(request_id="-"), None)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2_000 * 1_000


async def test_long_requests_are_not_cached(world: World) -> None:
    # Redash ignores never_learnt members: a body can be as long as the gateway accepts.
    query_id = world.named["kb1"]
    await world.rows("kb1", max_age=DAY)
    for number in range(10):
        body = json.dumps({"max_age": DAY, "pad": str(number) * 100_000}).encode()
        for _ in range(3):
            assert (await world.call("POST", f"/api/queries/{query_id}/results", body)).status == 200
    assert cached_bytes(world.runtime) < 100_000


async def test_hits_do_not_repeat_the_upstream_time_of_the_first_request(world: World) -> None:
    path = f"/api/queries/{world.named['kb1']}/results.json"
    await world.get(path)
    for _ in range(2):  # the second one must read the definition, and is the one that is cached
        await world.get(path)
        world.clock.turn(130)
    await world.get(path)
    await world.get(path)
    (known,) = prepared_responses(world.runtime)
    assert known.outcome.upstream_seconds == 0


async def test_the_cache_is_bounded_by_bytes(world: World) -> None:
    cache, terms = cached_responses(world, limit_bytes=200_000)
    tracemalloc.start()
    try:
        for number in range(500):
            for _ in range(2):
                body = Body.of(b"x" * 1_000)
                cache.put((b"%01000d" % number,), terms, b"", body, Outcome(request_id="-"), None)
        grown, _ = tracemalloc.get_traced_memory()
        cache.clear()
    finally:
        tracemalloc.stop()
    assert grown < 400_000
    assert cache.get((b"%01000d" % 499,)) is None


# -- with and without the fast path: the same bytes


def plain(got: Got | None) -> tuple[bytes, bytes] | None:
    """A response without what may differ: Date, Age, ttl, times, the request id, and the ETag of a file.

    Each rendering has its own tag, because its bytes may differ (CONTRACT 8): two gateways have two.
    """
    if got is None:
        return None
    varying = rb"Date|Age|Server-Timing|X-Request-ID"
    varying += rb"|ETag" if b"text/csv" in got.head else b""
    head = re.sub(rb"(?im)^(%s): [^\r]*" % varying, rb"\1: *", got.head)
    head = re.sub(rb"ttl=-?\d+", b"ttl=*", head)
    return head, re.sub(rb'"request_id": "[^"]*"', b'"request_id": "*"', got.body)


class Step(msgspec.Struct, frozen=True):
    """Requests that are sent together, where their bytes are cut, and what happens before."""

    requests: tuple[str, ...]
    cuts: tuple[int, ...] = ()  # per mille of the length
    by_parts: bool = False  # head and body in separate segments
    times: int = 1
    turn: float = 0.0
    read: bool = True  # wait for the responses before the next step


SMALL: Final = (
    "post", "post", "post-second", "post-kb100", "post-parameters", "any-age", "latest", "latest-csv", "latest-gzip",
    "head", "by-id", "not-modified", "modified", "post-gzip", "ping",
)  # fmt: skip
CLIENTS: Final = {request.name: request for request in client_requests()}
ODD: Final = (
    "close", "close-again", "traced", "own-id", "huge-field", "expects", "upgrade", "missing", "no-route",
    "unauthorized", "http10", "bad-json", "large",
)  # fmt: skip
CLOSING: Final = {"close", "close-again", "http10"} | {
    name for name, client in CLIENTS.items() if ("Connection", "close") in client.fields
}
"""What is sent after one of these may meet a closed socket, whose reset can take the response with it."""
BROKEN: Final = ("malformed", "two-lengths")
STEPS: Final = st.builds(
    Step,
    requests=st.lists(
        st.sampled_from(SMALL) | st.sampled_from(ODD + SMALL) | st.sampled_from(tuple(CLIENTS)), min_size=1, max_size=2
    ).map(tuple),
    cuts=st.lists(st.integers(1, 999), max_size=2).map(lambda cuts: tuple(sorted(cuts))),
    by_parts=st.booleans(),
    times=st.sampled_from([1, 1, 2, 4]),
    turn=st.sampled_from([0.0, 0.0, 0.0, 0.3, 5.0, 61.0, 130.0]),
    read=st.sampled_from([True, True, True, False]),
) | st.builds(
    Step,
    requests=st.sampled_from(BROKEN + SMALL).map(lambda kind: (kind,)),
    times=st.sampled_from([1, 4]),
    by_parts=st.booleans(),
)


class Pair:
    """Two gateways before one sandbox, with and without the fast path."""

    def __init__(self, directory: Path) -> None:
        self.clock = StandingClock()
        self.sandbox = Sandbox(now=self.clock.wall)
        self.worlds = [World(directory / name, self.sandbox, self.clock) for name in ("on", "off")]

    async def start(self) -> None:
        await self.sandbox.start()
        on, off = self.worlds
        for world in self.worlds:
            world.directory.mkdir()
        await on.start()
        with mock.patch("gateway.http.api.fast_path_is_possible", return_value=False):
            await off.start()
        reply = await on.get(f"/api/queries/{on.named['kb1']}/results.json")
        await off.get(f"/api/queries/{on.named['kb1']}/results.json")
        self.requests = kinds(on, reply.headers["ETag"], reply.json["query_result"]["id"])

    async def stop(self) -> None:
        for world in self.worlds:
            await world.stop()
        await self.sandbox.stop()

    async def cache(self, world: World, steps: list[Step]) -> list[tuple[bytes, bytes] | None]:
        """The responses of one gateway on one connection; the clock is set back to where it was before."""
        found: list[tuple[bytes, bytes] | None] = []
        began = self.clock.ahead
        due: list[str] = []
        async with wire(world) as line:
            for step in steps:
                self.clock.turn(step.turn)
                if not set(step.requests).isdisjoint(BROKEN):  # what it ends depends on whether it arrived too early
                    found, due = [*found, *await self._read(line, due)], []
                kinds = step.requests
                last = next((number for number, kind in enumerate(kinds, 1) if kind in CLOSING), len(kinds))
                closes = kinds[last - 1] in CLOSING
                sent = [self.requests[kind] for kind in kinds[:last]]
                for _ in range(1 if closes else step.times):
                    await line.send(*cut(sent, step))
                    due += [data.split(b" ", 1)[0].decode() for data in sent]
                    if step.read:
                        found += await self._read(line, due)
                        due = []
                    if found and found[-1] is None:
                        break
                if closes:
                    break
            found += await self._read(line, due)
        self.clock.ahead = began
        return found

    async def _read(self, line: Wire, due: list[str]) -> list[tuple[bytes, bytes] | None]:
        found: list[tuple[bytes, bytes] | None] = []
        for method in due:
            found.append(plain(await line.got(method)))
            if found[-1] is None:
                break
        return found


def kinds(world: World, tag: str, result_id: int) -> dict[str, bytes]:
    """Every request of the property test, by name."""
    target = f"/api/queries/{world.named['kb1']}/results"
    return {
        "post": post(world, "kb1", max_age=DAY),
        "post-second": post(world, "kb1", max_age=DAY, client="second"),
        "post-kb100": post(world, "kb100", max_age=DAY),
        "post-parameters": post(world, "in_country", max_age=DAY, parameters={"country": "DE"}),
        "post-gzip": post(world, "kb100", "Accept-Encoding: gzip", max_age=DAY),
        "any-age": post(world, "kb1"),
        "latest": latest(world, "kb1"),
        "latest-csv": latest(world, "kb1", form="csv"),
        "latest-gzip": latest(world, "kb100", "Accept-Encoding: gzip, br"),
        "head": request("HEAD", f"/api/queries/{world.named['kb1']}/results.json"),
        "by-id": request("GET", f"/api/queries/{world.named['kb1']}/results/{result_id}.json", client="second"),
        "not-modified": latest(world, "kb1", f"If-None-Match: {tag}"),
        "modified": latest(world, "kb1", 'If-None-Match: "other"'),
        "ping": request("GET", "/ping"),
        **{
            name: b"".join(
                client.segments(
                    host="localhost",
                    token=TOKENS["dashboard"],
                    query=world.named["kb1"],
                    etag=tag,
                )
            )
            for name, client in CLIENTS.items()
        },
        "close": post(world, "kb1", "Connection: close", max_age=DAY),
        "close-again": latest(world, "kb1", "Connection: close"),
        "traced": latest(world, "kb1", f"traceparent: {TRACE}"),
        "own-id": post(world, "kb1", "X-Request-ID: mine", max_age=DAY),
        "huge-field": latest(world, "kb1", "Cookie: " + "x" * 8_500),
        "expects": post(world, "kb1", "Expect: 100-continue", max_age=DAY),
        "upgrade": latest(world, "kb1", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"),
        "missing": request("GET", "/api/queries/999999/results.json"),
        "no-route": request("GET", "/api/nothing"),
        "unauthorized": latest(world, "kb1").replace(TOKENS["dashboard"].encode(), b"rg_nobody"),
        "http10": request("GET", "/ping", version="1.0"),
        "malformed": b"GET /api/queries\r\nHost localhost\r\n\r\n",
        "two-lengths": request("POST", target, "Content-Length: 3", body={"max_age": 9}),
        "bad-json": request("POST", target, body=b"{max_age"),
        "large": latest(world, "large"),
    }


def cut(sent: list[bytes], step: Step) -> list[bytes]:
    """The segments in which the requests of one step are sent."""
    if step.by_parts:
        parts = [part for data in sent for part in data.partition(b"\r\n\r\n")]
        pairs = [(parts[i] + parts[i + 1], parts[i + 2]) for i in range(0, len(parts), 3)]
        return [part for pair in pairs for part in pair if part]
    whole = b"".join(sent)
    places = [0, *(len(whole) * mille // 1000 for mille in step.cuts), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(places) if a < b]


@pytest.mark.timeout(420)  # some seconds; only a failure, which hypothesis then shrinks, takes longer
def test_the_fast_path_changes_no_response(by_fast_path: list[bytes]) -> None:
    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[*HealthCheck],
    )
    @given(steps=st.lists(STEPS, min_size=1, max_size=6))
    def same(steps: list[Step]) -> None:
        on, off = (runner.run(pair.cache(world, steps)) for world in pair.worlds)
        assert on == off
        pair.clock.turn(sum(step.turn for step in steps))

    # One pair for all examples: what earlier ones learnt the fast path may trip later ones.
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as directory:
        pair = Pair(Path(directory))
        runner.run(pair.start())
        try:
            same()
        finally:
            runner.run(pair.stop())
    assert len(by_fast_path) > 50
