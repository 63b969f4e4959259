"""Gateways that share a Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.clocks import TurnableClock
from support.fault_proxy import FaultProxy
from support.redis_server import RedisServer
from support.world import World

from gateway.sandbox import Sandbox
from gateway.store.redis import silence


@pytest.fixture
async def gateways(
    tmp_path: Path,
    sandbox: Sandbox,
    clock: TurnableClock,
    redis: RedisServer,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[list[World]]:
    """Three of them before one sandbox, with a proxy between that breaks responses."""
    monkeypatch.setattr(silence, "SILENT_SECONDS", 2.0)  # three gateways in one process on a busy machine
    worlds = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        worlds.append(World(tmp_path / name, sandbox, clock, proxy.url))
        await worlds[-1].start(store=redis.url, cache='failure_ttl = "0s"', extra=f'[redis]\nname = "{name}"\n')
    yield worlds
    for world in worlds:
        if world.runtime.serving:
            await world.stop()
