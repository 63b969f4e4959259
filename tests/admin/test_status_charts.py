"""The geometry of the charts."""

from __future__ import annotations

from gateway.admin.chart import ceiling, path


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
