"""Lists and objects are parsed as a whole: how large one may be, and what all on their way take together."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from security.front import Front, Seen, Stub, Upstream, client, credential
from support.calls import token
from support.waiting import until

from gateway.upstream.reading import LEAST_OBJECT, ObjectMemory

FIELDS = {"Authorization": f"Key {token('user')}", "Accept-Encoding": "identity"}
MEMORY = 56 * 10**6
LARGEST = ObjectMemory(MEMORY).largest


def listed(size: int) -> bytes:
    """A list of so many bytes."""
    return b'{"results": "' + b"x" * (size - 15) + b'"}'


@pytest.fixture
def body() -> list[bytes]:
    """What Redash responds with."""
    return [listed(LARGEST)]


@pytest.fixture
async def front(tmp_path: Path, body: list[bytes]) -> AsyncIterator[Front]:
    async with Upstream(lambda _: Stub(200, body[0])) as upstream:
        made = Front(tmp_path, upstream.url)
        made.write(
            client("user"),
            credential(tmp_path, "user"),
            cache=f'memory = {MEMORY}\nmetadata_ttl = "0s"',
            upstream='queue_timeout = "200ms"',
        )
        async with made:
            yield made


def taken(front: Front) -> int:
    return front.runtime.upstream._exchange.objects.allowance.taken


async def test_the_largest_is_a_share_of_the_memory(front: Front, body: list[bytes]) -> None:
    assert (await front.call("GET", "/api/queries", client="user")).status == 200
    body[0] = listed(LARGEST + 1)
    reply = await front.call("GET", "/api/queries", client="user")
    assert reply.status == 502
    assert "cache.memory" in reply.json["detail"]


async def test_a_large_object_counts_until_its_caller_has_it(front: Front) -> None:
    """Callers that read slowly hold it; the next ones wait for their turn, then get 503, and small lists are free."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(2):
            request = front.session.get(f"{front.url}/api/queries?page={number}", headers=FIELDS)
            assert (await stack.enter_async_context(request)).status == 200
        assert taken(front) == 2 * LARGEST
        refused = await front.call("GET", "/api/queries?page=7", client="user")
        assert refused.status == 503
        assert refused.headers["Retry-After"]
    await until(lambda: taken(front) == 0)
    assert (await front.call("GET", "/api/queries?page=7", client="user")).status == 200


async def test_small_lists_need_no_memory_of_others(front: Front, body: list[bytes]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(2):
            request = front.session.get(f"{front.url}/api/queries?page={number}", headers=FIELDS)
            await stack.enter_async_context(request)
        body[0] = b'{"results": []}'
        assert (await front.call("GET", "/api/queries?page=7", client="user")).status == 200


async def test_what_is_cached_counts_in_the_cache(tmp_path: Path) -> None:
    small = b'{"results": "' + b"x" * 100_000 + b'"}'

    def respond(_: Seen) -> Stub:
        return Stub(200, small)

    async with Upstream(respond) as upstream:
        front = Front(tmp_path, upstream.url)
        front.write(client("user"), credential(tmp_path, "user"), cache='memory = "8MB"')
        async with front:
            assert (await front.call("GET", "/api/queries", client="user")).status == 200
            await until(lambda: taken(front) == 0)
            reply = await front.call("GET", "/api/queries", client="user")
            assert "hit" in reply.cache
            assert len(reply.body) == len(small)


@pytest.mark.parametrize("compressed", [False, True])
async def test_many_large_ones_at_once_wait_for_each_other(tmp_path: Path, compressed: bool) -> None:
    """Without a length, as nginx sends what it compresses, each counts as the largest until it is read."""
    plain = listed(LEAST_OBJECT // 2)
    stub = Stub(200, plain)
    if compressed:
        stub = Stub(200, gzip.compress(plain), {"Content-Type": "application/json", "Content-Encoding": "gzip"})
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(taken(front))
            await asyncio.sleep(0)

    async with Upstream(lambda _: stub) as upstream:
        front = Front(tmp_path, upstream.url)
        front.write(client("user"), credential(tmp_path, "user"), cache='memory = "8MB"')
        async with front:
            watching = asyncio.create_task(watch())
            calls = (front.call("GET", f"/api/queries?page={n}", client="user") for n in range(12))
            replies = await asyncio.gather(*calls)
            watching.cancel()
            assert {(reply.status, len(reply.body)) for reply in replies} == {(200, len(plain))}
            assert LEAST_OBJECT <= max(seen) <= 2 * LEAST_OBJECT
            await until(lambda: taken(front) == 0)


async def test_a_caller_that_leaves_gives_the_memory_back(front: Front) -> None:
    for number in range(6):
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=0.03 * number)
            async with front.session.get(f"{front.url}/api/queries?page={number}", headers=FIELDS, timeout=timeout):
                pass
    await until(lambda: taken(front) == 0)
