"""JSON as the versions of Redash write it: the order of members, escapes, separators."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .versions import Version

_WORD = 2**64 - 1
_ADDED = frozenset({"is_favorite", "can_edit", "public_url", "api_key", "visualization", "query"})
"""Members that Redash adds to a dictionary after its literal."""


def dumps(value: Any, version: Version) -> str:
    """As the REST resources write it: default separators."""
    return json.dumps(reread(value, version), ensure_ascii=version.escapes_unicode)


def jsonify(value: Any, version: Version) -> str:
    """As Flask's own function writes it, with a line feed."""
    if version.jsonify_indents:
        return json.dumps(value, indent=2, sort_keys=True) + "\n"
    return json.dumps(value, separators=(",", ":"), sort_keys=True) + "\n"


def reread(value: Any, version: Version) -> Any:
    """As it comes back from a text in the database: in the order in which it was written."""
    return _arranged(value) if version.hash_ordered else value


def stored(value: Any, version: Version) -> Any:
    """As it comes back from a column of options: jsonb orders keys by length, then by bytes."""
    return _jsonb(value) if version.jsonb else reread(value, version)


def _jsonb(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonb(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key))}
    return [_jsonb(item) for item in value] if isinstance(value, list) else value


def _arranged(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _arranged(value[key]) for key in _order(tuple(value))}
    return [_arranged(item) for item in value] if isinstance(value, list) else value


@lru_cache(maxsize=256)
def _order(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The order in which a dictionary of CPython 2.7 (64 bits) lists these keys, put in one after the other.

    Recorded bodies have this order. The size of the first table depends on the literal.
    """
    literal = sum(key not in _ADDED for key in keys)
    table = _table(literal if literal > 5 else 0)
    for count, key in enumerate(keys, 1):
        _put(table, key)
        if 3 * count >= 2 * len(table):
            table = _grown(table, 4 * count)
    return tuple(key for key in table if key is not None)


def _table(more_than: int) -> list[str | None]:
    size = 8
    while size <= more_than:
        size *= 2
    return [None] * size


def _grown(old: Sequence[str | None], more_than: int) -> list[str | None]:
    table = _table(more_than)
    for key in old:
        if key is not None:
            _put(table, key)
    return table


def _put(table: list[str | None], key: str) -> None:
    """Open addressing, as in dictobject.c."""
    place = perturb = _hash(key)
    while table[place & (len(table) - 1)] is not None:
        place = (5 * place + perturb + 1) & _WORD
        perturb >>= 5
    table[place & (len(table) - 1)] = key


def _hash(key: str) -> int:
    """As in stringobject.c, without randomization."""
    data = key.encode()
    hashed = data[0] << 7 if data else 0
    for byte in data:
        hashed = ((1_000_003 * hashed) & _WORD) ^ byte
    return hashed ^ len(data)
