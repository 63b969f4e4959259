"""The log says why Redash is unavailable, on every way; what Redash refuses by itself counts as no failure of it."""

from __future__ import annotations

import asyncio
import re

import pytest
from support.inside import canary_after, no_levels
from support.waiting import until
from support.world import World

from gateway.outcome import UpstreamCall
from gateway.telemetry.metrics import Metrics

OUTAGE = "Redash is unavailable: "
BREAKER = "Redash does not work and is left alone for a while (the breaker is open): "
FAILURES = "redash_gateway_upstream_failures_total"


def said(caplog: pytest.LogCaptureFixture, beginning: str) -> str:
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith(beginning)]
    return line.removeprefix(beginning)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://127.0.0.1:1", "127.0.0.1:1 refuses the connection"),
        ("http://redash.invalid", "the name redash.invalid is not found"),
        ("https", "speaks plain http, not TLS"),
    ],
)
async def test_both_lines_of_an_outage_say_why_there_is_no_connection(
    bare: World, caplog: pytest.LogCaptureFixture, url: str, cause: str
) -> None:
    bare.upstream = bare.sandbox.url.replace("http://", "https://") if url == "https" else url
    await bare.start(upstream="breaker_failures = 1")
    assert (await bare.get("/api/data_sources")).status == 502
    assert cause in said(caplog, OUTAGE)
    assert cause in said(caplog, BREAKER)
    assert await bare.metric(FAILURES, reason="upstream_error") > 0


async def test_an_outage_by_500_is_one_and_says_so(bare: World, caplog: pytest.LogCaptureFixture) -> None:
    await bare.start(upstream="breaker_failures = 1")
    await bare.rows("by_country", max_age=0)
    bare.sandbox.faults.add("unhealthy")
    assert (await bare.get("/api/queries/1000")).status == 502
    assert said(caplog, OUTAGE).startswith("GET /api/session: Redash fails every request (500)")
    assert said(caplog, BREAKER).startswith("Redash fails every request (500)")
    assert await bare.metric(FAILURES, reason="upstream_unhealthy") == 2  # the caller's request and the canary
    assert not [record for record in caplog.records if "available again" in record.getMessage()]


async def test_a_hang_says_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    # The caller's own request would say it after `read_timeout` only; stored results are served long before.
    with canary_after(0.1):
        world.sandbox.faults.add("hang")
        caller = asyncio.create_task(world.get("/api/queries"))
        await until(lambda: world.runtime.upstream.breaker.is_open)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    assert said(caplog, BREAKER) == "Redash hangs: requests get no response, nor does the gateway's own test"


async def test_a_500_that_bad_input_causes_is_no_failure_of_redash(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    # Whoever requests a dashboard that does not exist gets Redash's 500 (CONTRACT 3); it must raise no alarm.
    await world.rows("by_country", max_age=0)
    assert (await world.get("/api/dashboards/no-such")).status == 500
    assert await world.metric("redash_gateway_upstream_requests_total", status="5xx") == 1
    async with world.session.get(f"{world.admin}/metrics") as response:
        failures = re.findall(rf'(?m)^{FAILURES}{{reason="(\w+)"}} (\S+)$', await response.text())
    assert dict(failures) == dict.fromkeys(("upstream_error", "upstream_timeout", "upstream_unhealthy"), "0.0")
    assert world.runtime.telemetry.recorder.history.hour(world.clock.monotonic()).upstream_errors == 0
    assert not [record for record in caplog.records if OUTAGE in record.getMessage()]


def test_a_caller_that_leaves_is_no_failure_of_redash() -> None:
    metrics = Metrics(no_levels, [], 0)
    metrics.record_upstream(UpstreamCall("/api/queries", 0, 0.1, "analyst", True))
    assert metrics.upstream_requests["/api/queries", "none"] == 1
    assert sum(metrics.upstream_failures.values()) == 0
