"""Reads JSON value by value from bytes that need not be in memory at once. Linear, also for one huge value."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from gateway.errors import UpstreamUnusable

Read = Callable[[int, int], bytes]
"""Returns at most so many bytes (second argument) from that place (first) on; b"" at the end. May wait for the disk."""

PIECE_BYTES: Final = 1 << 18

_BLANKS: Final = re.compile(r"[ \t\r\n]*+")
_IN_NUMBERS: Final = ("", ".", "e", "E")
_BROKEN: Final = "Redash's result is not valid JSON."


class _Scan(Protocol):
    def __call__(self, text: str, place: int, /) -> tuple[object, int]: ...


_decoder: Final[Any] = json.JSONDecoder()


class JsonStream:
    """A place in a JSON text. Values are parsed as Redash's own are, by the standard parser."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._next = 0  # the byte to read next
        self._text, self._place = "", 0
        self._ascii = True
        self._ended = False
        self.position = 0
        """The byte at which it is."""
        self.started = 0
        """The byte at which the last value began."""
        self._scan: _Scan = _decoder.scan_once

    def value(self) -> object:
        """Read the value that comes next.

        Raises:
            UpstreamUnusable: there is none, or it is nested too deeply.
        """
        self._skip_blanks()
        self.started = self.position
        while True:
            try:
                found, end = self._scan(self._text, self._place)
            except (json.JSONDecodeError, StopIteration):  # perhaps only its beginning is here
                self._need_more()
                continue
            except (ValueError, RecursionError):  # an integer of more than 4,300 digits, for example
                raise UpstreamUnusable("Redash's result has a value that cannot be read.") from None
            if self._text[end : end + 1] in _IN_NUMBERS and self._more():  # perhaps a number that goes on
                continue
            self._advance(end)
            return found

    def members(self, levels: int = 2) -> Iterator[str]:
        """Read an object: yield each name when its value comes next. What the caller does not read is skipped, so many
        levels of it without being in memory as a whole.
        """
        self._take("{")
        if self._peek() == "}":
            self._take("}")
            return
        while True:
            name = self.value()
            self._take(":")
            before = self.position
            yield name if isinstance(name, str) else ""
            if self.position == before:
                self._skip(levels)
            if self._take(",}") == "}":
                return

    def elements(self) -> Iterator[object]:
        """Read an array and yield its elements; nothing of another value."""
        if self._peek() != "[":
            self.value()
            return
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        while True:
            yield self.value()
            if self._take(",]") == "]":
                return

    def _skip(self, levels: int) -> None:
        if levels and self._peek() == "{":
            for _ in self.members(levels - 1):
                pass
        else:
            for _ in self.elements():
                pass

    def is_object(self) -> bool:
        """Whether an object comes next."""
        return self._peek() == "{"

    def _peek(self) -> str:
        self._skip_blanks()
        return self._text[self._place : self._place + 1]

    def _take(self, allowed: str) -> str:
        found = self._peek()
        if not found or found not in allowed:
            raise UpstreamUnusable(_BROKEN)
        self._place += 1
        self.position += 1
        return found

    def _skip_blanks(self) -> None:
        while True:
            blanks = _BLANKS.match(self._text, self._place)
            end = blanks.end() if blanks is not None else self._place
            self.position += end - self._place
            self._place = end
            if end < len(self._text) or not self._more():
                return

    def _advance(self, end: int) -> None:
        count = end - self._place
        self.position += count if self._ascii else len(self._text[self._place : end].encode())
        self._place = end

    def _need_more(self) -> None:
        if not self._more():
            raise UpstreamUnusable(_BROKEN)

    def _more(self) -> bool:
        """Read as much again as is not parsed yet: so a value of any length is looked at only twice on average."""
        if self._ended:
            return False
        rest = self._text[self._place :]
        data = self._read(self._next, max(PIECE_BYTES, len(rest)))
        try:
            text, count = codecs.utf_8_decode(data, "strict", not data)
        except UnicodeDecodeError:
            raise UpstreamUnusable(_BROKEN) from None
        if not count:
            self._ended = True
            if data:  # a part of a character, and nothing after it
                raise UpstreamUnusable(_BROKEN)
            return False
        self._next += count
        self._text, self._place = rest + text, 0
        self._ascii = self._text.isascii()
        return True
