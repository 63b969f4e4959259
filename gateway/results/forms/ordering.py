"""Rows in another order: an index of their keys and places in the stored JSON, in bounded memory."""

from __future__ import annotations

import heapq
import json
import math
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.errors import NotAcceptable

MOST_BYTES: Final = 46 * 10**6
"""Of all keys and places together: enough for a million rows by a number and a short text. The process that holds them
takes about 15 MB more."""

_RUN_ROWS: Final = 1 << 16
"""So many keys at once are objects; all others are bytes in one array."""

_PLACE_BYTES: Final = 8 + 3 * 4
"""Of a row: its beginning, its length, the end of its key, and its number in the order."""
_LONGEST_ROW: Final = 2**32 - 1
_TOO_LARGE: Final = "This result is too large to be put into another order here; order it in the query."
_INVERTED: Final = bytes(range(255, -1, -1))
_NULL, _VALUE = b"\xff", b"\x00"
_MOST_DIGITS: Final = 2**53


class RowIndex:
    """The places of rows, to be read in the order of some columns. Rows with equal keys stay as they were.

    NULL comes last. Values of different types: false and true, numbers, texts, then everything else by its JSON.
    """

    def __init__(self, order: Sequence[tuple[str, bool]]) -> None:
        """`order` has names of columns, and whether each is descending."""
        self._order = order
        self._keys = bytearray()
        self._key_ends = array("I", [0])
        self._starts = array("Q")
        self._lengths = array("I")

    def add(self, row: Mapping[str, Any], start: int, end: int) -> None:
        """Add a row by its place.

        Raises:
            NotAcceptable: there are too many, or their keys are too long.
        """
        for name, descending in self._order:
            self._keys += _key(row.get(name), descending=descending)
        places = _PLACE_BYTES * (len(self._starts) + 1)
        if len(self._keys) + places > MOST_BYTES or end - start > _LONGEST_ROW:
            raise NotAcceptable(_TOO_LARGE)
        self._key_ends.append(len(self._keys))
        self._starts.append(start)
        self._lengths.append(end - start)

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Yield beginning and end of each row, when they are sorted."""
        for start, length in zip(self._starts, self._lengths, strict=True):
            yield start, start + length

    def sort(self) -> None:
        """Put the places in order, and drop the keys: what reads the rows needs the memory. No row comes after that."""
        order = array("I", self._merged())
        self._keys, self._key_ends = bytearray(), array("I")
        self._starts = array("Q", map(self._starts.__getitem__, order))
        self._lengths = array("I", map(self._lengths.__getitem__, order))

    def _merged(self) -> Iterator[int]:
        count = len(self._starts)
        runs = [self._run(start, min(start + _RUN_ROWS, count)) for start in range(0, count, _RUN_ROWS)]
        return heapq.merge(*runs, key=self._key_of) if len(runs) > 1 else (n for run in runs for n in run)

    def _run(self, start: int, end: int) -> array[int]:
        return array("I", sorted(range(start, end), key=self._key_of))

    def _key_of(self, number: int) -> bytes:
        return bytes(self._keys[self._key_ends[number] : self._key_ends[number + 1]])


def _key(value: object, *, descending: bool) -> bytes:
    """Return bytes that compare as values do. No key is the beginning of another, so keys can follow each other."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _NULL
    key = _value_key(value)
    return _VALUE + (key.translate(_INVERTED) if descending else key)


def _value_key(value: object) -> bytes:
    maker = _MAKERS.get(type(value))
    if maker is not None:
        return maker(value)
    return b"\x04" + _text_key(json.dumps(value, sort_keys=True))


def _text_key(text: str) -> bytes:
    return text.encode("utf-8", "replace").replace(b"\0", b"\0\xff") + b"\0\0"


def _float_key(value: float) -> bytes:
    """Return the 8 bytes of a double so that they compare as numbers do (negative ones inverted)."""
    bits = int.from_bytes(struct.pack(">d", value + 0.0), "big")  # -0.0 + 0.0 is 0.0
    return (bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63).to_bytes(8, "big")


def _int_key(value: int) -> bytes:
    """Return the nearest double, and for large integers how far the value is from it."""
    if -_MOST_DIGITS <= value <= _MOST_DIGITS:
        return _float_key(value) + b"\x80"
    try:
        nearest = float(value)
    except OverflowError:  # it is still less than infinity
        nearest = sys.float_info.max if value > 0 else -sys.float_info.max
    rest = value - int(nearest)
    size = (rest.bit_length() + 7) // 8
    digits = size.to_bytes(4, "big") + abs(rest).to_bytes(size, "big")
    sign = b"\x80" if rest == 0 else b"\x81" + digits if rest > 0 else b"\x7f" + digits.translate(_INVERTED)
    return _float_key(nearest) + sign


_MAKERS: Final[dict[type, Callable[[Any], bytes]]] = {
    bool: lambda value: b"\x01\x01" if value else b"\x01\x00",
    int: lambda value: b"\x02" + _int_key(value),
    float: lambda value: b"\x02" + _float_key(value) + b"\x80",
    str: lambda value: b"\x03" + _text_key(value),
}
