"""The page of one query: what the cache did for it, why it missed, how old and how long. Counts only. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import msgspec

from gateway.admin import cells
from gateway.admin.cells import Page, Row
from gateway.admin.columns import QUERY, Column
from gateway.admin.formats import formatted
from gateway.admin.layout import Table
from gateway.admin.report import Part, QueryDetail
from gateway.admin.shell import Frame, document, purge_form

_NUMBERS: Final = QUERY[1:]


def _table(title: str, about: str, rows: str, first: str, empty: str) -> Table:
    columns = (Column(first, "label", "text"), Column("Number", "count"), Column("Share", "share", "bar"))
    return Table(title, about, rows, columns, empty)


OUTCOMES: Final = _table("Outcomes", "What the cache did for its requests.", "outcomes", "Outcome", "No requests.")
MISSES: Final = _table("Misses", "Why requests went to Redash.", "misses", "Reason", "No misses.")
AGES: Final = _table("Ages", "How old the results were that were served.", "ages", "Age", "No result was served.")
RUNTIMES: Final = _table(
    "Run times", "How long its runs took, as Redash measured them.", "runtimes", "Run time", "No run has ended."
)
PARAMETERS: Final = _table(
    "Parameters",
    "How often the most requested combinations of parameters were requested. Values are not shown.",
    "parameters",
    "Combination",
    "No request with known parameters.",
)


def render(frame: Frame, query_id: int, detail: QueryDetail | None, page: Page, name: str) -> str:
    """Return the page; `detail` is None for a query that was not requested since the start."""
    title = name or (f"Query {query_id}" if query_id else "Ad hoc SQL")
    link = f"<p>Query {query_id} {cells.redash_link(query_id, page)}</p>" if query_id else ""
    if detail is None:
        live = f'{link}<p class="empty">This query was not requested since the gateway started.</p>'
    else:
        live = link + _numbers(detail) + _distributions(detail, page)
    forms = ""
    if frame.csrf and query_id:
        which = f'<input type="hidden" name="which" value="{query_id}">'
        purge = purge_form(frame, "query", which, "Purge its results", f"queries/{query_id}")
        forms = f'<section class="sheet card" aria-label="Actions">{purge}</section>'
    return document(frame, "queries", title, live, after=forms)


def _numbers(detail: QueryDetail) -> str:
    row: Row = msgspec.to_builtins(detail.row)
    tiles = "".join(
        f"<div><dt>{escape(column.title)}</dt><dd>{escape(formatted(row[column.field], column.form))}</dd></div>"
        for column in _NUMBERS
    )
    return f'<section aria-label="Since the start"><dl class="numbers">{tiles}</dl></section>'


def _distributions(detail: QueryDetail, page: Page) -> str:
    tables: Sequence[tuple[Table, list[Part]]] = (
        (OUTCOMES, detail.outcomes),
        (MISSES, detail.misses),
        (AGES, detail.ages),
        (RUNTIMES, detail.runtimes),
        (PARAMETERS, detail.parameters),
    )
    return f'<div class="sheets">{"".join(cells.table(t, msgspec.to_builtins(r), page) for t, r in tables)}</div>'
