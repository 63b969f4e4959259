"""CSV and TSV in one piece, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.redash.renderings import DELIMITERS, DateFormats, render_pieces


def rendered(data: Mapping[str, Any], form: str = "csv", formats: DateFormats | None = None) -> bytes:
    """Render `{"columns": […], "rows": […]}`."""
    return b"".join(render_pieces(data["columns"], data["rows"], DELIMITERS[form], formats or DateFormats()))
