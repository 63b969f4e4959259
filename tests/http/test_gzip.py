"""gzip forms of responses: when they are used, their ETags, that each is made once and counts against the memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from support.calls import TOKENS
from support.http import Reply
from support.world import World

import gateway.store.compression

GZIP = {"Accept-Encoding": "gzip"}


async def raw(
    world: World, method: str, path: str, headers: Mapping[str, str], body: object = None, client: str = "dashboard"
) -> Reply:
    """One response with its body as it was sent."""
    sent = {"Authorization": f"Key {TOKENS[client]}", **headers}
    data = None if body is None else json.dumps(body).encode()
    skip = [] if "Accept-Encoding" in headers else ["Accept-Encoding"]
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=skip) as session,
        session.request(method, world.url + path, data=data, headers=sent) as response,
    ):
        return Reply(response.status, response.headers.copy(), await response.read())


def latest(world: World, name: str, form: str = "json") -> str:
    return f"/api/queries/{world.named[name]}/results.{form}"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Every form that is made: the size of its body, and whether it was made off the event loop."""
    sizes: list[tuple[int, bool]] = []
    original = gateway.store.compression._gzip

    def noted(body: Any) -> bytes:
        sizes.append((body.size, threading.current_thread() is not threading.main_thread()))
        return original(body)

    monkeypatch.setattr(gateway.store.compression, "_gzip", noted)
    return sizes


@pytest.mark.parametrize(
    ("accepted", "is_gzip"),
    [
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("*", True),
        ("br, gzip;q=0.001", True),
        (None, False),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip;q=0", False),
        ("*, gzip; q=0", False),
        ("gzip;q=x", False),
    ],
)
async def test_callers_that_accept_gzip_get_it(world: World, accepted: str | None, is_gzip: bool) -> None:
    # RFC 9110 section 12.5.3; without the field any coding is allowed, but such a client may not know gzip.
    plain = await raw(world, "GET", latest(world, "kb100"), {"Accept-Encoding": "identity"})
    got = await raw(world, "GET", latest(world, "kb100"), {} if accepted is None else {"Accept-Encoding": accepted})
    assert got.headers.get("Content-Encoding") == ("gzip" if is_gzip else None)
    assert (gzip.decompress(got.body) if is_gzip else got.body) == plain.body
    assert got.headers["Content-Length"] == str(len(got.body))
    assert "Accept-Encoding" in got.headers["Vary"]


@pytest.mark.parametrize(
    ("name", "form"), [("kb1", "json"), ("kb100", "json"), ("kb100", "csv"), ("large", "json"), ("large", "csv")]
)
async def test_every_size_and_form(world: World, name: str, form: str) -> None:
    path = latest(world, name, form)
    plain = await raw(world, "GET", path, {"Accept-Encoding": "identity"})
    for _ in range(4):  # fetched, stored, cached, by the fast path
        got = await raw(world, "GET", path, GZIP)
        assert gzip.decompress(got.body) == plain.body
        assert len(got.body) < len(plain.body) * 0.9


async def test_posts_and_lists_too(world: World) -> None:
    path = f"/api/queries/{world.named['kb100']}/results"
    for _ in range(4):
        got = await raw(world, "POST", path, GZIP, {"max_age": 86_400})
        assert json.loads(gzip.decompress(got.body))["query_result"]["data"]["rows"]
    for _ in range(2):
        listed = await raw(world, "GET", "/api/queries?page_size=100", GZIP)
        assert json.loads(gzip.decompress(listed.body))["results"]


async def test_small_responses_and_errors_are_not_encoded(world: World) -> None:
    for path in ("/ping", "/api/nothing", latest(world, "now")):
        got = await raw(world, "GET", path, GZIP)
        assert "Content-Encoding" not in got.headers


async def test_each_encoding_has_its_own_tag(world: World) -> None:
    # RFC 9110 section 8.8.3.3: a strong tag is of the bytes, and those differ.
    path = latest(world, "kb100")
    plain, packed = [await raw(world, "GET", path, {"Accept-Encoding": e}) for e in ("identity", "gzip")]
    assert packed.headers["ETag"] == plain.headers["ETag"][:-1] + '-gzip"'
    for _ in range(4):
        same = await raw(world, "GET", path, {**GZIP, "If-None-Match": packed.headers["ETag"]})
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", packed.headers["ETag"])
        assert "Content-Encoding" not in same.headers
        other = await raw(world, "GET", path, {**GZIP, "If-None-Match": plain.headers["ETag"]})
        assert (other.status, other.body) == (200, packed.body)
        neither = await raw(world, "GET", path, {"If-None-Match": packed.headers["ETag"]})
        assert (neither.status, neither.body) == (200, plain.body)


async def test_head_says_what_get_would_send(world: World) -> None:
    for name in ("kb100", "large"):
        await raw(world, "GET", latest(world, name), GZIP)  # a large one is sent unchanged while it is fetched
        got = await raw(world, "GET", latest(world, name), GZIP)
        for _ in range(4):
            head = await raw(world, "HEAD", latest(world, name), GZIP)
            assert head.body == b""
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
            assert head.headers["Content-Encoding"] == "gzip"


async def test_made_once_off_the_loop_for_any_number_of_requests(world: World, made: list[tuple[int, bool]]) -> None:
    path = latest(world, "large")
    await raw(world, "GET", path, {})
    responses = await asyncio.gather(*(raw(world, "GET", path, GZIP) for _ in range(20)))
    assert len({response.body for response in responses}) == 1
    await raw(world, "GET", path, GZIP, client="second")
    await raw(world, "GET", f"/api/queries/{world.named['large']}/results", GZIP)
    assert len(made) == 1
    assert made[0][1], "a large form was made on the event loop"


async def test_a_file_made_here_has_its_own_gzip_form(bare: World) -> None:
    # A query key's CSV is made from the stored JSON; the JSON's form must not be used for it.
    query_id = bare.named["kb100"]
    key = f'kind = "query"\nquery = {query_id}\nkey_env = "QUERY_KEY_{query_id}"'
    await bare.start(f"\n[credentials.another]\n{key}\n")
    job = await bare.finish((await bare.post("kb100", client="narrow", max_age=0)).job["id"], client="narrow")
    path = f"/api/queries/{query_id}/results/{job['query_result_id']}"
    for _ in range(3):
        as_json = await raw(bare, "GET", f"{path}.json", GZIP, client="narrow")
        as_csv = await raw(bare, "GET", f"{path}.csv", GZIP, client="narrow")
        plain = await raw(bare, "GET", f"{path}.csv", {}, client="narrow")
        assert gzip.decompress(as_json.body).startswith(b'{"query_result"')
        assert gzip.decompress(as_csv.body) == plain.body
        assert not plain.body.startswith(b"{")


async def test_a_new_result_has_a_new_gzip_form(world: World) -> None:
    query_id = world.named["kb100"]
    path = f"/api/queries/{query_id}/results"
    await raw(world, "POST", path, GZIP, {"max_age": 86_400})
    world.sandbox.edit_query(query_id, query="select *, 'new' as new from orders limit 500")
    world.clock.turn(121)
    rows = await world.rows(query_id, max_age=0)
    got = await raw(world, "GET", path, GZIP)
    assert json.loads(gzip.decompress(got.body))["query_result"]["data"]["rows"] == rows
    assert rows[0]["new"] == "new"


async def test_gzip_forms_count_against_the_memory_and_are_dropped_with_their_bodies(world: World) -> None:
    await raw(world, "GET", latest(world, "large"), {})
    before = await world.metric("redash_gateway_cache_bytes", tier="memory")
    packed = await raw(world, "GET", latest(world, "large"), GZIP)
    after = await world.metric("redash_gateway_cache_bytes", tier="memory")
    assert after - before == len(packed.body)
    await world.purge({"query": world.named["large"]})
    assert await world.metric("redash_gateway_cache_bytes", tier="memory") < before


async def test_gzip_forms_are_in_memory_only(world: World, made: list[tuple[int, bool]]) -> None:
    await raw(world, "GET", latest(world, "large"), GZIP)
    packed = await raw(world, "GET", latest(world, "large"), GZIP)
    await world.runtime.store.close()
    for file in world.directory.rglob("*"):
        if file.is_file():
            assert packed.body[20:200] not in file.read_bytes(), file
    await world.restart()
    again = await raw(world, "GET", latest(world, "large"), GZIP)
    assert again.body == packed.body
    assert len(made) == 2


WITHOUT_ISAL = """
import asyncio, gzip, sys
sys.modules["isal"] = None  # importing it fails
from gateway.body import Body
from gateway.store.compression import gzip_body
data = b"one row; " * 1000
print(gzip.decompress(asyncio.run(gzip_body(Body.of(data))).load()) == data)
"""


def test_without_isal_they_are_made_by_zlib() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_ISAL], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
