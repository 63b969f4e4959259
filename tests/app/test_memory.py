"""What an operator sets as `cache.memory` predicts the memory of the process, whatever Redash and callers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from security.front import Front, Seen, Stub, Upstream, client, credential, query_object
from support.calls import token
from support.process import Process

from gateway.upstream.reading import ObjectMemory

MB = 10**6
MEMORY = 32
"""`cache.memory` in MB."""

BOUND = 120 + 4 * MEMORY
"""As docs/operation.md has it (Sizing)."""

SECONDS = 12.0
CALLERS = 48

NAMED = {"Content-Type": "application/json", "Content-Disposition": "attachment; filename=q_2026_11_26.json"}
LARGEST = ObjectMemory(MEMORY * MB).largest
JUNK = [
    b"[" + b",".join(b'"ab%d"' % (n % 97) for n in range(LARGEST // 7)) + b"]",  # very many small objects
    b'{"results": "' + b"x" * (LARGEST - 100) + b'"}',
    b"<html>" + b"y" * (LARGEST - 100),
    b"[" * 10_000 + b"1," * (LARGEST // 3),
    b"[" + b"1, " * LARGEST,
]


def result(number: int, size: int) -> bytes:
    rows = b",".join(b'{"a": %d, "t": "some text of this row"}' % n for n in range(size // 40))
    return (
        b'{"query_result": {"id": %d, "query_hash": "%032x", "query": "select %d", "data": {"columns": [], "rows": ['
        b'%s]}, "data_source_id": 1, "runtime": 0.1, "retrieved_at": "2026-11-26T12:00:00.000Z"}}'
        % (number, number, number, rows)
    )


def respond(seen: Seen) -> Stub:
    """Results of 20 KB to 3 MB, some of which are cut; definitions; and lists that are junk."""
    if found := re.fullmatch(r"/api/queries/(\d+)", seen.path):
        return Stub.json(query_object(int(found[1])))
    if found := re.fullmatch(r"/api/(?:queries/(\d+)/results|query_results/(\d+)\.json)", seen.path):
        number = int(found[1] or found[2])
        body = result(number, (20_000, 200_000, 3 * MB)[number % 3])
        return Stub(200, body[: len(body) // 2] if number % 11 == 0 else body, NAMED)
    return Stub(200, JUNK[len(seen.query) % len(JUNK)])


def peak_of(process: Process) -> int:
    status = Path(f"/proc/{process.child.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024 // MB


async def call(session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
    """Send one request of any kind, and read the response, some of them slowly."""
    number = rng.randrange(1, 3_000)
    method, path, body = rng.choice(
        [
            ("GET", "/api/queries?" + "a" * rng.randrange(40), None),
            ("GET", f"/api/query_results/{number}.json", None),
            ("POST", f"/api/queries/{number}/results", {"max_age": 3600}),
            ("POST", f"/api/queries/{number}/results", {"max_age": 3600, "junk": "x" * rng.randrange(900_000)}),
        ]
    )
    fields = {"Authorization": f"Key {token('user')}"}
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.request(method, url + path, json=body, headers=fields) as response:
            async for _ in response.content.iter_any():
                await asyncio.sleep(0.05 if rng.random() < 0.01 else 0)


async def break_disk(bodies: Path) -> None:
    """Put a file in the place of the directory of bodies, and the directory back, again and again."""
    aside = bodies.with_name("aside")
    while True:
        await asyncio.sleep(SECONDS / 6)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(bodies.rename, aside)
            await asyncio.to_thread(bodies.write_text, "no directory")
        await asyncio.sleep(SECONDS / 6)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(bodies.unlink)
        await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)


async def busy(url: str, bodies: Path) -> None:
    end = asyncio.get_running_loop().time() + SECONDS

    async def caller(number: int) -> None:
        rng = random.Random(number)
        while asyncio.get_running_loop().time() < end:
            await call(session, url, rng)

    breaking = asyncio.create_task(break_disk(bodies))
    limits = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limits) as session:
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    breaking.cancel()


@pytest.mark.long
async def test_the_memory_of_the_process_is_within_its_bound(tmp_path: Path, note: Callable[[str], None]) -> None:
    """With 40 MB it was 474 MB under faults, and 770 MB with junk on 16 connections."""
    async with Upstream(respond) as upstream:
        front = Front(tmp_path, upstream.url)
        front.write(client("user"), credential(tmp_path, "user"), upstream="breaker_failures = 1_000_000")
        text = front.file.read_text().replace('store = "memory:"', 'store = "sqlite:gateway.db"')
        front.file.write_text(text.replace("[cache]", f'[cache]\nmemory = "{MEMORY}MB"\ndisk = "60MB"'))
        process = await Process.start("serve", "-c", str(front.file), cwd=tmp_path)
        try:
            url, admin = await process.serving()
            start = peak_of(process)
            await busy(url, tmp_path / "gateway.db.bodies")
            peak = peak_of(process)
            async with aiohttp.ClientSession() as session, session.get(f"{admin}/api/status") as response:
                requests = json.loads(await response.read())
        finally:
            await process.kill()
    note(f"memory: {start} MB at the start, {peak} MB at most; the bound is {BOUND} MB")
    assert requests
    assert peak <= BOUND
