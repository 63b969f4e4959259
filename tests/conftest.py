"""Fixtures of all tests, how many workers run them, and what is shown at the end."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.clocks import StandingClock, TurnableClock
from support.fault_proxy import FaultProxy
from support.redis_server import RedisServer
from support.world import SECRETS, World, configuration

from gateway.http.fast_path import SENT, SENT_LAST, FastPath
from gateway.sandbox import NEWEST, Sandbox
from gateway.telemetry.log import Formatter

sys.path.append(str(Path(__file__).parents[1]))  # for `bench`, which is not installed

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

MOST_WORKERS = 16


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `pytest -n auto`: two workers for each core, because many tests wait rather than compute."""
    return min(2 * len(os.sched_getaffinity(0)), MOST_WORKERS)


NOTES = "notes"
"""The property of a test's report that carries its notes from a worker to the terminal."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests noted: numbers that say how much was covered."""
    passed = terminalreporter.getreports("passed")
    notes = [text for report in passed for name, text in report.user_properties if name == NOTES]
    if notes:
        terminalreporter.section("notes")
        terminalreporter.write_line("\n".join(sorted(notes)))


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Keep a line for the end of the run, whichever worker the test runs in."""
    return lambda text: record_property(NOTES, text)


class _Collected(logging.Handler):
    """Looks through every line that the whole run logs, at every level and in the gateway's own form."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(Formatter("json"))
        self.found: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(("gateway", "aiohttp", "asyncio")):
            line = self.format(record)
            self.found.update(line for secret in SECRETS if secret in line)


@pytest.fixture(scope="session", autouse=True)
def no_secret_in_any_log() -> Iterator[None]:
    """No key and no token is ever logged, whatever happens, tracebacks included."""
    collected = _Collected()
    logging.getLogger().addHandler(collected)
    yield
    logging.getLogger().removeHandler(collected)
    assert not collected.found


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> TurnableClock:
    return StandingClock() if request.node.get_closest_marker("standing_clock") else TurnableClock()


@pytest.fixture
def redash_version() -> str:
    """A test for several versions has `@pytest.mark.parametrize("redash_version", ["8", "10"])`."""
    return NEWEST


@pytest.fixture
async def sandbox(clock: TurnableClock, redash_version: str) -> AsyncIterator[Sandbox]:
    async with Sandbox(now=clock.wall, redash=redash_version) as made:
        yield made


@pytest.fixture
async def bare(tmp_path: Path, sandbox: Sandbox, clock: TurnableClock) -> AsyncIterator[World]:
    """A world whose gateway the test starts itself, with a configuration of its own."""
    world = World(tmp_path, sandbox, clock)
    yield world
    if hasattr(world, "session"):
        await world.stop()


@pytest.fixture
async def world(bare: World) -> World:
    """A gateway before a sandbox, with the plain configuration."""
    await bare.start()
    return bare


@pytest.fixture
async def proxy(sandbox: Sandbox) -> AsyncIterator[FaultProxy]:
    """Between gateway and sandbox, in the world `behind`."""
    async with FaultProxy(sandbox.url) as made:
        yield made


@pytest.fixture
async def behind(tmp_path: Path, sandbox: Sandbox, clock: TurnableClock, proxy: FaultProxy) -> AsyncIterator[World]:
    """As `bare`, with a proxy that breaks responses between gateway and sandbox."""
    world = World(tmp_path, sandbox, clock, proxy.url)
    yield world
    proxy.clear()
    if hasattr(world, "session"):
        await world.stop()


@pytest.fixture
def written(tmp_path: Path, sandbox: Sandbox) -> Path:
    """A configuration file for the real command."""
    path = tmp_path / "config.toml"
    path.write_text(configuration(sandbox, "sqlite:gateway.db", {}))
    return path


@pytest.fixture
def by_fast_path(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The requests that the fast path has served, in order."""
    served: list[bytes] = []
    original = FastPath.respond

    def watched(self: FastPath, data: bytes, transport: Any, peer: str) -> int:
        found = original(self, data, transport, peer)
        if found in (SENT, SENT_LAST):
            served.append(data)
        return found

    monkeypatch.setattr(FastPath, "respond", watched)
    return served


@pytest.fixture
def needs() -> Callable[[str], str]:
    """Give the path of a program, or skip the test; with GATEWAY_TEST_REQUIRE_ALL=1 a missing one is a failure."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None and os.environ.get("GATEWAY_TEST_REQUIRE_ALL") == "1":
            pytest.fail(f"{program} is not installed")
        if path is None:
            pytest.skip(f"{program} is not installed")
        return path

    return find


@pytest.fixture
async def redis(tmp_path: Path, needs: Callable[[str], str]) -> AsyncIterator[RedisServer]:
    """A real Redis of the test's own."""
    needs("redis-server")
    server = RedisServer(tmp_path / "redis")
    await server.start()
    yield server
    await server.kill()
