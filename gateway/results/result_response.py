"""The response with a result in one form: its headers, not yet how it is sent."""

from __future__ import annotations

from typing import Final

from gateway.body import Body
from gateway.model import Response
from gateway.policy.context import RequestContext
from gateway.redash.downloads import CONTENT_TYPES, content_disposition
from gateway.redash.readings import Reading
from gateway.results.cache import AnyResult, StoredResult
from gateway.results.forms.texts import PAGE_POLICY

_FOR_A_YEAR: Final = "private, max-age=31557600"
"""Redash's own Cache-Control for results by id (CONTRACT 4)."""

_COMPRESSED: Final = frozenset({"parquet", "arrow"})
"""Forms that are not sent as gzip: what reads them reads ranges of their bytes."""


def result_response(context: RequestContext, result: AnyResult, reading: Reading, name: str | None) -> Response:
    """Respond with a result; its file is named after `name`, or the result's id."""
    entry = result.entry
    kind = "csv" if entry.form == "csv" else reading.form  # Redash 8 gives CSV for TSV
    content = result.content if isinstance(result, StoredResult) else result.body
    is_whole, by_id = isinstance(content, Body), context.match.route.kind == "result"
    place = f"results/{entry.result_id}.{reading.form}{reading.selection.query_string()}"
    return Response(
        body=content,
        entry=entry if is_whole and kind not in _COMPRESSED else None,
        content_type=CONTENT_TYPES[kind],
        disposition=content_disposition(name or str(entry.result_id), entry.retrieved_at, kind),
        cache_control=_FOR_A_YEAR if by_id else "private, no-cache",
        etag=entry.body_id.hex()[:16],  # each rendering has its own id: its bytes may differ (CONTRACT 8)
        content_location="" if by_id or not entry.result_id else place,
        ranges="none" if not by_id else "bytes" if is_whole else "",
        content_policy=PAGE_POLICY if kind == "html" else "",
    )
