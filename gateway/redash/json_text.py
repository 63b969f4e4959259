"""JSON of callers: parsed with a limit of depth, encoded so that equal values have equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from gateway.errors import BadRequest

DEEPEST: Final = 100
"""Objects and arrays within each other."""


def load_json(text: bytes | str) -> object:
    """Parse as Redash does: any Unicode encoding, the last of repeated keys.

    Raises:
        ValueError: it is not JSON, or nested more deeply than `DEEPEST`.
    """
    return _load(text, json.loads)


def load_strict_json(text: bytes | str) -> object:
    """Parse what only the gateway reads, not Redash: no key may be repeated, because one of them would do nothing.

    Raises:
        ValueError: as `load_json`, or a key is repeated.
    """
    return _load(text, _loads_once)


def _loads_once(text: bytes | str) -> object:
    return json.loads(text, object_pairs_hook=_without_repetition)


def _without_repetition(members: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a key is repeated")
    return found


def _load(text: bytes | str, loads: Callable[[bytes | str], object]) -> object:
    try:
        value = loads(text)
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


_AS_IS: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_SORTED: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, sort_keys=True)


def canonical(value: object, *, sort: bool = True) -> bytes:
    """Encode JSON so that equal values have equal bytes: keys are sorted, 1, "1", 1.0 and true stay different.

    Raises:
        BadRequest: a number that JSON cannot express (NaN, Infinity).
    """
    try:
        return (_SORTED if sort else _AS_IS).encode(value).encode()
    except (ValueError, RecursionError):
        raise BadRequest("NaN, Infinity and deeply nested values cannot be passed on.") from None
