"""Callers cannot take all file descriptors: some remain for operators, Redash and the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from support.calls import TOKENS
from support.inside import connections
from support.kept import KeptCaller
from support.process import Process, certificate
from support.waiting import until
from support.world import World, configuration, token_table

from gateway.app import runtime
from gateway.app.descriptors import shares
from gateway.http import connection_limit
from gateway.sandbox import Sandbox

MOST = shares(0, 16).connections


@pytest.fixture
async def few(bare: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A gateway with as few connections as there may be."""
    monkeypatch.setattr(runtime, "limit_of_process", lambda: 0)
    await bare.start()
    return bare


@contextlib.asynccontextmanager
async def silent(url: str, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Hold so many connections that send nothing."""
    parts = urlsplit(url)
    opened = await asyncio.gather(*(asyncio.open_connection(parts.hostname, parts.port) for _ in range(count)))
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def test_the_connection_that_is_idle_longest_makes_room(few: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limit, "IDLE_ENOUGH_SECONDS", 0.0)
    async with silent(few.url, MOST) as readers:
        await until(lambda: len(connections(few.runtime)) == MOST)
        assert (await few.get("/api/session")).status == 200
        assert await readers[0].read() == b"", "the oldest"
        assert not any(reader.at_eof() for reader in readers[1:])


async def test_without_an_idle_one_a_new_connection_is_refused(
    few: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_limit, "IDLE_ENOUGH_SECONDS", 60.0)
    with caplog.at_level(logging.WARNING, "gateway.events"):
        async with silent(few.url, MOST) as readers:
            await until(lambda: len(connections(few.runtime)) == MOST)
            for _ in range(3):
                async with silent(few.url, 1) as (refused,):
                    response = await refused.read()
                    assert response.startswith(b"HTTP/1.1 503 ")
                    assert b"\r\nRetry-After: 1\r\n" in response
            assert not any(reader.at_eof() for reader in readers)
    assert caplog.text.count("file descriptors") == 1, "it is said once"
    assert await few.metric("redash_gateway_rejected_total", reason="unavailable") == 3


@pytest.mark.parametrize("limit", [64, 256, 1024, 65_536, 1 << 20])
def test_the_shares_leave_descriptors_for_all_else(limit: int) -> None:
    room = shares(limit, 16)
    assert room.connections >= 16
    assert room.backlog >= 16
    if limit >= 256:
        assert room.connections + room.backlog + 100 <= limit, "even when a whole backlog is accepted at once"
    if limit >= 65_536:
        assert room.connections > 60_000


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Programs that are started have 256 file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_with_256_descriptors_and_400_callers_all_parts_work(
    tmp_path: Path, sandbox: Sandbox, descriptors: None
) -> None:
    (tmp_path / "config.toml").write_text(configuration(sandbox, "sqlite:gateway.db", {}))
    process = await Process.start("serve", "-c", "config.toml", cwd=tmp_path, env=token_table(sandbox))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    headers = {"Authorization": f"Key {TOKENS['dashboard']}"}
    try:
        url, admin = await process.serving()
        async with aiohttp.ClientSession() as session, session.get(url + "/api/session", headers=headers) as first:
            assert first.status == 200
            kept = session.get(url + "/api/queries", headers=headers)  # over the same connection
            async with silent(url, 400):
                async with session.get(admin + "/livez") as alive:
                    assert alive.status == 200
                async with kept as second:
                    assert second.status == 200
        assert "system resource" not in process.text
        assert "Traceback" not in process.text
    finally:
        await process.kill()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_handshakes_that_never_end_leave_descriptors_for_all_else(
    tmp_path: Path, sandbox: Sandbox, needs: Callable[[str], str], descriptors: None, loop: str
) -> None:
    """A connection counts only once its TLS handshake is over: 400 that never began one took every descriptor."""
    needs("openssl")
    cert, key = certificate(tmp_path, "gateway")
    tls = f'tls_cert = "{cert}"\ntls_key = "{key}"\nevent_loop = "{loop}"'
    (tmp_path / "config.toml").write_text(configuration(sandbox, "sqlite:gateway.db", {"server": tls}))
    process = await Process.start("serve", "-c", "config.toml", cwd=tmp_path, env=token_table(sandbox))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        url, admin = await process.serving()
        url = url.replace("http:", "https:")
        async with silent(url, 400):
            caller = KeptCaller(url, TOKENS["dashboard"], keeps=False)
            for path in ("/api/session", "/api/queries"):
                assert (await caller.call("GET", path)).status == 200
            async with aiohttp.ClientSession() as session, session.get(admin + "/livez") as alive:
                assert alive.status == 200
            open_now = len(os.listdir(f"/proc/{process.child.pid}/fd"))
            assert open_now < 150, "of 256"
        assert "system resource" not in process.text
        assert "Traceback" not in process.text
    finally:
        await process.kill()


class Held:
    """A connection that counts how often it is looked at."""

    looked_at = 0

    def __init__(self, idle: float) -> None:
        self.idle, self.aborted, self.refused = idle, 0, 0

    def idle_seconds(self) -> float:
        Held.looked_at += 1
        return -1.0 if self.aborted else self.idle

    def abort(self) -> None:
        self.aborted += 1

    def refuse(self) -> None:
        self.refused += 1


def test_a_new_connection_costs_the_same_however_many_there_are() -> None:
    # Each one looked at all others, several times: with 57,000 of them it stopped the event loop for 0.8 s.
    for idle in (-1.0, 10.0):
        limit, held = connection_limit.ConnectionLimit(20_000), [Held(idle) for _ in range(20_000)]
        Held.looked_at = 0
        for _ in range(500):
            held.append(Held(0.0))
            limit.admit(held[-1], held)
        assert Held.looked_at < 2 * len(held), "once, not for each"
        assert sum(one.refused for one in held) == (500 if idle < 0 else 0)
        assert sum(one.aborted for one in held) == (500 if idle > 0 else 0)
