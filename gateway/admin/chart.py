"""Charts of what there is, at most 24 hours, as SVG. Pure.

Each point has a column of its own with a title: browsers show it as the values under the pointer, without JavaScript.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final, Literal

import msgspec

from gateway.admin.formats import NONE, count, duration, formatted

Scale = Literal["share", "log", "count"]
Values = Sequence[float | None]
History = Mapping[str, Any]
"""A `Series` as builtins."""

FASTEST: Final = -4
DECADES: Final = 6
"""The latency axis goes from 10^-4 s = 0.1 ms over six decades to 100 s."""


_BARS: Final = {"left": ".12", "right": ".52"}
"""Where in its column a bar begins: the bars of two series stand side by side."""


class Line(msgspec.Struct, frozen=True):
    """One series of a chart: its name in the report's history, how it is drawn, and its line of the legend."""

    series: str
    shape: Literal["line", "area", "left", "right"]
    label: str
    form: str
    value: str  # place of its number for the hour in the report


class Chart(msgspec.Struct, frozen=True):
    """One chart; `ticks` are the labels of its axis from the top, `rules` is the number of grid intervals."""

    name: str
    title: str
    about: str
    scale: Scale
    ticks: tuple[str, ...]
    rules: int
    lines: tuple[Line, ...]


def ceiling(values: Values) -> int:
    """Return the round number (1, 2, 5, 10, 20 …) at the top of a chart of counts."""
    most = max((v for v in values if v is not None), default=0)
    decade = 1
    while True:
        for step in (1, 2, 5):
            if most <= step * decade:
                return step * decade
        decade *= 10


def height(value: float, scale: Scale, top: float) -> float:
    """Return the height of a value on the axis, from 0 to 100."""
    if scale == "log":
        return min(100.0, max(0.0, (math.log10(max(value, 1e-9)) - FASTEST) / DECADES * 100))
    return value / top * 100


def path(values: Values, shape: str, scale: Scale, top: float) -> str:
    """Return the path of a series in a box as wide as it has points, and 100 high; None is a gap."""
    heights = [None if value is None else f"{100 - height(value, scale, top):.1f}" for value in values]
    if shape in _BARS:
        return "".join(
            f"M{x}{_BARS[shape]},100V{y}h.36V100z" for x, y in enumerate(heights) if y not in (None, "100.0")
        )
    start, end = (",100V", "V100z") if shape == "area" else (",", "")
    drawn, last = "", None
    for x, y in enumerate(heights):
        if y is not None:
            drawn += f"L{x}.5,{y}" if last is not None else f"M{x}.5{start}{y}h0"
        elif last is not None:
            drawn += end
        last = y
    return drawn + (end if last is not None else "")


def top_of(chart: Chart, history: History) -> int:
    """Return the number at the top of the axis of a chart of counts; 1 for the others."""
    if chart.scale != "count":
        return 1
    return ceiling([value for line in chart.lines for value in history[line.series]])


def axis(chart: Chart, history: History) -> list[str]:
    """Return the labels of the vertical axis, from the top."""
    return [count(top_of(chart, history)), *chart.ticks[1:]] if chart.scale == "count" else list(chart.ticks)


def span(history: History) -> tuple[str, str]:
    """Return the labels of the horizontal axis: its beginning and its middle; it ends now."""
    seconds = history["seconds_per_point"] * len(history["requests"])
    return f"{duration(seconds)} ago", f"{duration(seconds / 2)} ago"


def svg(chart: Chart, history: History, at: float) -> str:
    """Return the drawing; the page adds title, axis labels and legend. `at` is when it ends, in unix seconds."""
    width, top = len(history["requests"]), float(top_of(chart, history))
    rules = "".join(f'<path class="rule" d="M0,{100 * n / chart.rules:.1f}H{width}"/>' for n in range(chart.rules + 1))
    paths = "".join(_drawn(line, history, chart.scale, top) for line in chart.lines)
    ids = f"{chart.name}-title {chart.name}-about"
    return (
        f'<svg viewBox="0 0 {width} 100" preserveAspectRatio="none" role="img" aria-labelledby="{ids}">'
        f'<title id="{chart.name}-title">{escape(chart.title)}</title>'
        f'<desc id="{chart.name}-about">{escape(chart.about)}</desc>{rules}{paths}{_columns(chart, history, at)}</svg>'
    )


def _drawn(line: Line, history: History, scale: Scale, top: float) -> str:
    """Draw one series; an area gets a line on top."""
    shapes = ("area", "line") if line.shape == "area" else (line.shape,)
    values = history[line.series]
    return "".join(
        f'<path class="{shape} {line.series}" data-series="{line.series}" d="{path(values, shape, scale, top)}"/>'
        for shape in shapes
    )


def _columns(chart: Chart, history: History, at: float) -> str:
    """Return a transparent column for each point, whose title says when it began and what the values were."""
    seconds, number = history["seconds_per_point"], len(history["requests"])
    first = at - history["current_seconds"] - (number - 1) * seconds
    form = "%H:%M:%S" if seconds < 60 else "%H:%M"
    made = []
    for x in range(number):
        moment = time.strftime(form, time.gmtime(first + x * seconds))
        values = [(line.label, history[line.series][x], line.form) for line in chart.lines]
        text = ", ".join(f"{label} {formatted(value, form)}" for label, value, form in values if value is not None)
        made.append(f'<rect x="{x}" width="1" height="100"><title>{moment} {escape(text or NONE)}</title></rect>')
    return "".join(made)
