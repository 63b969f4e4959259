"""Gateways in one Redis that have the same name, or another Redash: metrics and status of all of them say so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.calls import AS_OPERATOR
from support.clocks import TurnableClock
from support.fault_proxy import FaultProxy
from support.http import send
from support.redis_server import RedisServer
from support.waiting import until
from support.world import World

from gateway.admin import health
from gateway.admin.health import Health
from gateway.sandbox import Sandbox
from gateway.store.redis import neighbours

Start = Callable[..., Awaitable[World]]


@pytest.fixture
async def start(
    tmp_path: Path, redis: RedisServer, sandbox: Sandbox, clock: TurnableClock, proxy: FaultProxy
) -> AsyncIterator[Start]:
    """Starts a gateway with a `redis.name`; `other`: by another URL of the same Redash."""
    async with AsyncExitStack() as stack:
        count = 0

        async def enter(name: str, *, other: bool = False) -> World:
            nonlocal count
            count += 1
            (directory := tmp_path / str(count)).mkdir()
            world = World(directory, sandbox, clock, proxy.url if other else None)
            await world.start(store=redis.url, extra=f'[redis]\nname = "{name}"\n')
            stack.push_async_callback(world.stop)
            return world

        yield enter


def part(world: World) -> Health:
    sharing = world.runtime.levels().sharing
    assert sharing is not None
    return health.sharing(sharing)


async def test_gateways_of_one_name_all_count_and_all_say_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TWIN_SECONDS", 0.2)
    worlds = [await start(name) for name in ("one", "same", "same")]
    text = "several gateways are called same; give each a redis.name of its own"
    await until(lambda: all(part(world).trouble == text for world in worlds))
    assert [part(world).state for world in worlds] == ["warn"] * 3
    assert [await world.metric("redash_gateway_peers") for world in worlds] == [3, 3, 3]
    shown = (await send(worlds[0].session, "GET", f"{worlds[0].admin}/api/status", headers=AS_OPERATOR)).json[
        "gateways"
    ]
    notes = [(one["name"], one["here"]) for one in shown]
    assert notes == [("one", "this one"), ("same", "same name"), ("same", "same name")]


async def test_a_gateway_of_another_redash_does_not_count(start: Start) -> None:
    ours, theirs = await start("one"), await start("one", other=True)
    for world in (ours, theirs):
        await until(lambda world=world: "one in the same Redis: another upstream.url" in part(world).trouble)  # type: ignore[misc]
        assert part(world).state == "warn"
        assert await world.metric("redash_gateway_peers") == 1
