"""Kept connections: the server closes one while a POST is on its way (RFC 9112 section 9.3.1), or speaks unasked.

The sandbox closes after every response, as Redash does (CONTRACT 4). A proxy before Redash keeps connections, so a
small one stands here.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohttp
import pytest
from support.world import World, configuration

CLOSE: Final = "close without a byte"
CLOSE_AMID: Final = "close amid the head"
Verdict = Callable[[str], str]


class KeepingProxy:
    """Forwards to the sandbox on connections that it keeps; `verdict` says by the request line how it closes one."""

    def __init__(self, url: str) -> None:
        self._target = url
        self.verdict: Verdict = lambda line: ""
        self.keeps = True
        self.lines: list[str] = []
        self._kept: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> KeepingProxy:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._session.close()

    async def say(self, data: bytes) -> None:
        """Send this on every open connection, although nobody asked for it."""
        for writer in self._kept:
            writer.write(data)
            await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._kept.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                found = re.search(r"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(found[1])) if found else b""
                line = head.partition("\r\n")[0]
                self.lines.append(line)
                what = self.verdict(line)
                if what:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-" if what == CLOSE_AMID else b"")
                    break
                writer.write(await self._forward(line, head, body))
                if not self.keeps:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._kept.discard(writer)
            writer.close()

    async def _forward(self, line: str, head: str, body: bytes) -> bytes:
        method, path, _ = line.split(" ")
        fields = dict(re.findall(r"(?m)^(Authorization|Content-Type): ([^\r]*)", head))
        async with self._session.request(method, self._target + path, data=body or None, headers=fields) as got:
            data = await got.read()
        fields = {"Content-Type": got.content_type, "Content-Length": str(len(data))}
        fields |= {} if self.keeps else {"Connection": "close"}
        start = "".join([f"HTTP/1.1 {got.status} OK\r\n", *(f"{n}: {v}\r\n" for n, v in fields.items()), "\r\n"])
        return start.encode() + data


@pytest.fixture
async def proxy(bare: World) -> AsyncIterator[KeepingProxy]:
    async with KeepingProxy(bare.sandbox.url) as proxy:
        bare.text = configuration(bare.sandbox, "sqlite:gateway.db", {}).replace(bare.sandbox.url, proxy.url)
        await bare.resume()
        yield proxy


def posts(proxy: KeepingProxy) -> int:
    return sum(line.startswith("POST") for line in proxy.lines)


def first_post(what: str) -> Verdict:
    """Do that to the first POST."""
    done: list[str] = []

    def verdict(line: str) -> str:
        if line.startswith("POST") and not done:
            done.append(line)
            return what
        return ""

    return verdict


async def test_a_run_whose_kept_connection_was_being_closed_is_sent_again(bare: World, proxy: KeepingProxy) -> None:
    proxy.verdict = first_post(CLOSE)  # the definition was read on the same connection just before
    assert (await bare.rows("by_country", max_age=0))[0]
    assert posts(proxy) == 2


async def test_it_is_sent_again_once_only(bare: World, proxy: KeepingProxy) -> None:
    proxy.verdict = lambda line: CLOSE if line.startswith("POST") else ""
    assert (await bare.post("by_country", max_age=0, wait=10)).status == 502
    assert posts(proxy) == 2


async def test_a_response_that_has_begun_is_the_end_of_it(bare: World, proxy: KeepingProxy) -> None:
    proxy.verdict = first_post(CLOSE_AMID)
    assert (await bare.post("by_country", max_age=0, wait=10)).status == 502
    assert posts(proxy) == 1


async def test_a_new_connection_that_is_closed_is_no_race(bare: World, proxy: KeepingProxy) -> None:
    proxy.keeps = False
    proxy.verdict = first_post(CLOSE)
    assert (await bare.post("by_country", max_age=0, wait=10)).status == 502
    assert posts(proxy) == 1


async def test_a_server_that_had_time_to_read_may_have_acted(bare: World, proxy: KeepingProxy) -> None:
    def late(line: str) -> str:
        if line.startswith("POST"):
            bare.clock.turn(2.0)
            return CLOSE
        return ""

    proxy.verdict = late
    assert (await bare.post("by_country", max_age=0, wait=10)).status == 502
    assert posts(proxy) == 1


@pytest.mark.parametrize(
    ("path", "client", "body"),
    [
        ("/api/query_results", "sql", {"query": "select 1", "data_source_id": 1}),
        ("/api/queries/{}/refresh", "sql", {}),
        ("/api/queries/{}", "writer", {"name": "other"}),
    ],
    ids=["free SQL", "refresh", "write"],
)
async def test_what_may_not_be_done_twice_is_sent_once(
    bare: World, proxy: KeepingProxy, path: str, client: str, body: dict[str, object]
) -> None:
    await bare.get("/api/session", client=client)  # a connection to reuse
    proxy.verdict = first_post(CLOSE)
    url = path.format(bare.named["by_country"])
    reply = await bare.call("POST", url, json.dumps(body).encode(), client=client, headers={"Prefer": "wait=10"})
    assert reply.status == 502
    assert posts(proxy) == 1


STRAY: Final = b'{"id": 1, "name": "of somebody else"}'


@pytest.mark.parametrize("is_read", [True, False], ids=["read before", "unread"])
async def test_what_comes_unasked_is_no_response_to_the_next_request(
    bare: World, proxy: KeepingProxy, is_read: bool
) -> None:
    """Whoever sends that one: all credentials share the connections."""
    for name in ("by_country", "countries", "kb1"):
        query_id = bare.named[name]
        reply = await bare.get(f"/api/queries/{query_id}")
        assert (reply.status, reply.json["id"]) == (200, query_id)
        await proxy.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(STRAY), STRAY))
        if is_read:
            await bare.get("/ping")  # meanwhile the event loop reads what has come
