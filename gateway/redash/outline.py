"""Reads JSON of any length in bounded memory: its outline is all of it but the contents of its inner values.

Redash up to version 8 writes the members of a result in any order. All of them are in the outline, only the rows not.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final

import msgspec

OUTER_LEVELS: Final = 2
"""How deep values are kept: the response is one level, the result in it another."""

_ROWS_LEVEL: Final = 4
"""The level of the array of rows: response, result, data, rows."""

_DEEPEST: Final = 1_000
_LONGEST_SCALAR: Final = 4_096
_MOST_STEPS: Final = 100
"""Of a beginning: a string takes two, other tokens one. A result has seven members."""

_FREE_STEPS: Final = 100_000
_BYTES_PER_STEP: Final = 64
"""Of a whole document: it may take so many steps, and one more for so many bytes. Usual rows are skipped without any,
but for those at the ends of pieces.
"""


def _nested(levels: int) -> bytes:
    """Return a pattern for an object or array with at most so many levels, by its brackets and strings alone."""
    inner = b'"(?:[^"\\\\]++|\\\\.)*+"' + (b"|" + _nested(levels - 1) if levels > 1 else b"")
    return rb'[{\[][^"{}\[\]]*+(?:(?:' + inner + rb')[^"{}\[\]]*+)*+[}\]]'


_TOKEN: Final = re.compile(rb'[ \t\n\r]*+([{}\[\]:,"]|[-+.\w]++)?')
_IN_STRING: Final = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*+')
_BEGUN_ESCAPE: Final = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?")
_SCALAR: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?|true|false|null|NaN|-?Infinity")
_ROW: Final = re.compile(rb'[ \t\n\r]*+\{[ \t\n\r]*+"[^"\\]*+"')
_ROWS: Final = re.compile(rb"(?:[ \t\n\r]*+" + _nested(4) + rb"[ \t\n\r]*+,)*+", re.DOTALL)


class TooManyStepsError(ValueError):
    """The document may be JSON, but has too much that is no usual row."""


class _Next(IntEnum):
    """What may come next."""

    VALUE = 0
    VALUE_OR_END = 1  # after [
    KEY_OR_END = 2  # after {
    KEY = 3
    COLON = 4
    COMMA_OR_END = 5
    NOTHING = 6


class _Skipped(msgspec.Struct):
    """Accepts any object: its members are checked, and nothing is made of them."""


_skipping: Final = msgspec.json.Decoder(_Skipped)


class Outline:
    """Takes a document piece by piece, and looks at each byte a bounded number of times.

    Every method raises ValueError where the document is not JSON as Python's `json` reads it, or its outline too long;
    `TooManyStepsError` where it has too much that is no usual row; RecursionError where it is nested too deeply.
    """

    def __init__(self, most: int) -> None:
        """`most` limits the outline, in bytes."""
        self._most = most
        self._kept = bytearray()
        self._open = bytearray()  # the brackets that are open
        self._next = _Next.VALUE
        self._in_string = False
        self._steps_left = _FREE_STEPS
        self._rest = b""  # what may be the beginning of a longer token
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogatepass")

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._utf8.decode(piece)
        self._steps_left += len(piece) // _BYTES_PER_STEP
        data, self._rest = self._rest + piece, b""
        at, may_skip = 0, True
        while at < len(data):
            if may_skip and self._is_at_row:
                end = _end_of_rows(data, at)
                if end > at:
                    at, self._next = end, _Next.VALUE
                else:
                    may_skip = False  # a second search in the same bytes could make the work quadratic
            else:
                at = self._step(data, at)

    def feed_beginning(self, beginning: bytes) -> None:
        """Take the first bytes of a document, up to the beginning of an inner value; give up when it does not come."""
        at = 0
        for _ in range(_MOST_STEPS):
            if at == len(beginning) or len(self._open) > OUTER_LEVELS:
                break
            at = self._step(beginning, at)
        self._utf8.decode(beginning[:at])

    def end(self) -> bytes:
        """Take note that the document is complete, and return its outline."""
        self.feed(b" ")  # ends a number
        self._utf8.decode(b"", final=True)
        if self._next is not _Next.NOTHING:
            raise ValueError("incomplete")
        return bytes(self._kept)

    def up_to_inner(self) -> bytes:
        """Return the outline up to the inner value that has begun, with its brackets closed."""
        if len(self._open) <= OUTER_LEVELS:
            raise ValueError("no inner value")
        return bytes(self._kept) + bytes(_PARTNER[bracket] for bracket in reversed(self._open[: OUTER_LEVELS + 1]))

    @property
    def _is_at_row(self) -> bool:
        """Whether an element of the array of rows may begin."""
        is_array = len(self._open) == _ROWS_LEVEL and self._open.endswith(b"[")
        return is_array and self._next <= _Next.VALUE_OR_END and not self._in_string

    def _step(self, data: bytes, at: int) -> int:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise TooManyStepsError("too many values outside of rows")
        return self._string(data, at) if self._in_string else self._token(data, at)

    def _token(self, data: bytes, at: int) -> int:
        """Take white space and a token, or the first byte of a string; return where it ends."""
        found = _TOKEN.match(data, at)
        token, end = (found[1], found.end()) if found else (None, at)
        if token is None:
            if end < len(data):
                raise ValueError("not JSON")
        elif token == b'"':
            if self._next in (_Next.COLON, _Next.COMMA_OR_END, _Next.NOTHING):
                raise ValueError("not JSON")
            self._in_string = True
            self._add(token)
        elif token in b"{}[]:,":
            self._punctuation(token)
        elif end == len(data):
            self._leave(token)
        else:
            self._scalar(token)
        return end

    def _leave(self, begun: bytes) -> None:
        """Leave the beginning of a token until the next piece comes."""
        if len(begun) > _LONGEST_SCALAR:
            raise ValueError("too long a number")
        self._rest = begun

    def _string(self, data: bytes, at: int) -> int:
        """Take the rest of a string, as far as it has come; return where that ends."""
        found = _IN_STRING.match(data, at)
        end = found.end() if found else at
        self._add(data[at:end])
        if end == len(data):
            return end
        if data[end] == ord('"'):
            self._add(b'"')
            self._in_string = False
            if self._next in (_Next.KEY, _Next.KEY_OR_END):
                self._next = _Next.COLON
            else:
                self._value_ended()
            return end + 1
        if not _BEGUN_ESCAPE.fullmatch(data, end):
            raise ValueError("not JSON")
        self._leave(data[end:])
        return len(data)

    def _scalar(self, token: bytes) -> None:
        if self._next > _Next.VALUE_OR_END or not _SCALAR.fullmatch(token):
            raise ValueError("not JSON")
        self._add(token)
        self._value_ended()

    def _punctuation(self, token: bytes) -> None:
        allowed, following = _GRAMMAR[token]
        if self._next not in allowed:
            raise ValueError("not JSON")
        if token in b"{[":
            self._add(token)
            self._open += token
            if len(self._open) > _DEEPEST:
                raise RecursionError("nested too deeply")
            self._next = following
        elif token in b"}]":
            if not self._open or _PARTNER[self._open.pop()] != ord(token):
                raise ValueError("not JSON")
            self._add(token)
            self._value_ended()
        else:
            self._add(token)
            self._next = _Next.KEY if token == b"," and self._open.endswith(b"{") else following

    def _value_ended(self) -> None:
        self._next = _Next.COMMA_OR_END if self._open else _Next.NOTHING

    def _add(self, token: bytes) -> None:
        if len(self._open) <= OUTER_LEVELS:
            self._kept += token
            if len(self._kept) > self._most:
                raise ValueError("too long an outline")


_PARTNER: Final = {ord("{"): ord("}"), ord("["): ord("]")}

_GRAMMAR: Final = {
    b"{": ((_Next.VALUE, _Next.VALUE_OR_END), _Next.KEY_OR_END),
    b"[": ((_Next.VALUE, _Next.VALUE_OR_END), _Next.VALUE_OR_END),
    b"}": ((_Next.COMMA_OR_END, _Next.KEY_OR_END), _Next.NOTHING),
    b"]": ((_Next.COMMA_OR_END, _Next.VALUE_OR_END), _Next.NOTHING),
    b":": ((_Next.COLON,), _Next.VALUE),
    b",": ((_Next.COMMA_OR_END,), _Next.VALUE),
}
"""Punctuation by where it may stand, and what may follow."""


def _end_of_rows(data: bytes, at: int) -> int:
    """Return the end of complete rows, with the comma behind each; `at` if there is none. `at` is where a row begins.

    Rows begin with the same key, so the last one is found at once. If that was only a value within a row, the bytes
    before it are not complete; then brackets are counted.
    """
    first = _ROW.match(data, at)
    last = data.rfind(first[0], at + 1) if first else -1
    if last > at and _are_rows(data[at:last], _skipping.decode):
        return last
    rows = _ROWS.match(data, at)
    if rows and rows.end() > at and (_are_rows(rows[0], _skipping.decode) or _are_rows(rows[0], json.loads)):
        return rows.end()
    return at


def _are_rows(data: bytes, parse: Callable[[bytes], object]) -> bool:
    """Whether a parser takes them for values with a comma behind each. That of msgspec is fast, but refuses NaN."""
    data = data.rstrip(b" \t\n\r")
    if not data.endswith(b","):
        return False
    try:
        parse(b'{"":[' + data[:-1] + b"]}")
    except (ValueError, RecursionError):
        return False
    return True


def outline(pieces: Iterable[bytes], most: int) -> bytes:
    """Return the outline of a document.

    Raises:
        ValueError: it is not JSON, or its outline is longer than `most` bytes.
        RecursionError: it is nested too deeply.
    """
    taken = Outline(most)
    for piece in pieces:
        taken.feed(piece)
    return taken.end()


def before_inner(beginning: bytes) -> object:
    """Parse what stands before the first inner value of a document, as if the document ended with it.

    Raises:
        ValueError: it is not the beginning of JSON, or there is no inner value in it.
    """
    taken = Outline(len(beginning))
    taken.feed_beginning(beginning)
    return json.loads(taken.up_to_inner())
