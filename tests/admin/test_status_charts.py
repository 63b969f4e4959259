"""The geometry of the charts."""

from __future__ import annotations

from gateway.admin.chart import Chart, Line, ceiling, path, span, svg


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


def history(points: int, seconds: int) -> dict[str, object]:
    return {
        "seconds_per_point": seconds,
        "current_seconds": 4.0,
        "requests": [0] * (points - 1) + [1234],
        "refused": [],
    }


def test_the_axis_is_as_long_as_what_there_is() -> None:
    assert span(history(6, 10)) == ("1 min ago", "30 s ago")
    assert span(history(72, 1200)) == ("1 d ago", "12 h ago")


def test_each_point_says_when_it_was_and_what_it_shows() -> None:
    chart = Chart("x", "X", "", "count", ("", "0"), 2, (Line("requests", "left", "answered", "count", ""),))
    drawn = svg(chart, history(6, 10), at=1_000_000_004.0)
    assert drawn.count("<rect") == 6
    assert "<title>01:46:40 answered 1,234</title>" in drawn, "the last one began 4 s before"
    assert "<title>01:45:50 answered 0</title>" in drawn
    assert 'viewBox="0 0 6 100"' in drawn
