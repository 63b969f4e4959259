"""A real HAProxy as `deploy/compose` configures it, before two gateways: nobody notices that one is replaced."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.calls import TOKENS
from support.clocks import TurnableClock
from support.redis_server import RedisServer, free_port
from support.waiting import until, within
from support.world import World

from gateway.sandbox import Sandbox

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "compose" / "haproxy.cfg"


def here(gateways: list[World], port: int) -> str:
    """The configuration with the addresses that there are here; checked more often than it has to be in earnest."""
    text = CONFIGURATION.read_text()
    for number, gateway in enumerate(gateways, 1):
        api, admin = gateway.url.rpartition("/")[2], gateway.admin.rpartition(":")[2]
        text = text.replace(f"gateway-{number}:8080", f"{api} port {admin}")
    text = text.replace("bind :8080", f"bind 127.0.0.1:{port}").replace("check port 8081 inter 1s", "check inter 50ms")
    return text.replace("log stdout format raw local0", "")


@asynccontextmanager
async def haproxy(program: str, text: str, directory: Path) -> AsyncIterator[None]:
    path = directory / "haproxy.cfg"
    path.write_text(text)
    null = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(program, "-db", "-f", str(path), stdout=null, stderr=null)
    try:
        yield
    finally:
        child.kill()
        await child.wait()


class Callers:
    """Send requests without a break; what is not 200 is a failure."""

    def __init__(self, url: str, query: int) -> None:
        self._url, self._query = url, query
        self.served = 0
        self.failed: list[str] = []

    async def send(self, session: aiohttp.ClientSession, max_age: int) -> None:
        headers = {"Authorization": f"Key {TOKENS['dashboard']}", "Prefer": "wait=20"}
        body = {"max_age": max_age}
        try:
            async with session.post(f"{self._url}/{self._query}/results", json=body, headers=headers) as response:
                text = await response.text()
                if response.status != 200 or not re.match(r'\{"(query_result|job)"', text):  # a stop gives out jobs
                    self.failed.append(f"{response.status} {text[:200]}")
        except aiohttp.ClientError as error:
            self.failed.append(repr(error))
        self.served += 1

    async def run(self, max_age: int) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                await self.send(session, max_age)


@pytest.fixture
async def pair(
    tmp_path: Path, sandbox: Sandbox, clock: TurnableClock, redis: RedisServer
) -> AsyncIterator[list[World]]:
    made: list[World] = []
    for name in ("one", "two"):
        (directory := tmp_path / name).mkdir()
        made.append(World(directory, sandbox, clock))
        await made[-1].start(f'[redis]\nname = "{name}"\n', redis.url)
    yield made
    for world in made:
        await world.stop()


async def test_each_gateway_is_replaced_without_a_failed_request(
    pair: list[World], tmp_path: Path, needs: Callable[[str], str]
) -> None:
    port = free_port()
    callers = Callers(f"http://127.0.0.1:{port}/api/queries", pair[0].named["by_country"])
    async with haproxy(needs("haproxy"), here(pair, port), tmp_path):
        await until(lambda: _is_up(port))
        tasks = [asyncio.create_task(callers.run(max_age)) for max_age in (0, 600, 600, 600)]
        for world in pair:
            await takes_part(world)
            await replace(world)
            await takes_part(world)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert callers.failed == []
    assert callers.served > 100


async def takes_part(world: World) -> None:
    """Wait until the front has sent it some requests."""
    async with within(20):
        while await world.metric("redash_gateway_requests_total") < 20:  # noqa: ASYNC110 - a scrape is no event
            await asyncio.sleep(0.01)


async def replace(world: World) -> None:
    """Stop the gateway and start another one at the same addresses."""
    ports = [re.search(r":(\d+)$", url)[1] for url in (world.url, world.admin)]  # type: ignore[index]
    await world.stop()
    for port in ports:
        world.text = world.text.replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{port}"', 1)
    await world.resume()


def _is_up(port: int) -> Any:
    return f"0100007F:{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()
