"""Tables as HTML, for all pages. Every text is escaped. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from gateway.admin.columns import Column
from gateway.admin.formats import NONE, duration, formatted
from gateway.admin.layout import Table

Row = Mapping[str, Any]

ALARMING: Final = ("down", "failing")
SOON_SECONDS: Final = 14 * 86400.0
"""Tokens that expire within this time are marked."""


class Order(NamedTuple):
    """How a list is arranged: what to find, and the field to sort by, with "-" for the greatest first."""

    find: str = ""
    sort: str = ""

    def link(self, field: str) -> str:
        """Return the query string that sorts by a field; the second time in the other direction."""
        sort = field if self.sort == f"-{field}" else f"-{field}"
        return "?" + urlencode({"find": self.find, "sort": sort} if self.find else {"sort": sort})

    def direction(self, field: str) -> str:
        """Return the attribute of the column that the list is sorted by."""
        if self.sort.lstrip("-") != field:
            return ""
        return f' aria-sort="{"descending" if self.sort.startswith("-") else "ascending"}"'


class Page(NamedTuple):
    """What a cell needs to know of its page: the way to the first page, Redash's address, and the time."""

    root: str
    redash_url: str
    at: float


def table(one: Table, rows: Sequence[Row], page: Page, number: int | None = None, order: Order | None = None) -> str:
    """Return a table in a section of its own; `number` is that of all rows, `order` makes its columns sortable."""
    head = "".join(_heading(column, order) for column in one.columns)
    body = "".join(_row(one.columns, row, page) for row in rows)
    more = f' <a class="more" href="{page.root}{one.page}">all<span class="unseen"> of {escape(one.title)}</span></a>'
    place = f' data-place="{one.count}"' if one.count else ""
    shown = f' <span class="of"{place}>{number:,}</span>' if number is not None else ""
    name = f"{one.rows}-title"
    scroll = (
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">'
        f'<table data-rows="{one.rows}"><caption class="unseen">{escape(one.title)}. {escape(one.about)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return f"""<section class="sheet{" wide" if one.wide else ""}" aria-labelledby="{name}">
<h2 id="{name}">{escape(one.title)}{shown}{more if one.page else ""}</h2>
<p class="about">{escape(one.about)}</p>
{scroll if rows else f'<p class="empty">{escape(one.empty)}</p>'}
</section>
"""


def _heading(column: Column, order: Order | None) -> str:
    title = escape(column.title)
    kind = _kind(column.form)
    if order is None:
        return f'<th scope="col" class="{kind}">{title}</th>'
    link = f'<a href="{escape(order.link(column.field))}">{title}</a>'
    return f'<th scope="col" class="{kind}"{order.direction(column.field)}>{link}</th>'


def _row(columns: Sequence[Column], row: Row, page: Page) -> str:
    first, *others = columns
    head = f'<th scope="row" class="{_kind(first.form)}">{cell(row, first, page)}</th>'
    return f"<tr>{head}{''.join(_data(row, column, page) for column in others)}</tr>"


def _data(row: Row, column: Column, page: Page) -> str:
    value, form = row[column.field], column.form
    alarm = " alarm" if (form == "alarm" and value) or (form == "state" and value in ALARMING) else ""
    return f'<td class="{_kind(form)}{alarm}">{cell(row, column, page)}</td>'


def _kind(form: str) -> str:
    if form in ("query", "cause"):
        return "words wide-words"
    return "words" if form in ("text", "state", "code", "moment", "run") else ""


def cell(row: Row, column: Column, page: Page) -> str:
    """Return the content of one cell."""
    special = _SPECIAL.get(column.form)
    value = row[column.field]
    if value is None or value == "":
        return NONE
    return special(row, value, page) if special is not None else escape(formatted(value, column.form))


def query_link(row: Row, value: Any, page: Page) -> str:
    """Return a query by its name, with links to its page here and in Redash."""
    if not value:
        return f'<a href="{page.root}queries/0">ad hoc SQL</a>'
    name = escape(row["name"]) or f"Query {value}"
    here = f'<a href="{page.root}queries/{value}">{name}</a> <small>{value}</small>'
    return f"{here} {redash_link(value, page)}"


def redash_link(query_id: int, page: Page) -> str:
    """Return a link to a query in Redash."""
    label = f"Query {query_id} in Redash"
    address = escape(f"{page.redash_url}/queries/{query_id}")
    return f'<a class="out" href="{address}" rel="noreferrer" title="{label}" aria-label="{label}">↗</a>'


def moment(_: Row, value: Any, page: Page) -> str:
    """Return a time of day, with the date where it is not today."""
    when = time.gmtime(value)
    same_day = time.gmtime(page.at)[:3] == when[:3]
    shown = time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M", when)
    return f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%SZ", when)}">{shown}</time>'


def _expiry(_: Row, value: Any, page: Page) -> str:
    left = value - page.at
    if left <= 0:
        return f'<span class="alarm">{escape(duration(-left))} ago</span>'
    text = f"in {escape(duration(left))}"
    return f'<span class="alarm">{text}</span>' if left < SOON_SECONDS else text


def _cause(row: Row, value: Any, _: Page) -> str:
    return f"{escape(value)} <small>{escape(row['cause'])}</small>"


def _code(_: Row, value: Any, __: Page) -> str:
    return f"<code>{escape(value)}</code>"


def _run(_: Row, value: Any, page: Page) -> str:
    return f'<a href="{page.root}runs/{escape(value)}">Details<span class="unseen"> of run {escape(value)}</span></a>'


def _share(row: Row, value: Any, page: Page) -> str:
    return _bar(row, min(1.0, value / row["limit"]) if row["limit"] else 0.0, page)


def _bar(_: Row, value: Any, __: Page) -> str:
    text = escape(formatted(value, "percent"))
    return f'<meter min="0" max="1" value="{value:.4f}" aria-hidden="true"></meter> {text}'


_SPECIAL: Final[Mapping[str, Callable[[Row, Any, Page], str]]] = {
    "query": query_link,
    "moment": moment,
    "expiry": _expiry,
    "cause": _cause,
    "code": _code,
    "run": _run,
    "share": _share,
    "bar": _bar,
}
