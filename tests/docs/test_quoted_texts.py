"""Errors and log lines that the runbook quotes are those of the code, so that a search finds the right place."""

from __future__ import annotations

import re
from typing import Final

import pytest
from support.documents import ROOT

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


@pytest.mark.parametrize("page", ["operation", "troubleshooting"])
def test_quoted_texts_are_those_of_the_gateway(page: str) -> None:
    code, found = source(), quoted(page)
    assert found
    pieces = [piece.strip() for text in found if text not in OF_THE_SYSTEM for piece in PLACEHOLDER.split(text)]
    assert [piece for piece in pieces if piece and piece not in code] == []
