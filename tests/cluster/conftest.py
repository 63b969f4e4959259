"""Three gateways, one Redis and one sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.cluster import Cluster, clustered
from support.redis_server import RedisServer

from gateway.sandbox import Sandbox


@pytest.fixture
async def cluster(tmp_path: Path, sandbox: Sandbox, redis: RedisServer) -> AsyncIterator[Cluster]:
    async with clustered(tmp_path, sandbox, [redis.url] * 3, server='max_wait = "20s"') as made:
        yield made
