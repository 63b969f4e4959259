"""JSON as text for a terminal: indented keys with values, lists of objects as tables. Pure."""

from __future__ import annotations

import json
from typing import Any


def lines(value: object, indent: str = "") -> list[str]:
    """Format any JSON as indented keys with values; lists of objects become tables."""
    if isinstance(value, list) and _nests(value):
        return grid([row if isinstance(row, dict) else {"": row} for row in value], indent)
    if not isinstance(value, dict):
        return [indent + cell(value)]
    found = []
    width = max((len(key) for key, child in value.items() if not _nests(child)), default=0)
    for key, child in value.items():
        name = f"{indent}{printable(key)}"
        found.append(name if _nests(child) else f"{name:<{len(indent) + width}}  {cell(child)}")
        found += lines(child, indent + "  ") if _nests(child) else []
    return found


def grid(rows: list[dict[str, Any]], indent: str = "") -> list[str]:
    """Format rows as a table with the names of their keys above."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[printable(name) for name in names], *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [indent + "  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def _nests(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_nests, value)))


def cell(value: object) -> str:
    """Format one value."""
    if isinstance(value, list) and not _nests(value):
        return ", ".join(map(cell, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else printable(value if isinstance(value, str) else json.dumps(value))


def printable(text: str) -> str:
    """Replace control characters: names come from Redash's users and must not control the operator's terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
