"""The recipes of `docs/clients.md` and `docs/forms.md`, run as they stand there: only address, token and query are
those of the test.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.browser import tab, web_server
from support.calls import TOKENS
from support.client_requests import client_requests
from support.documents import not_run, recipe
from support.kitchen import Kitchen
from support.libraries import library
from support.waiting import until
from support.world import World


@pytest.fixture
async def kitchen(world: World, tmp_path: Path) -> Kitchen:
    directory = tmp_path / "recipes"
    directory.mkdir()
    return Kitchen(world, directory)


async def test_curl(kitchen: Kitchen, needs: Callable[[str], str]) -> None:
    needs("curl")
    for text in (recipe("curl"), recipe("curl-post")):
        await kitchen.shows_all_rows(await kitchen.run(needs("bash"), "-ec", kitchen.filled(text)))


@pytest.mark.parametrize(
    ("text", "libraries"),
    [
        (recipe("requests"), ("requests",)),
        (recipe("toolbelt"), ("redash_toolbelt",)),
        (recipe("pandas"), ("pandas",)),
        (recipe("polars"), ("polars", "requests")),
        (recipe("duckdb"), ("duckdb", "requests")),
        (recipe("polars-scan"), ("pyarrow", "polars", "requests")),
        (recipe("pandas-parquet"), ("pyarrow", "pandas", "requests")),
        (recipe("pyarrow"), ("pyarrow", "requests")),
        (recipe("duckdb-parquet"), ("pyarrow", "duckdb", "requests")),
    ],
    ids=[
        *("requests", "toolbelt", "pandas", "polars", "duckdb"),
        *("polars-scan", "pandas-parquet", "pyarrow", "duckdb-parquet"),
    ],
)
async def test_python(kitchen: Kitchen, text: str, libraries: tuple[str, ...]) -> None:
    for name in libraries:
        library(name)
    script = kitchen.written(text, "recipe.py")
    await kitchen.shows_all_rows(await kitchen.run(sys.executable, str(script)))


async def test_a_whole_dashboard(kitchen: Kitchen) -> None:
    library("requests")
    script = kitchen.directory / "recipe.py"
    script.write_text(recipe("dashboard").replace("http://localhost:8080", kitchen.world.url))
    printed = (await kitchen.run(sys.executable, str(script))).splitlines()
    assert printed[0].endswith(" rows")
    assert "may not see" in printed[2]


async def test_the_commands_for_forms(kitchen: Kitchen, needs: Callable[[str], str]) -> None:
    needs("curl")
    shell, wanted = needs("bash"), await kitchen.cities()
    top = await kitchen.run(shell, "-ec", kitchen.filled(recipe("top")))
    best = sorted(wanted, key=lambda city: -wanted[city])[:3]
    assert [json.loads(line)["city"] for line in top.splitlines()] == best
    files = await kitchen.run(shell, "-ec", kitchen.filled(recipe("excel-csv")) + "\ncat orders.csv")
    assert files.partition("\ufeff")[2].startswith("city;orders\r\n")


async def test_a_download_goes_on_with_the_result_with_which_it_began(
    kitchen: Kitchen, needs: Callable[[str], str]
) -> None:
    """A newer result has other rows at the same bytes: two parts of different results are no result."""
    needs("curl")
    shell, text = needs("bash"), recipe("resume").replace("/42/", f"/{kitchen.world.named['now']}/")
    text = text.replace("http://localhost:8080", kitchen.world.url)
    await kitchen.world.rows("now", max_age=0)
    whole = await kitchen.run(shell, "-ec", f"{text}\ncat orders.ndjson")
    broken = kitchen.directory / "orders.ndjson"
    broken.write_bytes(broken.read_bytes()[:5])
    await kitchen.world.rows("now", max_age=0)
    assert await kitchen.run(shell, "-ec", f"{text}\ncat orders.ndjson") == whole


async def test_the_recipe_for_requests_waits_for_a_run_and_raises_its_error(kitchen: Kitchen) -> None:
    library("requests")
    text = recipe("requests").partition("\nprint(")[0]
    assert "wait=30" in text
    never = text.replace("wait=30", "wait=0")  # so that the job is polled
    slow, failing = kitchen.world.named["slow_seconds"], kitchen.world.named["failing"]
    script = kitchen.written(
        f"{never}\nprint(rows({slow}, max_age=0, seconds=1))\ntry:\n    rows({failing}, max_age=0)\n"
        "except RuntimeError as error:\n    print(error)\n",
        "recipe.py",
    )
    printed = await kitchen.run(sys.executable, str(script))
    assert "'slept'" in printed
    assert "no_such_table" in printed


async def test_r(kitchen: Kitchen, needs: Callable[[str], str]) -> None:
    program = needs("Rscript")
    script = kitchen.written(recipe("r"), "recipe.R")
    await kitchen.shows_all_rows(await kitchen.run(program, str(script)))


async def test_a_tool_for_language_models(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    library("mcp")
    monkeypatch.setenv("GATEWAY_TOKEN", TOKENS["dashboard"])
    path = kitchen.written(recipe("mcp"), "orders_server.py")
    specification = importlib.util.spec_from_file_location("orders_server", path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    found = await asyncio.to_thread(module.orders_by_city, "DE")
    assert {row["city"]: row["orders"] for row in found} == await kitchen.cities()
    (tool,) = await module.server.list_tools()
    assert tool.name == "orders_by_city"
    assert tool.input_schema["properties"]["country"]["enum"][0] == "DE"


async def test_the_function_of_the_airflow_task(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    library("requests")
    monkeypatch.setenv("GATEWAY_TOKEN", TOKENS["dashboard"])
    (text,) = not_run("clients.md", "python")
    imports, _, rest = text.partition("from airflow.sdk import dag, task\n")
    names: dict[str, Any] = {}
    exec(kitchen.filled(imports + rest.partition("@dag")[0]), names)
    found = await asyncio.to_thread(names["orders"], "DE")
    assert {row["city"]: row["orders"] for row in found} == await kitchen.cities()


@pytest.mark.parametrize("client", ["Google Sheets (IMPORTDATA)", "Excel (Power Query)"])
async def test_the_urls_of_spreadsheets(kitchen: Kitchen, client: str) -> None:
    sheets, excel = not_run("clients.md", "text")
    fields = {name: value for name, value in _recorded(client) if name not in ("Host", "Connection")}
    if client.startswith("Google"):
        (url,) = re.findall(r'IMPORTDATA\("([^"]+)"\)', sheets)
        path = urlsplit(url).path + "?" + urlsplit(url).query
    else:
        (path,) = re.findall(r'RelativePath = "([^"]+)"', excel)
        (query,) = re.findall(r"Query = \[(.+?)\]", excel)
        ((name, value),) = re.findall(r'Headers = \[#"([^"]+)" = "([^"]+)"\]', excel)
        path = f"/{path}?" + "&".join(f"{key}={text}" for key, text in re.findall(r'(\w+) = "([^"]*)"', query))
        fields[name] = kitchen.filled(value)
    reply = await kitchen.world.call("GET", kitchen.filled(path), client=None, headers=fields)
    assert reply.status == 200, reply.body
    await kitchen.shows_all_rows(reply.body.decode())


def _recorded(client: str) -> list[tuple[str, str]]:
    return next(one.fields for one in client_requests() if one.client == client)


def test_the_source_of_grafana_sends_the_token_in_a_header_that_the_gateway_reads() -> None:
    (text,) = not_run("clients.md", "yaml")
    assert "httpHeaderName1: Authorization" in text
    assert "httpHeaderValue1: Key $GATEWAY_TOKEN" in text


# -- a page of another origin ------------------------------------------------------------------------------------------


async def test_fetch_from_a_page_of_another_origin(bare: World, tmp_path: Path, needs: Callable[[str], str]) -> None:
    async with _page(bare, tmp_path, recipe("fetch"), needs("chromium")) as (kitchen, page):
        await page.locator("#orders tr").first.wait_for(timeout=20_000)
        await kitchen.shows_all_rows(await page.inner_text("#orders"))


async def test_a_page_that_listens_to_events(bare: World, tmp_path: Path, needs: Callable[[str], str]) -> None:
    async with _page(bare, tmp_path, recipe("events"), needs("chromium")) as (_, page):
        await until(lambda: bare.runtime.watchers.count == 1)
        for count in (1, 2):
            await bare.post("in_country", wait=20, max_age=0, parameters={"country": "DE"})
            await page.locator("#events li").nth(count - 1).wait_for(timeout=20_000)
        assert await page.locator("#events li").count() == 2


@asynccontextmanager
async def _page(world: World, directory: Path, text: str, chromium: str) -> AsyncIterator[tuple[Kitchen, Any]]:
    """A browser at a page of another origin with this recipe."""
    site = directory / "site"
    site.mkdir()
    with web_server(site) as origin:
        await world.start(server=f'cors_origins = ["{origin}"]')
        kitchen = Kitchen(world, directory)
        (site / "index.html").write_text("<!doctype html><title>page</title>" + kitchen.filled(text))
        async with tab(chromium) as page:
            await page.goto(f"{origin}/index.html")
            yield kitchen, page
