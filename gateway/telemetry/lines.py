"""Lines on their way to a reader who may be slow. No formatting, no loggers: see `log.py`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

MOST_LINES: Final = 20_000
FLUSH_SECONDS: Final = 2.0
"""How long an end of the process waits for a reader that is too slow."""

_GATHER_SECONDS: Final = 0.2
_TOGETHER: Final = 32 * 1024
"""So many characters are written together at least, if they are there; copying more costs more than another write."""

_AGAIN_SECONDS: Final = 0.01


class Writer:
    """Writes lines from a thread of its own, many at a time; when too many wait, the newest are dropped and counted."""

    def __init__(self, stream: TextIO, lost: Callable[[int], str]) -> None:
        """`lost` makes the line that says how many lines were dropped."""
        self.dropped = 0
        self._stream = stream
        self._lost = lost
        self._told = 0
        self._texts: deque[tuple[str, int]] = deque()  # and how many lines each has
        self._put = 0  # lines, by whoever puts them
        self._taken = 0  # lines, by the thread
        self._awake = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, text: str, lines: int = 1) -> None:
        """Leave a line, or several in one text, to be written; each ends with a line feed. Returns at once."""
        if self._put - self._taken >= MOST_LINES:
            self.dropped += lines
            return
        self._put += lines
        self._texts.append((text, lines))
        if not self._awake:
            self._awake = True
            self._idle.clear()
            self._wake.set()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until everything is written, so long at most."""
        self._hurry.set()
        self._idle.wait(seconds)
        self._hurry.clear()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._hurry.wait(_GATHER_SECONDS)  # a wake-up for each line would cost more than the line
            self._awake = False  # before the last look: a line that comes now wakes again
            self._drain()
            if not self._awake:
                self._idle.set()

    def _drain(self) -> None:
        while self._texts:
            texts, size, lines = [], 0, 0
            while self._texts and size < _TOGETHER:
                text, number = self._texts.popleft()
                texts.append(text)
                size += len(text)
                lines += number
            if self.dropped > self._told:
                texts.append(self._lost(self.dropped - self._told))
                self._told = self.dropped
            try:
                self._write("".join(texts))
            except (OSError, ValueError):  # closed: nobody will ever read it
                self.dropped += lines
                self._told = self.dropped
            self._taken += lines

    def _write(self, text: str) -> None:
        while True:
            try:
                self._stream.write(text)
                self._stream.flush()
            except BlockingIOError:
                time.sleep(_AGAIN_SECONDS)
            else:
                return
