"""How much memory values take that were made from a caller's text: JSON of one megabyte can become fifty."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec


def footprint(value: object) -> int:
    """Return the bytes that a value and everything in it takes, each part counted as often as it occurs."""
    total = 0
    rest = [value]
    while rest:
        item = rest.pop()
        total += sys.getsizeof(item)
        if isinstance(item, Mapping):
            rest += item.keys()
            rest += item.values()
        elif isinstance(item, list | tuple):
            rest += item
        elif isinstance(item, msgspec.Struct):
            rest += (getattr(item, name) for name in item.__struct_fields__)
    return total


def weight(text: bytes) -> int:
    """Return about as many bytes as JSON takes once it is parsed, without parsing it; rather too many than too few."""
    return 3 * len(text) + sum(text.count(sign) * size for sign, size in _SIZES)


_SIZES = ((b",", 60), (b"[", 72), (b"{", 72), (b":", 120))
