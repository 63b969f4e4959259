"""The event loop is not held up: a reload computes in a thread, and the longest pause is told."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.growth import grows_linearly
from support.waiting import until, within
from support.world import World, token_table

from gateway import config
from gateway.app import loop_lag, operations
from gateway.app.loop_lag import LoopLag
from gateway.app.operations import RuntimeOperations
from gateway.errors import ConfigurationError


@pytest.fixture
async def reloadable(world: World) -> World:
    """A gateway with its configuration in a file."""
    world.runtime.operations = RuntimeOperations(world.runtime, _file(world))
    return world


def _file(world: World, *more: str) -> Path:
    file = world.directory / "gateway.toml"
    file.write_text(world.text + "".join(more))
    return file


class Gate:
    """Lets loading a file wait in its thread until the test says so."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = keys
        self.reached = 0
        self.open = threading.Event()

    def load(self, source: Path, listen: str | None = None) -> config.Config:
        self.reached += 1
        text = source.read_text()
        assert self.open.wait(10)
        return config.parse(text, source.parent, self._keys)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, reloadable: World) -> Iterator[Gate]:
    made = Gate(token_table(reloadable.sandbox))
    monkeypatch.setattr(operations, "load", made.load)
    yield made
    made.open.set()


async def test_requests_are_served_while_a_reload_reads_its_file(reloadable: World, gate: Gate) -> None:
    # A file of 3,000 clients and 3,000 rules stopped everything for 1.4 s.
    reload = asyncio.create_task(reloadable.runtime.operations.reload())
    await until(lambda: gate.reached == 1)
    assert (await reloadable.get("/api/session")).status == 200
    assert not reload.done()
    gate.open.set()
    assert (await reload).notes == []


async def test_of_two_reloads_the_file_read_last_is_in_force(reloadable: World, gate: Gate) -> None:
    first = asyncio.create_task(reloadable.runtime.operations.reload())
    await until(lambda: gate.reached == 1)
    _file(reloadable, "\n[metrics]\nper_query = 7\n")
    second = asyncio.create_task(reloadable.runtime.operations.reload())
    gate.open.set()
    await asyncio.gather(first, second)
    assert gate.reached == 2
    assert reloadable.runtime.live.settings.metrics.per_query == 7


async def test_a_gateway_that_stops_takes_no_other_configuration(reloadable: World, gate: Gate) -> None:
    # Its parts have ended; the new configuration would start some of them again.
    before = reloadable.runtime.live.configured
    reload = asyncio.create_task(reloadable.runtime.operations.reload())
    await until(lambda: gate.reached == 1)
    reloadable.runtime.serving = False
    gate.open.set()
    with pytest.raises(ConfigurationError, match="stopping"):
        await reload
    assert reloadable.runtime.live.configured is before


async def test_a_file_that_cannot_be_read_in_time_changes_nothing(
    reloadable: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Key files may lie on a network. The next reload must not wait for this one for ever.
    monkeypatch.setattr(operations, "LOAD_SECONDS", 0.05)
    async with within(5):
        with pytest.raises(ConfigurationError, match="took longer"):
            await reloadable.runtime.operations.reload()
    assert not reloadable.runtime.reload.successful
    assert gc.isenabled(), "it is off while a file is read"


def _clients(count: int) -> str:
    """So many clients, each with a mistake that is looked for among all others."""
    return "".join(
        f'[clients.c{n}]\ntoken_sha256 = ["{n:064x}"]\ncredentials = ["missing-{n}"]\n'
        f'[credentials.k{n}]\nkind = "user"\nkey_env = "KEY"\n'
        for n in range(count)
    )


def test_a_file_with_many_mistakes_takes_time_in_proportion() -> None:
    def parse(text: str) -> object:
        with pytest.raises(ConfigurationError) as raised:
            config.parse(text, Path("/"), {"KEY": "k" * 40})
        return raised

    assert grows_linearly(lambda size: '[upstream]\nurl = "http://a"\n' + _clients(size // 32), parse)


async def test_a_pause_of_the_loop_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "TICK_SECONDS", 0.001)
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.01)
    time.sleep(0.05)  # noqa: ASYNC251 - this is the pause
    await until(lambda: lag.longest() >= 0.045)
    lag.stop()


async def test_a_pause_is_told_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(loop_lag, "time", clock)
    lag = LoopLag()

    def tick(now: float) -> None:
        lag.stop()  # the timer of the loop, which knows another time
        clock.now = now
        lag._tick()

    lag.start()
    tick(lag._due + 3.0)
    while clock.now < 55.0:
        assert lag.longest() == pytest.approx(3.0)
        tick(lag._due)
    while clock.now < 65.0:
        tick(lag._due)
    lag.stop()
    assert lag.longest() == pytest.approx(0.0)
