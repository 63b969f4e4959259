"""The recipes of `docs/live.md`, run as they stand there: only address, token and query are those of the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.documents import recipe
from support.kitchen import Kitchen
from support.world import World


@pytest.fixture
async def kitchen(bare: World, tmp_path: Path) -> Kitchen:
    await bare.start(dashboard='can = ["read", "execute", "purge"]\n')
    directory = tmp_path / "recipes"
    directory.mkdir()
    return Kitchen(bare, directory)


async def test_a_load_says_that_data_is_new(kitchen: Kitchen, needs: Callable[[str], str]) -> None:
    needs("curl")
    world = kitchen.world
    for _ in range(2):
        reply = await world.post("by_country", wait=20, max_age=600)
    assert "; hit" in reply.cache
    printed = json.loads(await kitchen.run(needs("bash"), "-ec", kitchen.filled(recipe("load"))))
    assert printed.keys() == {"purged", "queries"}
    assert printed["queries"] == 1
    assert "fwd=" in (await world.post("by_country", wait=20, max_age=600)).cache
