"""redash-toolbelt 0.1.9 from PyPI, unchanged: it gets the same through the gateway as directly, from Redash 8 to 26."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from redash_toolbelt import Redash
from redash_toolbelt.examples.refresh_dashboard import refresh_dashboard
from redash_toolbelt.examples.refresh_query import get_fresh_query_result
from support.calls import TOKENS
from support.world import World

KEYS = {"api_key", "public_url"}
"""Members that the gateway sets to null for clients without `reveal_keys` (CONTRACT 15)."""


@pytest.fixture(params=["8", "10", "26"])
def redash(request: pytest.FixtureRequest) -> str:
    """The version of Redash."""
    return str(request.param)


def compared(value: Any) -> Any:
    """Without keys, and without `active_at`, which moves whenever that person uses Redash (CONTRACT 5)."""
    if isinstance(value, list):
        return [compared(item) for item in value]
    if isinstance(value, dict):
        return {name: None if name in KEYS else compared(v) for name, v in value.items() if name != "active_at"}
    return value


def clients(world: World) -> tuple[Redash, Redash]:
    """Through the gateway, and directly with the key that the gateway uses for that client."""
    return Redash(world.url, TOKENS["dashboard"]), Redash(world.sandbox.url, world.sandbox.user_keys["analyst"])


def board(world: World, name: str) -> int | str:
    """What the version's URLs of a dashboard have: its slug in Redash 8, its id in later ones."""
    found = next(board for board in world.sandbox.database.dashboards.values() if board.name == name)
    return found.slug if world.sandbox.version.dashboards_by_slug else found.id


async def refresh(world: World, name: str, parameters: dict[str, Any], *, client: str = "dashboard") -> Any:
    return await asyncio.to_thread(get_fresh_query_result, world.url, world.named[name], TOKENS[client], parameters)


async def directly(world: World, name: str, parameters: dict[str, Any]) -> Any:
    key = world.sandbox.user_keys["analyst"]
    return await asyncio.to_thread(get_fresh_query_result, world.sandbox.url, world.named[name], key, parameters)


async def outcome(work: Any) -> Any:
    """What it returned, or its error if it failed."""
    try:
        return await work
    except Exception as error:
        return str(error)


@pytest.mark.parametrize("method", ["queries", "dashboards", "get_data_sources", "alerts"])
async def test_lists_are_the_same(world: World, method: str) -> None:
    through, direct = clients(world)
    got, wanted = await asyncio.gather(*(asyncio.to_thread(getattr(c, method)) for c in (through, direct)))
    assert got
    assert compared(got) == compared(wanted)


async def test_one_query_and_one_dashboard_are_the_same_except_for_keys(world: World) -> None:
    through, direct = clients(world)
    query_id, board_id = world.named["by_country"], board(world, "Sales overview")
    for method, name in (("get_query", query_id), ("get_dashboard", board_id)):
        got, wanted = [await asyncio.to_thread(getattr(c, method), name) for c in (through, direct)]
        assert compared(got) == compared(wanted)
        assert got.get("api_key") is None


async def test_pages_add_up_to_the_same_queries(world: World) -> None:
    # CONTRACT 5: a page beyond the end is an error, so the client stops by `count`.
    through, direct = clients(world)
    got = await asyncio.to_thread(through.paginate, through.queries, page_size=10)
    wanted = await asyncio.to_thread(direct.paginate, direct.queries, page_size=10)
    assert len(got) > 20
    assert compared(got) == compared(wanted)


async def test_credentials_are_tested_as_against_redash(world: World) -> None:
    through, _ = clients(world)
    assert await asyncio.to_thread(through.test_credentials)
    assert not await asyncio.to_thread(Redash(world.url, "rg_no_such_token").test_credentials)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("by_country", {}),
        ("in_country", {"country": "FR"}),
        ("revenue_by_month", {"period": {"start": "2024-02-01", "end": "2024-04-30"}}),
        ("multi", {"statuses": ["paid", "shipped"]}),
        ("failing", {}),  # "Query execution failed."
        ("in_country", {}),  # a missing parameter: 400 (CONTRACT 6), "Refresh failed."
    ],
)
async def test_refresh_query_gives_the_same_rows_or_the_same_failure(
    world: World, name: str, parameters: dict[str, Any]
) -> None:
    # It posts max_age 0, expects ["job"], polls once a second until 3 or 4, reads the nested result (CONTRACT 21).
    got, wanted = await asyncio.gather(
        outcome(refresh(world, name, parameters)), outcome(directly(world, name, parameters))
    )
    assert got == wanted


async def test_refresh_query_works_with_a_query_key_behind_the_gateway(world: World) -> None:
    # In Redash it fails on the flat jobs route, which is 404 for query keys (CONTRACT 21); the gateway serves both
    # job routes and gives reduced results its own ids.
    got, wanted = await asyncio.gather(
        refresh(world, "in_country", {"country": "FR"}, client="narrow"),
        directly(world, "in_country", {"country": "FR"}),
    )
    assert got
    assert got == wanted


async def test_refresh_query_becomes_a_hit_within_a_floor(bare: World) -> None:
    # A max_age of 0 that a floor satisfies gets a finished job, because this client expects ["job"].
    await bare.start(dashboard='floor = "30s"')
    first = await refresh(bare, "in_country", {"country": "FR"})
    started = bare.sandbox.counters.started
    assert await refresh(bare, "in_country", {"country": "FR"}) == first
    assert bare.sandbox.counters.started == started


async def test_refresh_dashboard_gives_the_same_lines(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    # By slug the example works with Redash 8 only (CONTRACT 21); with later ones the id is used instead.
    name = str(board(world, "Sales overview"))
    await asyncio.to_thread(refresh_dashboard, world.sandbox.url, world.sandbox.user_keys["analyst"], name)
    wanted = capsys.readouterr().out
    await asyncio.to_thread(refresh_dashboard, world.url, TOKENS["dashboard"], name)
    assert capsys.readouterr().out == wanted
    assert wanted.count("Code 200") == 3


async def test_query_export_writes_the_same_files(world: World, tmp_path: Path) -> None:
    direct = (world.sandbox.url, world.sandbox.user_keys["analyst"])
    through = (world.url, TOKENS["dashboard"])
    written = await asyncio.gather(export(tmp_path / "direct", *direct), export(tmp_path / "through", *through))
    assert len(written[0]) > 20
    assert written[1] == written[0]


async def export(directory: Path, url: str, key: str) -> dict[str, str]:
    os.mkdir(directory)
    command = (sys.executable, "-m", "redash_toolbelt.examples.query_export", url, "--api-key", key)
    child = await asyncio.create_subprocess_exec(*command, cwd=directory)
    assert await child.wait() == 0
    return texts_in(directory)


def texts_in(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}
