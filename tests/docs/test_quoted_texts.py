"""Errors and log lines that the runbook quotes are those of the code, so that a search finds the right place."""

from __future__ import annotations

import json
import re
from typing import Final

import pytest
from support.documents import ROOT

from gateway.outcome import Outcome, Trace
from gateway.telemetry.log import AccessLines

OF_THE_SYSTEM: Final = {"address already in use"}
PLACEHOLDER: Final = re.compile(r"\b42\b|'reporting'|\bN\b|…")


def quoted(page: str) -> list[str]:
    """What a page has between quotes and is long enough for a text of the gateway."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"`[^`]*`", "", re.sub(r"(?ms)^ *```.*?^ *```", "", text))
    return [" ".join(found.split()) for found in re.findall(r'"([^"]*)"', text) if len(found) >= 15]


def source() -> str:
    """The source of the gateway, with texts that go on in the next line joined."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_operation_names_every_field_of_the_line_of_a_request_and_no_other() -> None:
    outcome = Outcome(request_id="r", method="GET", route="/api/x", client="a", query_id=42, miss="stale", age=1.0)
    outcome.status, outcome.reason, outcome.refused = 400, "bad_request", "host x"
    outcome.execution_id, outcome.upstream_seconds, outcome.trace = "x", 0.5, Trace("a" * 32, "b" * 16)
    (line,) = AccessLines("json").of([outcome], 0.0)
    rows = (ROOT / "docs" / "operation.md").read_text().partition("| field | meaning |")[2].partition("\n\n")[0]
    named = {name for cells in re.findall(r"(?m)^\| (`[^|]+) \|", rows) for name in re.findall(r"`(\w+)`", cells)}
    assert named == json.loads(line).keys() - {"time", "level", "logger", "message"}


@pytest.mark.parametrize("page", ["operation", "troubleshooting"])
def test_quoted_texts_are_those_of_the_gateway(page: str) -> None:
    code, found = source(), quoted(page)
    assert found
    pieces = [piece.strip() for text in found if text not in OF_THE_SYSTEM for piece in PLACEHOLDER.split(text)]
    assert [piece for piece in pieces if piece and piece not in code] == []
