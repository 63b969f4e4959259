"""Renders the status page as HTML, complete without JavaScript. Every text is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import Any

import msgspec

from gateway.admin import chart
from gateway.admin.chart import Chart, Line
from gateway.admin.formats import count, formatted
from gateway.admin.layout import CHARTS, NUMBERS, TABLES, Column, Number, Table
from gateway.admin.report import Report
from gateway.admin.shell import Frame, document, operator_forms

ALARMING = ("down", "failing")

Values = Mapping[str, Any]


def render(report: Report, frame: Frame) -> str:
    """Return the page, with forms for the operator where one has signed in."""
    values: Values = msgspec.to_builtins(report)
    about = f"""<p class="about">version {escape(report.version)} · Redash \
{_span(values, "redash_version", "text")} · up {_span(values, "uptime_seconds", "duration")}</p>
<p class="stream" id="stream" role="status">as of {_clock(report.at)}</p>"""
    main = f"""{_verdict(values)}
{_health(values)}
{_numbers(values)}
<section class="charts" aria-label="The last hour in charts">
{"".join(_chart(one, values) for one in CHARTS)}
</section>
<div class="sheets">
{"".join(_table(table, values) for table in TABLES)}
</div>
{operator_forms(frame, report.credentials) if frame.csrf else ""}"""
    footer = f"""<p>{_totals(values)}</p>
<p>{_span(values, "redash", "text")}</p>
<p>The same as JSON: <a href="api/status">api/status</a> · for Prometheus: <a href="metrics">metrics</a></p>"""
    return document(frame, "", "", about, main, footer, live="events")


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


def _span(values: Values, place: str, form: str) -> str:
    return f'<span data-place="{place}" data-form="{form}">{escape(formatted(value_at(values, place), form))}</span>'


def _verdict(values: Values) -> str:
    return (
        f'<section class="verdict" id="verdict" data-state="{escape(values["state"])}" aria-label="Verdict">'
        f'<p data-place="verdict" data-form="text">{escape(values["verdict"])}</p>'
        '<p class="unseen" id="spoken" aria-live="polite"></p></section>'
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
    value = _span(values, number.place, number.form)
    return f"<div><dt>{escape(number.label)}</dt><dd>{value} <small>{escape(number.hint)}</small></dd></div>"


def _chart(one: Chart, values: Values) -> str:
    series = values["history"]
    ticks = list(one.ticks)
    if one.scale == "count":
        ticks[0] = count(chart.ceiling([v for line in one.lines for v in series[line.series]]))
    axis = "".join(f"<span>{tick}</span>" for tick in ticks)
    legend = "".join(_legend(line, values) for line in one.lines)
    return f"""<figure data-chart="{one.name}" data-scale="{one.scale}">
<figcaption><h3>{escape(one.title)}</h3><ul>{legend}</ul></figcaption>
<div class="plot"><div class="axis" aria-hidden="true">{axis}</div>{chart.svg(one, series)}</div>
<div class="hours" aria-hidden="true"><span>1 h ago</span><span>30 min</span><span>now</span></div>
</figure>"""


def _legend(line: Line, values: Values) -> str:
    return f'<li class="{line.series}">{escape(line.label)} <b>{_span(values, line.value, line.form)}</b></li>'


def _table(table: Table, values: Values) -> str:
    rows = values[table.rows]
    head = "".join(
        f'<th scope="col" data-field="{column.field}" data-form="{column.form}">{escape(column.title)}</th>'
        for column in table.columns
    )
    body = "".join(_row(table.columns, row) for row in rows)
    number = (
        f' <span class="of" data-place="{table.count}" data-form="count">{values[table.count]}</span>'
        if table.count
        else ""
    )
    return f"""<section class="sheet{" wide" if table.wide else ""}" aria-labelledby="{table.rows}-title">
<h2 id="{table.rows}-title">{escape(table.title)} {number}</h2>
<p class="about">{escape(table.about)}</p>
<p class="empty"{" hidden" if rows else ""}>{escape(table.empty)}</p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="{table.rows}-title"{"" if rows else " hidden"}>
<table data-rows="{table.rows}"><caption class="unseen">{escape(table.title)}. {escape(table.about)}</caption>
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
</section>
"""


def _row(columns: tuple[Column, ...], row: Values) -> str:
    first, *others = columns
    head = f'<th scope="row">{escape(formatted(row[first.field], first.form))}</th>'
    return f"<tr>{head}{''.join(_cell(row[column.field], column.form) for column in others)}</tr>"


def _cell(value: object, form: str) -> str:
    words = " words" if form in ("text", "state") else ""
    alarm = " alarm" if (form == "alarm" and value) or (form == "state" and value in ALARMING) else ""
    return f'<td class="{(words + alarm).strip()}">{escape(formatted(value, form))}</td>'


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
        "Since the start: " + ", ".join(f"{_span(values, place, form)} {words}" for place, form, words in parts) + "."
    )
