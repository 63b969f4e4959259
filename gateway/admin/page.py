"""Renders the console as HTML, complete without JavaScript. Every text is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import Any

import msgspec

from gateway.admin import chart
from gateway.admin.cells import Page, table
from gateway.admin.chart import Chart, Line
from gateway.admin.formats import formatted
from gateway.admin.layout import CHARTS, NUMBERS, TABLES, Number, Table
from gateway.admin.report import Report
from gateway.admin.shell import Frame, document, operator_forms

Values = Mapping[str, Any]


def render(report: Report, frame: Frame) -> str:
    """Return the whole page, with forms for the operator where one has signed in."""
    footer = (
        '<p>The same as JSON: <a href="api/status">api/status</a> · for Prometheus: <a href="metrics">metrics</a></p>'
    )
    forms = operator_forms(frame, report.credentials)
    return document(frame, "", "", live(report), after=forms, footer=footer, stream="live")


def live(report: Report) -> str:
    """Return the part of the page that is renewed while it is shown; the same for all who look at it."""
    values: Values = msgspec.to_builtins(report)
    page = Page("", report.redash_url, report.at)
    charts = "".join(_chart(one, values) for one in CHARTS)
    tables = "".join(_table(one, values, page) for one in TABLES)
    return f"""<p class="about">{escape(report.name)} · version {escape(report.version)} · \
Redash {_text(values, "redash_version", "text")} · \
up {_text(values, "uptime_seconds", "duration")} · as of {_clock(report.at)}</p>
{_verdict(values)}
{_health(values)}
{_numbers(values)}
<section class="charts" aria-label="Charts">{charts}</section>
<div class="sheets">{tables}</div>
<p class="about">{_totals(values)}</p>
<p class="about">{_text(values, "redash", "text")}</p>"""


def _clock(at: float) -> str:
    moment = time.gmtime(at)
    machine, people = (time.strftime(form, moment) for form in ("%Y-%m-%dT%H:%M:%SZ", "%H:%M:%S UTC"))
    return f'<time datetime="{machine}">{people}</time>'


def value_at(values: Values, place: str) -> Any:
    """Return the value at a dotted place of the report."""
    found: Any = values
    for name in place.split("."):
        found = found[name]
    return found


def _text(values: Values, place: str, form: str) -> str:
    return f'<span data-place="{place}">{escape(formatted(value_at(values, place), form))}</span>'


def _verdict(values: Values) -> str:
    return (
        f'<section class="verdict" id="verdict" data-state="{escape(values["state"])}" aria-label="Verdict">'
        f'<p data-place="verdict">{escape(values["verdict"])}</p></section>'
    )


def _health(values: Values) -> str:
    tiles = "".join(_tile(part) for part in values["health"])
    return f'<section aria-label="Health"><ul class="health" id="health">{tiles}</ul></section>'


def _tile(part: Values) -> str:
    name, text = escape(part["name"]), escape(part["text"])
    return f'<li data-state="{escape(part["state"])}"><b>{name}</b> <span>{text}</span></li>'


def _numbers(values: Values) -> str:
    tiles = "".join(_number(number, values) for number in NUMBERS)
    return f'<section aria-labelledby="hour"><h2 id="hour">The last hour</h2><dl class="numbers">{tiles}</dl></section>'


def _number(number: Number, values: Values) -> str:
    value = _text(values, number.place, number.form)
    return f"<div><dt>{escape(number.label)}</dt><dd>{value} <small>{escape(number.hint)}</small></dd></div>"


def _chart(one: Chart, values: Values) -> str:
    history = values["history"]
    axis = "".join(f"<span>{tick}</span>" for tick in chart.axis(one, history))
    legend = "".join(_legend(line, values) for line in one.lines)
    begin, middle = chart.span(history)
    return f"""<figure data-chart="{one.name}">
<figcaption><h3>{escape(one.title)}</h3><ul>{legend}</ul></figcaption>
<div class="plot"><div class="axis" aria-hidden="true">{axis}</div>{chart.svg(one, history, values["at"])}</div>
<div class="hours" aria-hidden="true"><span>{begin}</span><span>{middle}</span><span>now</span></div>
</figure>"""


def _legend(line: Line, values: Values) -> str:
    return f'<li class="{line.series}">{escape(line.label)} <b>{_text(values, line.value, line.form)}</b></li>'


def _table(one: Table, values: Values, page: Page) -> str:
    return table(one, values[one.rows], page, values[one.count] if one.count else None)


def _totals(values: Values) -> str:
    parts = (
        ("totals.requests", "count", "requests"),
        ("totals.executions", "count", "runs in Redash"),
        ("totals.saved_executions", "count", "query runs avoided"),
        ("totals.saved_seconds", "duration", "of warehouse time saved"),
        ("totals.upstream_requests", "count", "requests to Redash"),
        ("totals.upstream_errors", "count", "of them failed"),
    )
    return (
        "Since the start: " + ", ".join(f"{_text(values, place, form)} {words}" for place, form, words in parts) + "."
    )
