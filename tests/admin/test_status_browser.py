"""The page in a real browser, under load."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.world import World

from gateway.admin.formats import FORMATS, formatted

if os.environ.get("GATEWAY_TEST_REQUIRE_ALL") == "1":
    from playwright import async_api as playwright
else:
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


@pytest.fixture
async def browser(needs: Callable[[str], str]) -> AsyncIterator[Any]:
    path = needs("chromium")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        await browser.close()


class Watched:
    """A tab, every request that it sent, and every error that it reported."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def number(self, place: str) -> int:
        return int((await self.page.locator(f'[data-place="{place}"]').first.inner_text()).replace(",", ""))

    async def shows(self, place: str, wanted: Callable[[int], bool]) -> int:
        """Wait until the number at a place of the report is as wanted."""
        async with asyncio.timeout(20):
            while not wanted(found := await self.number(place)):
                await self.page.wait_for_timeout(100)
        return found

    async def cells(self, rows: str) -> list[list[str]]:
        script = "t => [...t.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent))"
        cells: list[list[str]] = await self.page.locator(f'table[data-rows="{rows}"]').evaluate(script)
        return cells


async def opened(browser: Any, world: World, **context: object) -> Watched:
    watched = Watched(await (await browser.new_context(**context)).new_page())
    await watched.page.goto(f"{world.admin}/")
    return watched


async def one_round(world: World) -> None:
    await asyncio.gather(*(world.post("now", max_age=60, wait=20) for _ in range(4)))
    await world.rows("by_country", max_age=0, client="second")
    await world.get("/api/queries", client=None)


async def test_numbers_move_and_agree_with_the_metrics(browser: Any, world: World) -> None:
    tab = await opened(browser, world)
    await tab.page.get_by_text("live", exact=True).wait_for()
    seen = [await tab.number("totals.requests")]
    drawn = await tab.page.locator('path.line[data-series="hit_rate"]').get_attribute("d")
    for _ in range(3):
        await one_round(world)
        seen.append(await tab.shows("totals.requests", lambda now: now > seen[-1]))
    total = await world.metric("redash_gateway_requests_total")
    assert await tab.shows("totals.requests", lambda now: now == total) > seen[0] == 0
    assert await tab.page.locator('path.line[data-series="hit_rate"]').get_attribute("d") != drawn
    for outcome, _, _, number in await tab.cells("outcomes"):
        assert int(number) == await world.metric("redash_gateway_requests_total", cache=outcome)
    for query, number, *_ in await tab.cells("queries"):
        assert int(number) == await world.metric("redash_gateway_query_requests_total", query=query)
    assert tab.complaints == []
    assert all(url.startswith((world.admin, "data:")) for url in tab.requested)


async def test_runs_are_seen_while_they_run(browser: Any, world: World) -> None:
    tab = await opened(browser, world)
    async with asyncio.timeout(60):
        run = asyncio.create_task(
            world.post("slow_seconds", client="writer", wait=20, max_age=0, parameters={"seconds": 3})
        )
        await tab.shows("running_count", lambda now: now == 1)
        assert (await tab.cells("running"))[0][:2] == [str(world.named["slow_seconds"]), "writer"]
        await run
        await tab.shows("running_count", lambda now: now == 0)
        await tab.page.get_by_text("No query is running now.").wait_for()
    assert tab.complaints == []


async def test_the_page_shows_when_the_gateway_is_gone(browser: Any, bare: World) -> None:
    await bare.start()
    tab = await opened(browser, bare)
    await tab.page.get_by_text("live", exact=True).wait_for()
    await bare.stop()
    await tab.page.get_by_text("disconnected", exact=True).wait_for()
    await bare.resume()


@pytest.mark.parametrize("width", [375, 800, 1360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_the_window(browser: Any, world: World, width: int, scheme: str) -> None:
    await one_round(world)
    tab = await opened(browser, world, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert await tab.page.evaluate("document.documentElement.scrollWidth") == width
    ground = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(16, 21, 26)") == (scheme == "dark")


async def test_without_javascript_it_is_complete_and_the_same(browser: Any, world: World) -> None:
    world.clock.turn(60 - world.clock.monotonic() % 60)  # so that no new minute begins between the two
    await one_round(world)
    still = await opened(browser, world, java_script_enabled=False)
    live = await opened(browser, world)
    await live.page.get_by_text("live", exact=True).wait_for()
    for rows in ("queries", "outcomes", "upstream", "slots", "cache"):
        assert await still.page.locator(f'table[data-rows="{rows}"] tbody tr').all_inner_texts() == (
            await live.page.locator(f'table[data-rows="{rows}"] tbody tr').all_inner_texts()
        )
    for series in ("hit_rate", "requests"):
        path = f'path[data-series="{series}"] >> nth=0'
        assert await still.page.locator(path).get_attribute("d") == await live.page.locator(path).get_attribute("d")
    assert "Serving." in await still.page.locator("#verdict").inner_text()
    assert len(still.requested) == 2, "the page and its style"
    assert still.complaints == live.complaints == []


async def test_script_and_server_format_numbers_alike(browser: Any, world: World) -> None:
    """The rules stand twice, in formats.py and in page.js: both show a report of odd numbers."""
    tab = await opened(browser, world)
    odd = [0, 0.00004, 0.0003, 0.0099, 0.0105, 0.5, 0.9994, 0.9996, 1, 4.25, 9.949, 9.951, 59.49, 59.51, 61, 3599.6]
    odd += [86399, 90061, 999, 1000, 999_499, 999_500, 12_345_678, 5e12, 0.0001, 0.995, 0.125]
    pairs = [(form, value) for form in FORMATS if form not in ("text", "state", "query") for value in odd]
    script = """([report, pairs]) => {
        const box = document.createElement("div");
        box.innerHTML = pairs.map((_, n) => `<i data-place="odd.${n}"></i>`).join("");
        [...box.children].forEach((element, n) => { element.dataset.form = pairs[n][0]; });
        document.body.append(box);
        EventSource.last.onmessage({data: JSON.stringify({...report, odd: pairs.map(pair => pair[1])})});
        return [...box.children].map(element => element.textContent);
    }"""
    await tab.page.add_init_script(
        "const E = EventSource; window.EventSource = class extends E "
        "{ constructor(url) { super(url); window.EventSource.last = this; } };"
    )
    await tab.page.reload()
    async with world.session.get(f"{world.admin}/api/status") as response:
        report = json.loads(await response.text())
    texts = await tab.page.evaluate(script, [report, pairs])
    assert dict(zip(map(str, pairs), texts, strict=True)) == {str(pair): formatted(pair[1], pair[0]) for pair in pairs}
