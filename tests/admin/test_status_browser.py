"""The page in a real browser, under load."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.calls import ADMIN_TOKEN
from support.world import World

if os.environ.get("GATEWAY_TEST_REQUIRE_ALL") == "1":
    from playwright import async_api as playwright
else:
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

PAGES = ("/", "/queries", "/clients", "/requests", "/configuration", "/queries/{query}", "/sign-in")
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
        named = query.split()[-2]
        assert int(number) == await world.metric("redash_gateway_query_requests_total", query=named)
    assert tab.complaints == []
    assert all(url.startswith((world.admin, "data:")) for url in tab.requested)


async def test_runs_are_seen_while_they_run(browser: Any, world: World) -> None:
    tab = await opened(browser, world)
    async with asyncio.timeout(60):
        run = asyncio.create_task(
            world.post("slow_seconds", client="writer", wait=20, max_age=0, parameters={"seconds": 3})
        )
        await tab.shows("running_count", lambda now: now == 1)
        query, client, *_ = (await tab.cells("running"))[0]
        assert query.split()[-2:] == [str(world.named["slow_seconds"]), "↗"]
        assert client == "writer"
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


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (800, "dark"), (1360, "light")])
async def test_every_page_fits_the_window(browser: Any, world: World, width: int, scheme: str) -> None:
    await one_round(world)
    tab = await opened(browser, world, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for path in PAGES:
        await tab.page.goto(world.admin + path.format(query=world.named["now"]))
        assert await tab.page.evaluate("document.documentElement.scrollWidth") == width, path
        ground = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(16, 21, 26)") == (scheme == "dark")
    assert tab.complaints == []


async def test_an_operator_signs_in_and_ends_a_run_with_the_keyboard_alone(browser: Any, world: World) -> None:
    async with world.sandbox.hold():
        job = (await world.post("now", max_age=0)).job["id"]
        tab = await opened(browser, world)
        for name, page in (("Sign in", "sign-in"), ("Details", "runs/")):
            await tab.page.get_by_role("link", name=name).focus()
            await tab.page.keyboard.press("Enter")
            await tab.page.wait_for_url(f"**/{page}*")
            if page == "sign-in":
                await tab.page.keyboard.type(ADMIN_TOKEN)
                await tab.page.keyboard.press("Enter")
                await tab.page.get_by_role("button", name="Sign out").wait_for()
        await tab.page.get_by_role("button", name="End this run").focus()
        await tab.page.keyboard.press("Enter")
        await tab.page.get_by_text("The run was cancelled").wait_for()
    assert (await world.finish(job))["status"] == 4
    assert tab.complaints == []
    assert (await tab.page.context.cookies())[0]["sameSite"] == "Strict"
    assert await tab.page.evaluate("document.cookie") == "", "no script can read it"


async def test_focus_stays_where_it_is_while_the_page_is_renewed(browser: Any, world: World) -> None:
    await one_round(world)
    tab = await opened(browser, world)
    await tab.page.locator('table[data-rows="queries"] a').first.focus()
    seen = await tab.number("totals.requests")
    await one_round(world)
    await tab.shows("totals.requests", lambda now: now > seen)
    script = "document.activeElement.closest('table')?.dataset.rows"
    assert await tab.page.evaluate(script) == "queries"


async def test_lists_are_sorted_and_searched_without_javascript(browser: Any, world: World) -> None:
    await one_round(world)
    tab = await opened(browser, world, java_script_enabled=False)
    await tab.page.get_by_role("link", name="Queries", exact=True).click()
    await tab.page.get_by_role("link", name="Requests").last.click()
    heading = tab.page.get_by_role("columnheader", name="Requests")
    assert await heading.get_attribute("aria-sort") == "descending"
    rows = await tab.page.locator('table[data-rows="queries"] tbody tr').all_inner_texts()
    assert len(rows) == 2
    await tab.page.get_by_role("searchbox", name="Find").fill("by country")
    async with tab.page.expect_navigation():
        await tab.page.keyboard.press("Enter")
    assert await tab.page.locator('table[data-rows="queries"] tbody tr').all_inner_texts() == [
        row for row in rows if "by country" in row
    ]


@pytest.mark.parametrize("path", PAGES)
async def test_everything_that_can_be_used_has_a_name(browser: Any, world: World, path: str) -> None:
    await one_round(world)
    tab = await opened(browser, world)
    await tab.page.goto(world.admin + path.format(query=world.named["now"]))
    script = """[...document.querySelectorAll("a, button, input, select, [role=region]")]
        .filter(e => !e.hidden && e.type !== "hidden")
        .filter(e => !(e.innerText || e.ariaLabel || e.labels?.length || e.hasAttribute("aria-labelledby")))
        .map(e => e.outerHTML)"""
    assert await tab.page.evaluate(script) == []


async def test_without_javascript_it_is_complete_and_the_same(browser: Any, world: World) -> None:
    world.clock.turn(60 - world.clock.monotonic() % 60)  # so that no new minute begins between the two
    await one_round(world)
    still = await opened(browser, world, java_script_enabled=False)
    live = await opened(browser, world)
    await live.page.get_by_text("live", exact=True).wait_for()
    for rows in ("queries", "outcomes", "misses", "upstream", "slots", "cache"):
        assert await still.page.locator(f'table[data-rows="{rows}"] tbody tr').all_inner_texts() == (
            await live.page.locator(f'table[data-rows="{rows}"] tbody tr').all_inner_texts()
        )
    for series in ("hit_rate", "requests"):
        path = f'path[data-series="{series}"] >> nth=0'
        assert await still.page.locator(path).get_attribute("d") == await live.page.locator(path).get_attribute("d")
    assert "Serving." in await still.page.locator("#verdict").inner_text()
    assert len(still.requested) == 2, "the page and its style"
    assert still.complaints == live.complaints == []
