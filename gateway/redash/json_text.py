"""Parsing JSON of callers: what is nested more deeply than any real value is refused, before anything walks it."""

from __future__ import annotations

import json
from typing import Final

DEEPEST: Final = 100
"""Objects and arrays within each other."""


def load_json(text: bytes | str) -> object:
    """Parse as Redash does: any Unicode encoding, the last of repeated keys.

    Raises:
        ValueError: it is not JSON, or nested more deeply than `DEEPEST`.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if brackets > DEEPEST and _is_deep(value):
        raise ValueError("nested too deeply")
    return value


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _members(outer)]
        if not level:
            return False
    return any(isinstance(inner, dict | list) for inner in level)


def _members(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
