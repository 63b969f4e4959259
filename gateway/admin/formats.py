"""Formats numbers for people. `assets/page.js` repeats the rules; a test holds that the two agree. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

NONE: Final = "–"


def whole(value: float) -> int:
    """Round half up, as JavaScript does."""
    return math.floor(value + 0.5)


def count(value: float) -> str:
    """12304 → "12,304"."""
    return f"{int(value):,}"


def percent(share: float) -> str:
    """0.942 → "94 %"; never rounded to 100 % or 0 %."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{whole(share * 100)} %"


def _two(value: float) -> str:
    """One decimal below ten, none above."""
    return f"{whole(value * 10) / 10:g}" if value < 9.95 else str(whole(value))


def duration(seconds: float) -> str:
    """0.0034 → "3.4 ms", 4.2 → "4.2 s", 192 → "3 min 12 s", 11520 → "3 h 12 min"."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.0001:
        return "<0.1 ms"
    if seconds < 0.9995:
        return f"{_two(seconds * 1000)} ms"
    if seconds < 59.5:
        return f"{_two(seconds)} s"
    full = whole(seconds)
    for big, unit, small, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if full >= big:
            left = full % big // small
            return f"{full // big} {unit} {left} {rest}" if left else f"{full // big} {unit}"
    return f"{full} s"


def ago(seconds: float) -> str:
    """4.2 → "4.2 s ago"; below a second "just now"."""
    return "just now" if seconds < 1 else f"{duration(math.floor(seconds))} ago"


def size(octets: float) -> str:
    """12400000 → "12 MB": powers of ten, as in the configuration."""
    units = ("B", "kB", "MB", "GB", "TB")
    place = 0
    while octets >= 999.5 and place < len(units) - 1:
        octets /= 1000
        place += 1
    return f"{_two(octets)} {units[place]}"


def query(query_id: float) -> str:
    """42 → "42"; 0, for SQL that belongs to no saved query → "ad hoc"."""
    return f"{int(query_id)}" if query_id else "ad hoc"


FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {
    "text": str,
    "state": str,
    "count": count,
    "alarm": count,
    "percent": percent,
    "duration": duration,
    "ago": ago,
    "size": size,
    "query": query,
}


def formatted(value: object, form: str) -> str:
    """Return the text of a value in one of the formats; a dash for None."""
    return NONE if value is None else FORMATS[form](value)
