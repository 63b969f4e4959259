"""Fixtures of the tests of stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_helpers import MAKERS, REDIS, VALKEY, FakeClock, opened

from gateway.store.redis import silence


@pytest.fixture(scope="session", autouse=True)
def servers_are_stopped() -> Iterator[None]:
    yield
    REDIS.stop()
    VALKEY.stop()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may be slow here: the machine has other things to do."""
    monkeypatch.setattr(silence, "SILENT_SECONDS", 10.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture(params=list(MAKERS))
async def store(request: pytest.FixtureRequest, path: Path, clock: FakeClock) -> AsyncIterator[Any]:
    async with opened(MAKERS[request.param](path, clock)) as made:
        yield made
