"""The page of one run in progress, with the form that ends it. Pure."""

from __future__ import annotations

from html import escape

import msgspec

from gateway.admin.cells import Page, Row, query_link
from gateway.admin.formats import formatted
from gateway.admin.report import Running
from gateway.admin.shell import Frame, document, form

_FIELDS = (
    ("State", "state", "text"),
    ("Started by", "client", "text"),
    ("Elapsed", "seconds", "duration"),
    ("Callers", "callers", "count"),
    ("Waiting", "waiting", "count"),
)


def render(frame: Frame, run: Running | None, page: Page) -> str:
    """Return the page; `run` is None for one that has ended, or never was."""
    if run is None:
        return document(frame, "runs", "Run", '<p class="empty">This run has ended.</p>')
    row: Row = msgspec.to_builtins(run)
    facts = "".join(
        f"<div><dt>{title}</dt><dd>{escape(formatted(row[name], kind))}</dd></div>" for title, name, kind in _FIELDS
    )
    live = f'<p>{query_link(row, run.query, page)} · <code>{escape(run.id)}</code></p><dl class="numbers">{facts}</dl>'
    return document(frame, "runs", "Run", live, after=_end(frame, run))


def _end(frame: Frame, run: Running) -> str:
    if not frame.csrf:
        return ""
    fields = f'<input type="hidden" name="run" value="{escape(run.id)}"><button class="alarm">End this run</button>'
    about = "It is cancelled in Redash, and all its callers get a failed job."
    return f"""<section class="sheet card" aria-labelledby="actions"><h2 id="actions">Actions</h2>
<p class="about">{about}</p>{form(frame, "actions/end-run", fields)}</section>"""
