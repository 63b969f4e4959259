"""The verdict and the health of each part, in sentences as people read them."""

from __future__ import annotations

import msgspec
import pytest

from gateway.admin import health
from gateway.admin.health import Health
from gateway.model import SharingStats
from gateway.telemetry.history import Counts


def hour(**cache: int) -> Counts:
    counts = Counts()
    counts.cache.update(cache)
    counts.saved = 11520.0 * bool(cache.get("hit"))
    return counts


GOOD = [Health("Redash", "good", "Responds")]


def test_the_verdict_says_what_is_saved() -> None:
    assert health.verdict(GOOD, hour(hit=94, miss=6, none=40), 7200, ready=True) == (
        "good",
        "Serving. 94 % of 100 cacheable requests in the last hour were answered without a run; "
        "that saved 3 h 12 min of warehouse time.",
    )


@pytest.mark.parametrize(
    ("counts", "uptime", "text"),
    [
        (hour(), 7200, "Serving. No requests in the last hour."),
        (hour(), 0, "Serving. No requests in the last 1 s."),
        (hour(none=1), 130, "Serving. 1 request in the last 2 min; none cacheable."),
        (hour(miss=1), 60, "Serving. 0 % of 1 cacheable request in the last 1 min were answered without a run."),
    ],
)
def test_the_verdict_on_little_use(counts: Counts, uptime: float, text: str) -> None:
    assert health.verdict(GOOD, counts, uptime, ready=True) == ("good", text)


def test_the_verdict_names_every_trouble() -> None:
    parts = [
        health.redash(1.0, 2.0, 3.0, breaker_open=False),
        health.credentials(["reporting", "other"], {"reporting": False}),
        health.store([("memory", True), ("disk", False)], 0),
        health.configuration(10.0, successful=False),
    ]
    state, text = health.verdict(parts, hour(), 7200, ready=True)
    assert state == "bad"
    assert text.startswith(
        "Serving, but Redash did not respond to the last request; Redash rejects the key of reporting; "
        "a part of the store is down; the last reload failed"
    )


def test_a_query_that_keeps_failing_is_told() -> None:
    def runs(all_runs: int, failures: int) -> Health:
        counts = Counts()
        counts.executions, counts.failures = all_runs, failures
        return health.runs(counts)

    assert runs(0, 0).state == "idle"
    assert (runs(9, 0).state, runs(9, 0).trouble) == ("good", "")
    assert (runs(1, 1).state, runs(1, 1).trouble) == ("warn", "")  # one typing error is no trouble of the gateway's
    failing = runs(300, 300)
    assert failing.text == "300 of 300 failed in 5 min"
    assert health.verdict([failing], hour(), 7200, ready=True)[0] == "warn"


def test_one_missing_response_is_a_warning() -> None:
    parts = [health.redash(1.0, 2.0, 3.0, breaker_open=False), health.queue(3)]
    assert health.verdict(parts, hour(), 7200, ready=True)[0] == "warn"


def test_a_gateway_that_does_not_serve_says_so() -> None:
    assert health.verdict(GOOD, hour(hit=5), 7200, ready=False)[1].startswith("Not serving")


def test_a_gateway_that_does_not_renew_is_named() -> None:
    stats = SharingStats(
        gateways=(("one", 0.1), ("two", 0.2)),
        silent=(("three", 12.0),),
        up=True,
        reason="",
        trouble="",
        losses=0,
        round_trip=0.001,
        used_bytes=0,
        limit_bytes=0,
        evicts=False,
    )
    found = health.sharing(stats)
    assert (found.state, found.text) == ("warn", "2 share the store; silent: three")
    assert found.trouble == "Redis has not heard of three for 12 s"
    assert health.sharing(msgspec.structs.replace(stats, silent=())).state == "good"
