"""Three gateways, one Redis and one sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.cluster import Cluster, clustered
from support.redis_server import RedisServer

from gateway.sandbox import Sandbox


@pytest.fixture
async def redis(tmp_path: Path, needs: Callable[[str], str]) -> AsyncIterator[RedisServer]:
    needs("redis-server")
    server = RedisServer(tmp_path / "redis")
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def cluster(tmp_path: Path, sandbox: Sandbox, redis: RedisServer) -> AsyncIterator[Cluster]:
    async with clustered(tmp_path, sandbox, [redis.url] * 3, server='max_wait = "20s"') as made:
        yield made
