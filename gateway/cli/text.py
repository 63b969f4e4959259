"""JSON as text for a terminal: indented keys with values, lists of objects as tables, numbers in units. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from gateway.admin import formats

_LATEST = 2**37
"""Unix seconds in the year 6325; Python knows no year after 9999."""


def lines(value: object, indent: str = "") -> list[str]:
    """Format any JSON as indented keys with values; lists of objects become tables."""
    if isinstance(value, list) and _nests(value):
        return grid([row if isinstance(row, dict) else {"": row} for row in value], indent)
    if not isinstance(value, dict):
        return [indent + cell(value)]
    found = []
    width = max((len(_label(key)) for key, child in value.items() if not _nests(child)), default=0)
    for key, child in value.items():
        name = f"{indent}{_label(key)}"
        found.append(name if _nests(child) else f"{name:<{len(indent) + width}}  {cell(child, key)}")
        found += lines(child, indent + "  ") if _nests(child) else []
    return found


def grid(rows: list[dict[str, Any]], indent: str = "") -> list[str]:
    """Format rows as a table with the names of their keys above."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [list(map(_label, names)), *([cell(row.get(name), name) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [indent + "  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def _label(key: str) -> str:
    """Return the name of a member without its unit, which the value shows."""
    return printable(key.removesuffix("_seconds").replace("_", " "))


def _nests(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_nests, value)))


def cell(value: object, key: str = "") -> str:
    """Format one value; the name of its member tells the unit."""
    if isinstance(value, list) and not _nests(value):
        return ", ".join(map(cell, value)) or "none"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, key)
    return "-" if value is None else printable(value if isinstance(value, str) else json.dumps(value))


def _number(value: float, key: str) -> str:
    if key == "at" and 0 <= value < _LATEST:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    for ending, form in (("seconds", formats.duration), ("bytes", formats.size), ("rate", formats.percent)):
        if key.endswith(ending):
            return form(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """Replace control characters: names come from Redash's users and must not control the operator's terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
