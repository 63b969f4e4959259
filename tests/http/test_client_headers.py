"""What real clients send gets the response of a plain request, from the cache, however its bytes are cut."""

from __future__ import annotations

import asyncio
import gzip
import re
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import pytest
from support.calls import TOKENS
from support.client_requests import FOLDER, OTHER_ORIGIN, ClientRequest, client_requests
from support.world import World

REQUESTS = client_requests()
NAMES = [request.name for request in REQUESTS]
KINDS = r"(navigation|preflight of (GET|POST)|(GET|POST)( again)?)( from another origin)?"
TIMES = 4
"""From the third time on the fast path can serve a request."""


class Got(msgspec.Struct, frozen=True):
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def text(self) -> bytes:
        return gzip.decompress(self.body) if self.fields.get("content-encoding") == "gzip" else self.body


class Line:
    """A connection that sends segments apart from each other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, *segments: bytes) -> Got:
        for segment in segments:
            self._writer.write(segment)
            for _ in range(4):  # the gateway, in the same loop, reads each segment before the next one is sent
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            fields = {name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+): (.*?)\r$", head)}
            return Got(
                int(head.split()[1]), fields, await self._reader.readexactly(int(fields.get("content-length", 0)))
            )

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self._reader.read(1) == b""


@asynccontextmanager
async def line(world: World) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(world.url).port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


def cuts(segments: list[bytes]) -> dict[str, list[bytes]]:
    """The same bytes as recorded, in one segment, head and body apart, and cut within the head."""
    whole = b"".join(segments)
    head, mark, body = whole.partition(b"\r\n\r\n")
    parted = [head + mark, body] if body else [head[:-1], head[-1:] + mark]
    half = len(head) // 2
    return {"recorded": segments, "one": [whole], "two": parted, "within the head": [whole[:half], whole[half:]]}


async def replay(world: World, request: ClientRequest, segments: list[bytes]) -> list[Got]:
    """Send a request several times, over one connection if the client keeps it."""
    if request.kept:
        async with line(world) as one:
            return [await one.ask(*segments) for _ in range(TIMES)]
    found = []
    for _ in range(TIMES):
        async with line(world) as one:
            found.append(await one.ask(*segments))
            if ("Connection", "close") in request.fields:
                assert await one.closed(), "the client asked for the end of the connection"
    return found


@pytest.mark.parametrize("request_", REQUESTS, ids=NAMES)
async def test_the_request_of_a_client_is_a_hit_with_the_body_of_a_plain_request(
    bare: World, by_fast_path: list[bytes], request_: ClientRequest
) -> None:
    await bare.start(server=f'cors_origins = ["{OTHER_ORIGIN}"]')
    query = bare.named["kb1"]
    await bare.rows("kb1", max_age=86_400)  # the run; from here on everything is in the cache
    target = request_.target.partition("?")[0].replace("{query}", str(query))
    plain = await bare.call(*(("POST", target, {"max_age": 86_400}) if request_.body else ("GET", target)))
    assert plain.status == 200
    sent = request_.segments(
        host=urlsplit(bare.url).netloc, token=TOKENS["dashboard"], query=query, etag=await etag(bare, target, request_)
    )
    for cut, segments in cuts(sent).items():
        before = len(by_fast_path)
        for got in await replay(bare, request_, segments):
            check(request_, got, plain.body, cut)
        assert request_.method == "OPTIONS" or len(by_fast_path) > before, f"{cut}: none took the fast path"


async def etag(world: World, target: str, request: ClientRequest) -> str:
    """The ETag that the browser has from its request before; each encoding has its own."""
    if "again" not in request.kind:
        return ""
    return (await world.get(target, accept_encoding="gzip")).headers["ETag"]


def check(request: ClientRequest, got: Got, plain: bytes, cut: str) -> None:
    if "another origin" in request.kind or request.method == "OPTIONS":
        assert got.fields["access-control-allow-origin"] == OTHER_ORIGIN, cut
    if request.method == "OPTIONS":
        assert (got.status, got.text) == (204, b""), cut
    elif "again" in request.kind:
        assert (got.status, got.text) == (304, b""), cut
    else:
        assert (got.status, got.text) == (200, plain), cut
        assert "hit" in got.fields["cache-status"], cut


@pytest.mark.parametrize("request_", REQUESTS, ids=NAMES)
def test_every_recorded_request_is_well_formed(request_: ClientRequest) -> None:
    assert re.fullmatch(r"(GET|POST|OPTIONS) /api/queries/\{query\}/results\S* HTTP/1\.1", request_.head.split("\n")[0])
    assert re.fullmatch(KINDS, request_.kind)
    for line_ in request_.head.split("\n")[1:]:
        assert re.fullmatch(r"[\w-]+: \S(.*\S)?", line_, re.ASCII), line_
    named = Counter(name.lower() for name, _ in request_.fields)
    assert set(named.values()) == {1}, "a field stands there twice"
    assert "host" in named
    assert request_.head.count("{token}") >= (request_.method != "OPTIONS")
    lengths = [int(value) for name, value in request_.fields if name.lower() == "content-length"]
    assert sum(lengths) == len(request_.body), "the length is that of the body"
    assert bool(request_.body) == (request_.method == "POST")
    assert not request_.kept or ("Connection", "close") not in request_.fields


@pytest.mark.parametrize("request_", REQUESTS, ids=NAMES)
def test_every_mark_is_filled_and_no_place_of_the_recording_is_left(request_: ClientRequest) -> None:
    sent = request_.segments(host="gateway.example", token="rg_token", query=7, etag='"tag"')
    head, _, body = b"".join(sent).partition(b"\r\n\r\n")
    assert not re.search(rb"[{}]|127\.0\.0\.1|localhost", head)
    assert body == request_.body
    assert (len(sent) == 2) == request_.split


def test_another_body_has_its_own_length() -> None:
    for request in [request for request in REQUESTS if request.body]:
        sent = b"".join(request.segments(host="h", token="t", query=1, body=b"x" * 1000))
        assert sent.endswith(b"\r\n\r\n" + b"x" * 1000)
        assert re.search(rb"(?i)\r\ncontent-length: 1000\r\n", sent)


def test_each_client_has_a_file_and_each_recorded_one_the_program_that_records_it_again() -> None:
    files = {path.stem: tomllib.loads(path.read_text()) for path in FOLDER.glob("*.toml")}
    assert len({file["client"] for file in files.values()}) == len(files)
    recorded = {name for name, file in files.items() if {"version", "recorded"} <= set(file)}
    documented = {name for name, file in files.items() if "documented" in file}
    assert recorded == {path.stem for path in (FOLDER / "programs").iterdir() if path.is_file()}
    assert documented == set(files) - recorded
