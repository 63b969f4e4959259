"""Numbers and sentences as people read them."""

from __future__ import annotations

import pytest

from gateway.admin import verdict
from gateway.admin.chart import ceiling, path
from gateway.admin.text import shown
from gateway.admin.verdict import Health
from gateway.telemetry.history import Counts


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("count", 12304, "12,304"),
        ("count", None, "–"),
        ("percent", 0.942, "94 %"),
        ("percent", 0.9999, ">99 %"),
        ("percent", 0.0001, "<1 %"),
        ("percent", 1.0, "100 %"),
        ("percent", 0, "0 %"),
        ("duration", 0, "0 s"),
        ("duration", 0.00004, "<0.1 ms"),
        ("duration", 0.0034, "3.4 ms"),
        ("duration", 0.34, "340 ms"),
        ("duration", 0.9999, "1 s"),
        ("duration", 4.24, "4.2 s"),
        ("duration", 59.7, "1 min"),
        ("duration", 192, "3 min 12 s"),
        ("duration", 11520, "3 h 12 min"),
        ("duration", 200_000, "2 d 7 h"),
        ("ago", 0.4, "just now"),
        ("ago", 4.9, "4 s ago"),
        ("size", 0, "0 B"),
        ("size", 999, "999 B"),
        ("size", 12_400_000, "12 MB"),
        ("size", 1_240_000, "1.2 MB"),
        ("size", 3e15, "3000 TB"),
        ("query", 42, "42"),
        ("query", 0, "ad hoc"),
    ],
)
def test_numbers_are_for_people(form: str, value: object, text: str) -> None:
    assert shown(value, form) == text


def hour(**cache: int) -> Counts:
    counts = Counts()
    counts.cache.update(cache)
    counts.saved = 11520.0 * bool(cache.get("hit"))
    return counts


GOOD = [Health("Redash", "good", "Answers")]


def test_the_verdict_says_what_is_saved() -> None:
    assert verdict.verdict(GOOD, hour(hit=94, miss=6, none=40), 7200, ready=True) == (
        "good",
        "Serving. 94 % of 100 cacheable requests in the last hour came from the cache; "
        "that saved 3 h 12 min of warehouse time.",
    )


@pytest.mark.parametrize(
    ("counts", "uptime", "text"),
    [
        (hour(), 7200, "Serving. Nobody has asked anything in the last hour."),
        (hour(), 0, "Serving. Nobody has asked anything in the last 1 s."),
        (hour(none=1), 130, "Serving. 1 request in the last 2 min; none of a kind that the cache can answer."),
        (hour(miss=1), 60, "Serving. 0 % of 1 cacheable request in the last 1 min came from the cache."),
    ],
)
def test_the_verdict_on_little_use(counts: Counts, uptime: float, text: str) -> None:
    assert verdict.verdict(GOOD, counts, uptime, ready=True) == ("good", text)


def test_the_verdict_names_every_trouble() -> None:
    parts = [
        verdict.redash(1.0, 2.0, 3.0, breaker_open=False),
        verdict.credentials(["reporting", "other"], {"reporting": False}),
        verdict.store([("memory", True), ("disk", False)], 0),
        verdict.configuration(10.0, successful=False),
    ]
    state, text = verdict.verdict(parts, hour(), 7200, ready=True)
    assert state == "bad"
    assert text.startswith(
        "Serving, but Redash did not answer when last asked; Redash rejects the key of reporting; a part of the store "
        "is down; the last reload failed"
    )


def test_a_lost_answer_alone_is_a_warning() -> None:
    parts = [verdict.redash(1.0, 2.0, 3.0, breaker_open=False), verdict.queue(3)]
    assert verdict.verdict(parts, hour(), 7200, ready=True)[0] == "warn"


def test_who_does_not_serve_says_so() -> None:
    assert verdict.verdict(GOOD, hour(hit=5), 7200, ready=False)[1].startswith("Not serving")


def test_the_axis_ends_at_a_round_number() -> None:
    assert [ceiling([n]) for n in (0, 1, 3, 7, 11, 120, 501)] == [1, 1, 5, 10, 20, 200, 1000]
    assert ceiling([]) == 1


def test_gaps_stay_gaps() -> None:
    assert path([0.5, None, 1.0], "line", "share", 1.0) == "M0.5,50.0h0M2.5,0.0h0"
    assert path([0.5, 1.0, None], "area", "share", 1.0) == "M0.5,100V50.0h0L1.5,0.0V100z"
    assert path([0, 2], "left", "count", 2) == "M1.12,100V0.0h.36V100z"
    assert path([], "area", "share", 1.0) == ""


def test_the_latency_axis_goes_by_decades() -> None:
    assert path([0.0001, 0.1, 100.0, 5000.0], "line", "log", 1.0) == "M0.5,100.0h0L1.5,50.0L2.5,0.0L3.5,0.0"
