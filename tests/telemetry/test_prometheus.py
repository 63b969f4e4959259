"""A real Prometheus scrapes the gateway: its rules agree with a scripted load, and the dashboard has data."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support import dashboard
from support.inside import waiters
from support.process import certificate
from support.waiting import until
from support.world import World

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = sorted((DEPLOY / "prometheus").glob("redash-gateway.*.yml"))
SCRAPE_SECONDS = 0.1
LOAD_SECONDS = 7.0
"""So long that the part of a scrape by which `increase()` extrapolates is less than 1 %, with what follows."""

SETTLED_SECONDS = 12.0


async def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, [str(part) for part in command], capture_output=True, text=True, check=False
    )


class Prometheus:
    """Asks a running server."""

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.url = url

    async def get(self, path: str, **arguments: str) -> Any:
        async with self.world.session.get(f"{self.url}/api/v1/{path}", params=arguments) as response:
            answer = await response.json()
            assert answer["status"] == "success", (answer, arguments)
            return answer["data"]

    async def vector(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        time = {} if at is None else {"time": repr(at)}
        data = await self.get("query", query=expression, **time)
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    async def value(self, expression: str, at: float | None = None) -> float:
        """The first value. After a scrape that failed on a busy machine, there is none until the next."""
        for _ in range(50):
            if found := await self.vector(expression, at):
                return found[0][1]
            await asyncio.sleep(SCRAPE_SECONDS)
        return float("nan")

    async def data(self, expression: str, *, span: bool) -> list[dict[str, str]]:
        """The labels of the series of a panel: at one moment, or over a span of time. As `value`, it waits for some."""
        for _ in range(50):
            now = time.time()
            between = {"start": repr(now - 10), "end": repr(now), "step": "1"} if span else {"time": repr(now)}
            data = await self.get("query_range" if span else "query", query=expression, **between)
            if data["result"]:
                return [series["metric"] for series in data["result"]]
            await asyncio.sleep(SCRAPE_SECONDS)
        return []

    async def until(self, expression: str, at_least: float) -> None:
        async with asyncio.timeout(20):
            while not await self.value(expression) >= at_least:  # noqa: ASYNC110 - Prometheus tells nobody
                await asyncio.sleep(SCRAPE_SECONDS)


@pytest.fixture
async def prometheus(
    bare: World, tmp_path: Path, unused_tcp_port: int, needs: Callable[[str], str]
) -> AsyncIterator[Prometheus]:
    runtime, world = needs("prometheus"), bare
    # A token and a certificate that expire, so that the dashboard has to say when; and a budget that it has to show.
    needs("openssl")
    ca = certificate(tmp_path, "ca")[0]
    await world.start(dashboard='expires = 2100-01-01\nbudget = "1h/h"', upstream=f'ca_file = "{ca}"')
    settings = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms", "evaluation_interval": "100ms"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [
            {
                "job_name": "redash-gateway",
                "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms",
                "static_configs": [{"targets": [world.admin.removeprefix("http://")]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(settings))
    process = await asyncio.create_subprocess_exec(
        runtime,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{unused_tcp_port}",
        "--log.level=error",
    )
    try:
        server = Prometheus(world, f"http://127.0.0.1:{unused_tcp_port}")
        await listening(server)
        await server.until("count(up == 1)", 1)
        yield server
    finally:
        process.terminate()
        await process.wait()


async def listening(server: Prometheus) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with server.world.session.get(f"{server.url}/-/ready") as response:
                    if response.status == 200:
                        return
            except OSError:
                pass
            await asyncio.sleep(0.05)


class Script:
    """A load that counts its own outcomes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hits = self.misses = self.collapsed = 0

    async def run(self) -> None:
        """A run, then hits; callers who share a run; errors of callers and of Redash. Spread over `LOAD_SECONDS`."""
        for _ in range(10):
            await asyncio.gather(self.shared_run(), asyncio.sleep(LOAD_SECONDS / 10))
            for _ in range(12):
                reply = await self.world.post("by_country", max_age=600)
                self.hits += reply.cache.startswith("redash-gateway; hit")
            await self.errors()
        assert self.hits == 120
        assert self.misses == 10

    async def shared_run(self) -> None:
        hold = self.world.sandbox.hold()
        before = self.world.sandbox.counters.started
        first = asyncio.create_task(self.world.post("by_country", max_age=0, wait=20))
        await self.world.sandbox.wait_executions(before + 1)
        others = [asyncio.create_task(self.world.post("by_country", max_age=0, wait=20)) for _ in range(3)]
        await until(lambda: waiters(self.world.runtime) == 4)
        hold.release()
        for reply in await asyncio.gather(first, *others):
            self.misses += "collapsed" not in reply.cache
            self.collapsed += "collapsed" in reply.cache

    async def errors(self) -> None:
        await self.world.get("/api/nowhere")
        await self.world.get("/api/queries/99999/results.json")
        await self.world.get("/api/data_sources")


def test_the_files_are_clean(needs: Callable[[str], str]) -> None:
    promtool = needs("promtool")
    for command in (
        ["check", "rules", *map(str, RULES)],
        ["check", "config", str(DEPLOY / "prometheus/prometheus.yml")],
    ):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_rules_and_alerts_do_what_they_say(needs: Callable[[str], str]) -> None:
    path = Path(__file__).with_name("rules.test.yml")
    done = subprocess.run([needs("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def recorded(prometheus: Prometheus) -> dict[str, str]:
    groups = (await prometheus.get("rules", type="record"))["groups"]
    return {rule["name"]: rule["query"] for group in groups for rule in group["rules"]}


async def test_prometheus_agrees_with_the_script_and_the_dashboard_has_data(prometheus: Prometheus) -> None:
    world, script = prometheus.world, Script(prometheus.world)
    await script.run()
    metrics = world.runtime.telemetry.metrics
    assert metrics.executions["success",] == world.sandbox.counters.finished == script.misses
    saved = script.hits + script.collapsed
    last = await settled(prometheus, saved)

    # the counters, exactly
    cache = {labels["cache"]: value for labels, value in await prometheus.vector(BY_CACHE, last)}
    assert (cache["hit"], cache["miss"], cache["collapsed"]) == (script.hits, script.misses, script.collapsed)
    assert await prometheus.value("sum(redash_gateway_saved_executions_total)", last) == saved

    # what the rules say at the moment of a scrape, exactly; what Prometheus recorded in between, within 1 %
    rules, ratio = await recorded(prometheus), saved / (saved + script.misses)
    assert await prometheus.value(rules["redash_gateway:saved_executions:increase1h"], last) == pytest.approx(saved)
    assert await prometheus.value("redash_gateway:saved_executions:increase1h") == pytest.approx(saved, rel=0.01)
    assert await prometheus.value("redash_gateway:hit_ratio:rate5m") == pytest.approx(ratio, rel=0.01)
    seconds = sum(metrics.saved_seconds.values())
    name = "redash_gateway:saved_execution_seconds:increase1h"
    assert await prometheus.value(name) == pytest.approx(seconds, rel=0.01)

    await dashboard_has_data(prometheus)


BY_CACHE = 'sum by (cache) (redash_gateway_requests_total{route="/api/queries/{query_id}/results"})'


async def settled(prometheus: Prometheus, saved: int) -> float:
    """Wait until the load is scraped and far enough back; the time of the last scrape."""
    await prometheus.until("sum(redash_gateway_saved_executions_total)", saved)
    up = "timestamp(redash_gateway_breaker_open)"
    span = f"max({up}) - min(min_over_time({up}[1m:100ms]))"
    await prometheus.until(span, SETTLED_SECONDS)
    return await prometheus.value("max(timestamp(redash_gateway_breaker_open))")


async def dashboard_has_data(prometheus: Prometheus) -> None:
    """Every variable has values, and every panel has data with named series: with "All", and with one value of each."""
    one_of_each: dict[str, list[str]] = {}
    for variable in dashboard.variables():
        asked = dashboard.replaced(variable["definition"], one_of_each).removeprefix("label_values(").rstrip(")")
        match, _, label = asked.rpartition(", ")
        values = await prometheus.get(f"label/{label}/values", **{"match[]": match})
        assert values, variable["name"]
        one_of_each[variable["name"]] = values[:1]
    assert one_of_each["client"] == ["dashboard"]
    for chosen in ({}, one_of_each):
        for target in dashboard.targets():
            expression = dashboard.replaced(target.expression, chosen)
            series = await prometheus.data(expression, span=target.is_range)
            assert series, f"{target.panel}: nothing for {expression}"
            nameless = [labels for labels in series if not all(labels.get(name) for name in target.legend)]
            assert nameless == [], f"{target.panel}: {target.legend}"
