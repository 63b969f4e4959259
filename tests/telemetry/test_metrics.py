"""`/metrics`: the promised names and labels, present from the start, bounded, accepted by promtool."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import fields
from prometheus_client import generate_latest, parser
from prometheus_client.openmetrics import parser as openmetrics
from support.http import exchange
from support.inside import no_levels
from support.process import certificate
from support.world import World

from gateway import __version__
from gateway.errors import GatewayError, reasons
from gateway.outcome import Outcome, UpstreamCall, batched
from gateway.telemetry.levels import Levels
from gateway.telemetry.metrics import CACHE, RESULT_ROUTES, Metrics, registry
from gateway.telemetry.query_counts import QueryCounts

PROMISED = {
    "budget_seconds": {"client", "per"},
    "budget_spent_seconds": {"client", "per"},
    "budget_reserved_seconds": {"client", "per"},
    "requests_total": {"route", "client", "cache", "status"},
    "request_duration_seconds_count": {"route", "cache"},
    "query_requests_total": {"query", "cache"},
    "upstream_requests_total": {"route", "status"},
    "upstream_failures_total": {"reason"},
    "upstream_request_duration_seconds_count": {"route", "status"},
    "executions_total": {"outcome"},
    "executions_in_flight": set(),
    "execution_waiters": set(),
    "watchers": set(),
    "execution_duration_seconds_count": set(),
    "saved_executions_total": {"cache"},
    "saved_execution_seconds_total": {"cache"},
    "served_age_seconds_count": set(),
    "cache_bytes": {"tier"},
    "cache_limit_bytes": {"tier"},
    "cache_entries": {"tier"},
    "cache_evictions_total": {"tier"},
    "misses_total": {"reason"},
    "rejected_total": {"reason"},
    "store_up": {"tier"},
    "peers": set(),
    "leases": set(),
    "lease_losses_total": set(),
    "redis_losses_total": set(),
    "redis_round_trip_seconds": set(),
    "redis_memory_bytes": set(),
    "redis_memory_limit_bytes": set(),
    "breaker_open": set(),
    "upstream_queue": set(),
    "waiting": {"kind"},
    "credential_up": {"credential"},
    "config_last_reload_successful": set(),
    "config_last_reload_timestamp_seconds": set(),
    "build_info": {"version", "name"},
    "warm_runs_total": {"result"},
    "refresh_ahead_total": {"result"},
    "refresh_ahead_seconds_total": set(),
    "refresh_ahead_saved_waits_total": set(),
    "refresh_ahead_saved_seconds_total": set(),
    "log_lines_dropped_total": set(),
    "loop_lag_seconds": set(),
    "serving": set(),
    "resumed_executions_total": set(),
    "in_use": {"of"},
    "in_use_limit": {"of"},
    "memory_bytes": {"part"},
    "memory_limit_bytes": {"part"},
    "errors_total": {"reason"},
    "client_expiry_timestamp_seconds": {"client"},
    "certificate_expiry_timestamp_seconds": {"key"},
}


def labels_of(samples: dict[str, float]) -> dict[str, set[str]]:
    """The label names of every series of the gateway's own, by metric."""
    found: dict[str, set[str]] = {}
    for sample in samples:
        name, _, labels = sample.partition("{")
        if name.startswith("redash_gateway_") and not name.endswith(("_bucket", "_sum")):
            found.setdefault(name.removeprefix("redash_gateway_"), set()).update(re.findall(r'(\w+)="', labels))
    return found


async def test_every_promised_metric_is_there_with_its_labels_and_no_other(
    bare: World, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    needs("openssl")
    cert, _ = certificate(tmp_path, "here")
    await bare.start(dashboard='expires = 2099-01-01\nbudget = "1h/h"', upstream=f'ca_file = "{cert}"')
    await bare.rows("by_country", max_age=60)
    await bare.rows("by_country", max_age=60)
    assert labels_of(await bare.metrics()) == PROMISED


async def test_series_with_known_labels_start_at_zero(world: World) -> None:
    samples = {name.removeprefix("redash_gateway_"): value for name, value in (await world.metrics()).items()}
    expected = [f'executions_total{{outcome="{o}"}}' for o in ("success", "failure", "cancelled", "lost")]
    expected += [
        f'saved_{what}_total{{cache="{c}"}}'
        for what in ("executions", "execution_seconds")
        for c in ("hit", "collapsed")
    ]
    expected += [f'rejected_total{{reason="{reason}"}}' for reason in reasons()]
    expected += [f'waiting{{kind="{kind}"}}' for kind in ("slot", "collision", "earlier_run", "request")]
    expected += [
        f'request_duration_seconds_count{{cache="{cache}",route="{route}"}}'
        for route in RESULT_ROUTES
        for cache in CACHE
        if cache != "bypass"
    ]
    expected += [f'cache_evictions_total{{tier="{tier}"}}' for tier in ("memory", "disk")]
    assert {name: samples.get(name) for name in expected} == dict.fromkeys(expected, 0.0)
    assert samples['credential_up{credential="analyst"}'] == 1.0
    (built,) = [name for name in samples if name.startswith("build_info")]
    assert f'version="{__version__}"' in built
    assert samples["peers"] == 1.0
    assert samples["redis_losses_total"] == 0.0


def test_levels_have_no_defaults() -> None:
    assert [field.name for field in fields(Levels) if not field.required] == [], "app/runtime.py must give its value"


def test_reasons_are_those_of_all_errors() -> None:
    assert {"internal", "bad_request", "breaker_open", "upstream_timeout", "headers_too_large"} <= reasons()
    assert GatewayError.reason in reasons()


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_both_formats_are_served(world: World, accept: str) -> None:
    async with world.session.get(f"{world.admin}/metrics", headers={"Accept": accept}) as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith(accept.partition(";")[0])
    assert text.endswith("# EOF\n") is accept.startswith("application")
    read = openmetrics if accept.startswith("application") else parser
    assert "redash_gateway_requests" in {family.name for family in read.text_string_to_metric_families(text)}
    assert "redash_gateway_build_info{" in text


async def test_promtool_accepts_them(world: World, needs: Callable[[str], str]) -> None:
    promtool = needs("promtool")
    await world.rows("by_country", max_age=60)
    async with world.session.get(f"{world.admin}/metrics") as response:
        text = "".join(line for line in (await response.text()).splitlines(True) if "redash_gateway_" in line)
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_a_request_that_is_no_http_is_counted(world: World) -> None:
    for sent in (b"nonsense\r\n\r\n", b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        await exchange(world.url, sent)
    assert await world.metric("redash_gateway_requests_total", route="none", cache="none", status="4xx") == 2
    assert await world.metric("redash_gateway_rejected_total", reason="bad_request") == 1
    assert await world.metric("redash_gateway_rejected_total", reason="uri_too_long") == 1


async def test_no_raw_path_becomes_a_label(world: World) -> None:
    for path in ("/api/secret-path", "/api/queries/0", "/api/jobs/nonsense", "/%2e"):
        await world.get(path)
    routes = {
        re.search('route="([^"]*)"', s)[1] for s in await world.metrics() if s.startswith("redash_gateway_requests")
    }  # type: ignore[index]
    assert routes == {"none"}


async def test_a_hit_saves_a_run_but_reading_by_id_does_not(world: World) -> None:
    await world.rows("by_country", max_age=60)  # runs, polls, reads
    assert await world.metric("redash_gateway_saved_executions_total") == 0
    result = (await world.post("by_country", max_age=60)).json["query_result"]
    assert await world.metric("redash_gateway_saved_executions_total", cache="hit") == 1
    saved = await world.metric("redash_gateway_saved_execution_seconds_total", cache="hit")
    assert saved == pytest.approx(result["runtime"])
    await world.get(f"/api/query_results/{result['id']}")
    assert await world.metric("redash_gateway_saved_executions_total") == 1


async def test_callers_that_share_a_run_avoid_all_but_one(world: World) -> None:
    hold = world.sandbox.hold()
    jobs = [(await world.post("by_country", max_age=0)).job["id"] for _ in range(5)]
    hold.release()
    for job in jobs:
        await world.finish(job)
    assert await world.metric("redash_gateway_executions_total", outcome="success") == 1
    assert await world.metric("redash_gateway_saved_executions_total", cache="collapsed") == 4


async def test_a_new_credential_is_shown_after_a_reload(bare: World) -> None:
    await bare.start()
    metrics = bare.runtime.telemetry.metrics
    metrics.configure(["analyst", "fresh"], 3)
    assert metrics.credential_up == {("analyst",): 1, ("fresh",): 1}


def test_query_labels_are_bounded() -> None:
    metrics = Metrics(no_levels, [], per_query=2)
    for query_id in (7, 8, 9, 10, 7):
        outcome = Outcome(request_id="r", query_id=query_id, cache="hit", status=200)
        metrics.record_requests(*batched([outcome]))
    assert dict(metrics.query_requests) == {("7", "hit"): 2, ("8", "hit"): 1, ("other", "hit"): 2}


def test_ids_beyond_the_bound_share_one_label() -> None:
    counts = QueryCounts(1)
    for query_id in range(5_000):
        counts.add(query_id, "hit", 1)
    assert counts.values == {("0", "hit"): 1, ("other", "hit"): 4_999}
    QueryCounts(0).add(7, "hit", 1)


def test_a_busy_query_takes_the_label_of_an_idle_one() -> None:
    # Otherwise the first queries after a start would keep them, though nobody asks for them any more.
    counts = QueryCounts(2)
    counts.add(1, "hit", 50)
    counts.add(2, "miss", 1)
    counts.add(2, "hit", 2)
    counts.add(3, "hit", 6)
    assert counts.values == {("1", "hit"): 50, ("2", "miss"): 1, ("2", "hit"): 2, ("other", "hit"): 6}
    counts.add(3, "hit", 1)  # more than twice as busy as 2
    assert counts.values == {("1", "hit"): 50, ("other", "miss"): 1, ("other", "hit"): 8, ("3", "hit"): 1}
    counts.add(2, "hit", 1)
    assert counts.values[("other", "hit")] == 9


async def test_ids_that_redash_does_not_know_take_no_label(bare: World) -> None:
    await bare.start("[metrics]\nper_query = 1\n")
    for query_id in range(900_000, 900_003):
        assert (await bare.get(f"/api/queries/{query_id}/results.json?max_age=60")).status == 404
        assert (await bare.call("POST", f"/api/queries/{query_id}/results", b"{}")).status == 404
    await bare.rows("by_country")
    query = str(bare.named["by_country"])
    labels = re.findall(r'query_requests_total\{.*query="(\w+)"', "\n".join(await bare.metrics()))
    assert set(labels) == {query}


@pytest.mark.parametrize(
    ("status", "failure", "up"), [(0, "upstream_error", 0), (502, "upstream_error", 0), (200, "", 1)]
)
def test_a_rejected_key_stays_rejected_until_redash_itself_accepts_it(status: int, failure: str, up: int) -> None:
    metrics = Metrics(no_levels, ["a"], 0)
    metrics.record_upstream(UpstreamCall("r", 404, 0.1, "a", False))
    metrics.record_upstream(UpstreamCall("r", status, 0.1, "a", True, failure=failure))
    assert metrics.credential_up == {("a",): up}


async def test_a_scrape_shows_one_moment_though_it_is_encoded_in_a_thread(world: World) -> None:
    # Thousands of series take a tenth of a second, and the event loop goes on counting meanwhile.
    await world.rows("by_country", max_age=60)
    metrics = world.runtime.telemetry.metrics
    frozen = metrics.frozen()
    before = generate_latest(registry(frozen)).decode().partition("process_")[0]
    await world.rows("by_country", max_age=60)
    await world.rows("now", max_age=60)
    metrics.configure(["another"], 1)
    world.runtime.levels()  # this counts what waits to be counted
    assert generate_latest(registry(frozen)).decode().partition("process_")[0] == before
    assert generate_latest(registry(metrics)).decode().partition("process_")[0] != before
