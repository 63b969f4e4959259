"""Which type a column has: decided from all its values, not from what Redash declares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from gateway.results.forms.texts import json_text

Kind = Literal["boolean", "int64", "decimal", "float", "timestamp", "text"]

MOST_DIGITS: Final = 38
"""Of a decimal128."""

_INT64: Final = range(-(2**63), 2**63)
_DECIMAL: Final = range(-(10**MOST_DIGITS) + 1, 10**MOST_DIGITS)
_EXACT_FLOAT: Final = range(-(2**53), 2**53 + 1)

_ZONED: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)", re.ASCII
)
_NONE: Final = type(None)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Evidence:
    """What is known of the values of one column by now."""

    def __init__(self) -> None:
        self._types: set[type] = set()
        self._least = self._most = 0
        self._zoned = True

    def add(self, values: Sequence[Any]) -> None:
        """Take some more values into account."""
        types = set(map(type, values))
        self._types |= types
        if int in types:
            numbers = [value for value in values if type(value) is int] if len(types) > 1 else values
            self._least, self._most = min(self._least, *numbers, 0), max(self._most, *numbers, 0)
        if self._zoned and str in types:
            self._zoned = all(_is_zoned(value) for value in values if type(value) is str)

    def kind(self) -> Kind:
        """Return the type that takes every value as it is, else text. A column of NULLs is text."""
        found = self._types - {_NONE}
        if found == {int}:
            return "int64" if self._within(_INT64) else "decimal" if self._within(_DECIMAL) else "text"
        if found == {float} or (found == {int, float} and self._within(_EXACT_FLOAT)):
            return "float"
        if found == {bool}:
            return "boolean"
        return "timestamp" if found == {str} and self._zoned else "text"

    def _within(self, allowed: range) -> bool:
        return self._least in allowed and self._most in allowed


def kinds_of(batches: Iterable[Sequence[Any]], names: Sequence[str]) -> list[Kind]:
    """Return the type of each column from all rows."""
    evidence = [Evidence() for _ in names]
    for batch in batches:
        for name, column in zip(names, evidence, strict=True):
            column.add([row.get(name) for row in batch])
    return [column.kind() for column in evidence]


def as_text(value: object) -> str | None:
    """Return a value of a column of texts: numbers, booleans and what is nested by their JSON."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json_text(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def microseconds(text: str | None) -> int | None:
    """Return a time with its zone as microseconds since 1970 in UTC.

    Raises:
        ValueError: there is no such time.
    """
    return None if text is None else (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def _is_zoned(text: str) -> bool:
    if not _ZONED.fullmatch(text):
        return False
    try:
        microseconds(text)
    except (ValueError, OverflowError):
        return False
    return True
