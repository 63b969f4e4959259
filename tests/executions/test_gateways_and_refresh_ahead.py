"""Gateways that share a Redis: what is popular with all of them together is renewed once, by one of them."""

from __future__ import annotations

import pytest
from support.redis_server import RedisServer
from support.waiting import until
from support.world import World

from gateway.sandbox import Sandbox
from gateway.warming import ahead, renewer

POPULAR = '[[warm]]\npopular = 20\nwithin = "1d"\nbudget = "10m/h"\ncredential = "analyst"\n'
LIFE = 600


@pytest.fixture
async def popular(gateways: list[World], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """The three, each with the entry; they look what is due a hundred times as often."""
    monkeypatch.setattr(renewer, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(renewer, "SHARE_SECONDS", 0.1)
    monkeypatch.setattr(ahead, "RANK_SECONDS", 0.1)
    query = sandbox.add_query("popular", "select run_number() as run")
    for world in gateways:
        world.named["popular"] = query
        world.reconfigure(world.text + POPULAR)
    return gateways


async def leader_of(worlds: list[World]) -> World:
    """The gateway that does the work, once there is one."""
    await until(lambda: any(world.runtime.leases.held for world in worlds if world.runtime.serving))
    return next(world for world in worlds if world.runtime.serving and world.runtime.leases.held)


async def ask(world: World) -> str:
    cache = (await world.post("popular", max_age=LIFE, wait=10)).cache
    world.runtime.api.cache.flush_all()
    world.runtime.telemetry.observer.flush()
    return cache


async def knows(leader: World, times: int) -> None:
    """Wait until the one that does the work knows that all together were asked so often."""

    def total() -> int:
        [one] = leader.runtime.warmer.aheads.values()
        now = leader.clock.monotonic()
        return sum(one.demand.times(pair, now) for pair in one.popular(now))

    await until(lambda: total() == times)


async def test_one_gateway_renews_what_all_are_asked_for(popular: list[World], sandbox: Sandbox) -> None:
    leader = await leader_of(popular)
    others = [world for world in popular if world is not leader]
    assert "fwd=" in await ask(others[0])
    assert "; hit" in await ask(others[1])
    await knows(leader, 2)
    leader.clock.turn(LIFE - 3)  # all have the same clock
    await sandbox.wait_executions(2)
    await until(lambda: leader.runtime.warmer.ahead.renewed == 1)
    leader.clock.turn(5)
    for world in popular:
        assert "; hit" in await ask(world)
    assert sandbox.counters.started == 2
    assert [world.runtime.warmer.ahead.renewed for world in others] == [0, 0]


async def test_another_one_goes_on_with_what_was_spent(popular: list[World], sandbox: Sandbox) -> None:
    leader = await leader_of(popular)
    [work] = leader.runtime.warmer.aheads.values()
    work.account.spend(leader.clock.monotonic(), 590.0)
    await ask(leader)
    await leader.stop()
    rest = [world for world in popular if world is not leader]
    next_one = await leader_of(rest)
    [work] = next_one.runtime.warmer.aheads.values()
    await until(lambda: work.account.spent(next_one.clock.monotonic()) == pytest.approx(590.0))
    await knows(next_one, 1)


async def test_without_redis_nobody_renews_anything(
    popular: list[World], sandbox: Sandbox, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each would renew all of it, and nobody could say what the others have spent.
    leader = await leader_of(popular)
    await ask(leader)
    await knows(leader, 1)
    await redis.kill()
    await until(lambda: not any(world.runtime.leases.shared for world in popular))
    leader.clock.turn(LIFE - 3)
    assert "; hit" in await ask(leader)
    steps, step = [0], renewer.Renewer.step

    async def counted(self: renewer.Renewer) -> None:
        await step(self)
        steps[0] += 1

    monkeypatch.setattr(renewer.Renewer, "step", counted)
    await until(lambda: steps[0] >= 3 * len(popular))
    [work] = leader.runtime.warmer.aheads.values()
    assert sandbox.counters.started == 1
    assert work.stats.renewed == 0
