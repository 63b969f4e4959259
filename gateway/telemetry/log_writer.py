"""A thread that writes log lines, so that a slow reader blocks nobody. No formatting, no loggers: see `log.py`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

MOST_CHARACTERS: Final = 8 * 2**20
"""What may wait for a slow reader: about 20,000 lines."""

FLUSH_SECONDS: Final = 2.0
"""How long the process waits at exit for a slow reader."""

_GATHER_SECONDS: Final = 0.2
_CHUNK_CHARACTERS: Final = 32 * 1024
"""Lines are joined up to this size for one write; joining more costs more than another write."""

_RETRY_SECONDS: Final = 0.01


class LogWriter:
    """Writes lines from its own thread, many at a time; when too many wait, new ones are dropped and counted."""

    def __init__(self, stream: TextIO, lost: Callable[[int], str]) -> None:
        """`lost` makes the line that says how many lines were dropped."""
        self.dropped = 0
        self._stream = stream
        self._lost = lost
        self._reported = 0  # of the dropped
        self._texts: deque[tuple[str, int]] = deque()  # each with its number of lines
        self._put = 0  # characters, by the callers
        self._taken = 0  # characters, by the thread
        self._awake = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, text: str, lines: int = 1) -> None:
        """Queue one line, or several in one text, each with its line feed. Returns at once."""
        if self._put - self._taken + len(text) > MOST_CHARACTERS:
            self.dropped += lines
            return
        self._put += len(text)
        self._texts.append((text, lines))
        if not self._awake:
            self._awake = True
            self._idle.clear()
            self._wake.set()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until everything is written, at most `seconds`."""
        self._hurry.set()
        self._idle.wait(seconds)
        self._hurry.clear()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._hurry.wait(_GATHER_SECONDS)  # a wake-up for each line would cost more than the line
            self._awake = False  # before the queue is drained: a line that comes now wakes the thread again
            self._drain()
            if not self._awake:
                self._idle.set()

    def _drain(self) -> None:
        while self._texts:
            texts, size, lines = [], 0, 0
            while self._texts and size < _CHUNK_CHARACTERS:
                text, number = self._texts.popleft()
                texts.append(text)
                size += len(text)
                lines += number
            if self.dropped > self._reported:
                texts.append(self._lost(self.dropped - self._reported))
                self._reported = self.dropped
            try:
                self._write("".join(texts))
            except (OSError, ValueError):  # closed: nobody will ever read it
                self.dropped += lines
                self._reported = self.dropped
            self._taken += size

    def _write(self, text: str) -> None:
        while True:
            try:
                self._stream.write(text)
                self._stream.flush()
            except BlockingIOError:
                time.sleep(_RETRY_SECONDS)
            else:
                return
