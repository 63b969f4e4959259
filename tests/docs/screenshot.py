"""Make the screenshot of README: `PYTHONPATH=tests python tests/docs/screenshot.py`. It needs playwright and chromium.

An hour of traffic passes in some seconds, because the clock is turned.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import tempfile
from pathlib import Path
from typing import Final

from playwright.async_api import async_playwright
from support.clocks import TurnableClock
from support.world import World

from gateway.sandbox import Sandbox

PICTURE: Final = Path(__file__).parents[2] / "docs" / "images" / "console.png"
QUERIES: Final = ("by_country", "by_country", "revenue_by_month", "in_country", "in_country", "countries", "now")
MINUTES: Final = 60


async def request(world: World, chance: random.Random) -> None:
    """One request of one of two clients."""
    name = chance.choice(QUERIES)
    parameters = {"country": chance.choice(["DE", "FR", "GB", "JP"])} if name == "in_country" else {}
    client = chance.choice(["dashboard", "dashboard", "second"])
    await world.post(name, client=client, max_age=chance.choice([60, 300, 600, 3600]), parameters=parameters, wait=20)


async def hour(world: World, clock: TurnableClock, chance: random.Random) -> None:
    """An hour of traffic with its ups and downs; every now and then many callers want a slow report."""
    for minute in range(MINUTES):
        number = int(30 + 25 * math.sin(minute / 9) + chance.uniform(0, 12))
        await asyncio.gather(*(request(world, chance) for _ in range(number)))
        if minute % 12 == 5:
            await asyncio.gather(*(world.post("slow", max_age=0, wait=20) for _ in range(8)))
        clock.turn(60 if minute < MINUTES - 1 else 0)


async def shoot(address: str) -> None:
    """Take the picture."""
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1100, "height": 900})
        await page.goto(address)
        await page.get_by_text("live", exact=True).wait_for()
        await page.wait_for_timeout(1200)
        await page.screenshot(path=PICTURE)
        await browser.close()


async def main() -> None:
    """Start a gateway before a sandbox, let the hour pass, and take the picture while a query runs."""
    clock, chance = TurnableClock(), random.Random(4)
    with tempfile.TemporaryDirectory() as directory:
        async with Sandbox(now=clock.wall) as sandbox:
            world = World(Path(directory), sandbox, clock)
            await world.start()
            await hour(world, clock, chance)
            waiting = [asyncio.create_task(world.post("slow", max_age=0, wait=20)) for _ in range(6)]
            await shoot(world.admin + "/")
            await asyncio.gather(*waiting)
            await world.stop()


if __name__ == "__main__":
    asyncio.run(main())
