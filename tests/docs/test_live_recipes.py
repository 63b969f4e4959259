"""The recipes of `docs/live.md`, run as they stand there: only address, token and query are those of the test."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.calls import TOKENS
from support.documents import recipe
from support.kitchen import Kitchen
from support.waiting import until, within
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


async def test_a_script_that_waits_for_newer_rows(kitchen: Kitchen) -> None:
    pytest.importorskip("requests")
    world = kitchen.world
    script = kitchen.written(recipe("wait-for-newer"), "recipe.py")
    environment = {**os.environ, "GATEWAY_TOKEN": TOKENS["dashboard"], "no_proxy": "*"}
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, str(script), env=environment, stdout=pipe, stderr=pipe)
    assert child.stdout is not None
    try:
        async with within(30):
            first = await child.stdout.readline()
            await until(lambda: world.runtime.watchers.count == 1)
            key = {"parameters": {"country": "DE"}}
            await world.post("in_country", wait=20, max_age=0, **key)
            second = await child.stdout.readline()
    finally:
        child.kill()
        await child.communicate()
    assert first == second != b"", "the rows are the same, the result is a newer one"
