"""The pages that list all queries, clients and single requests: sorted and searched by links and a form. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import msgspec

from gateway.admin import cells
from gateway.admin.cells import Order, Page, Row
from gateway.admin.columns import CLIENT, INCIDENT, QUERY, SLOW
from gateway.admin.layout import Table
from gateway.admin.rows import Rows, by_requests
from gateway.admin.shell import Frame, document

MOST_LISTED: Final = 200
"""Rows of a list on one page; more are found by searching."""

MOST_SEARCHED: Final = 1_000
LONGEST_SEARCH: Final = 100

QUERIES: Final = Table("All queries", "Since the start.", "queries", QUERY, "No query was found.", wide=True)
CLIENTS: Final = Table("All clients", "Since the start.", "clients", CLIENT, "No client was found.", wide=True)
REQUESTS: Final = (
    Table(
        "Failures",
        "Requests with a status of 500 and above, and runs that failed or got lost.",
        "failures",
        INCIDENT,
        "No failure was found.",
        wide=True,
    ),
    Table(
        "Refusals", "Requests with a status of 400 to 499.", "refusals", INCIDENT, "No refusal was found.", wide=True
    ),
    Table(
        "Slow requests",
        "Of the last hour, longer than 250 ms.",
        "slow",
        SLOW,
        "No slow request was found.",
        wide=True,
    ),
)

_SEARCHED: Final = ("query", "name", "client", "cause", "meaning", "request_id", "status")


def order_of(arguments: Mapping[str, str]) -> Order:
    """Return how a list is to be arranged, from the arguments of its address."""
    return Order(arguments.get("find", "").strip()[:LONGEST_SEARCH], arguments.get("sort", "")[:LONGEST_SEARCH])


def queries(frame: Frame, rows: Rows, page: Page, order: Order) -> str:
    """Return the page of all queries."""
    found = [(QUERIES, msgspec.to_builtins(rows.queries(by_requests, MOST_SEARCHED)))]
    return _render(frame, "queries", "Queries", found, page, order)


def clients(frame: Frame, rows: Rows, page: Page, order: Order) -> str:
    """Return the page of all clients."""
    found = [(CLIENTS, msgspec.to_builtins(rows.clients(MOST_SEARCHED)))]
    return _render(frame, "clients", "Clients", found, page, order)


def requests(frame: Frame, rows: Rows, page: Page, order: Order) -> str:
    """Return the page of requests that failed, were refused, or were slow."""
    kinds = (rows.failures(MOST_SEARCHED), rows.refusals(MOST_SEARCHED), rows.slow(MOST_SEARCHED))
    found = list(zip(REQUESTS, map(msgspec.to_builtins, kinds), strict=True))
    return _render(frame, "requests", "Requests", found, page, order)


def _render(
    frame: Frame, path: str, title: str, found: Sequence[tuple[Table, list[Row]]], page: Page, order: Order
) -> str:
    tables = []
    for one, rows in found:
        arranged = arrange(rows, order)
        tables.append(cells.table(one, arranged[:MOST_LISTED], page, len(arranged), order))
    live = f'<div class="sheets">{"".join(tables)}</div>'
    return document(frame, path, title, live, before=_search(path, order, frame))


def _search(path: str, order: Order, frame: Frame) -> str:
    sort = f'<input type="hidden" name="sort" value="{escape(order.sort)}">' if order.sort else ""
    return f"""<form class="search" role="search" action="{frame.root}{path}">{sort}
<label for="find">Find</label>
<input id="find" type="search" name="find" value="{escape(order.find)}" maxlength="{LONGEST_SEARCH}">
<button>Find</button>
</form>"""


def arrange(rows: list[Row], order: Order) -> list[Row]:
    """Return the rows that have the text to find, sorted; rows without a value come last."""
    wanted = order.find.casefold()
    found = [row for row in rows if not wanted or any(wanted in _text(row.get(name)) for name in _SEARCHED)]
    field = order.sort.lstrip("-")
    known = [row for row in found if row.get(field) is not None]
    if not known:
        return found
    rest = [row for row in found if row.get(field) is None]
    return sorted(known, key=lambda row: _comparable(row[field]), reverse=order.sort.startswith("-")) + rest


def _text(value: Any) -> str:
    return "" if value is None else str(value).casefold()


def _comparable(value: Any) -> tuple[float, str]:
    """Return what numbers and texts are compared by; a column has one of the two."""
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value).casefold())
