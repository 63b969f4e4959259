"""What a terminal can do: colours, and signs of life while something takes long."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, TextIO

PATIENCE_SECONDS: Final = 2.0
"""What takes longer says what it does."""

Colour = Literal["red", "green", "yellow", "bold", "dim"]
_CODES: Final = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody reads it on a screen."""
    return stream.isatty()


def has_colours(stream: TextIO) -> bool:
    """Whether it is a terminal that shows colours, and nobody has turned them off (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: Colour, stream: TextIO) -> str:
    """Colour a text, if the stream shows colours."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if has_colours(stream) else text


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give a function that notes what is being done; from `PATIENCE_SECONDS` on, standard error shows it."""
    shown = _Progress()
    timer = threading.Timer(PATIENCE_SECONDS, shown.begin)
    timer.daemon = True
    timer.start()
    try:
        yield shown.say
    finally:
        timer.cancel()


class _Progress:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ""
        self._begun = False

    def say(self, text: str) -> None:
        with self._lock:
            self._text = text
            self._show()

    def begin(self) -> None:
        with self._lock:
            self._begun = True
            self._show()

    def _show(self) -> None:
        if self._begun and self._text:
            print(paint(f"{self._text} …", "dim", sys.stderr), file=sys.stderr, flush=True)
