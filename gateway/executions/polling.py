"""When a job in Redash is polled: around the end that the last run of its query lets expect. Pure: time is an argument.

`following` sends the polls; `expectations` knows how long the last run took.
"""

from __future__ import annotations

from typing import Final

_SHORTEST_SECONDS: Final = 0.02

_SOON_SECONDS: Final = 0.2
"""For so long after the expected end, each pause is as long as all before it together: 20, 20, 40, 80, 160 ms."""


class Polls:
    """The polls of one run, which should take `expected` seconds; 0 if that is unknown."""

    def __init__(self, began: float, expected: float) -> None:
        self._began = began  # monotonic
        self._expected = expected
        self.due = began
        """When the next poll is sent, or the current one was."""
        self.queued = False
        """Whether a poll found it in Redash's queue: how long it waits there says nothing about the next run."""
        self.running = 0.0
        """When the last poll found it unfinished, in seconds after the start."""
        self.ended = 0.0
        """When a poll found it ended."""

    def pause(self, now: float) -> float:
        """Return how many seconds to wait before the next poll, which is due then."""
        seconds = pause(now - self._began, self._expected)
        self.due = now + seconds
        return seconds

    def record(self, status: int, now: float) -> None:
        """Take note of the status that a poll has shown (CONTRACT 9)."""
        self.queued = self.queued or status == 1
        if status in (1, 2):
            self.running = now - self._began
        else:
            self.ended = now - self._began


def pause(elapsed: float, expected: float) -> float:
    """Return the seconds between two polls: one poll falls on the expected end, few come before, the next ones soon.

    A run that is late is polled after 20, 40, 80 and 160 ms, then as any run: each time after a fifth of the time
    elapsed, within 100 ms and 2 s. A run of unknown length is late from the start.
    """
    usual = min(2.0, max(0.1, elapsed / 5))
    late = elapsed - expected
    if late >= 0:
        soon = min(usual, max(_SHORTEST_SECONDS, elapsed / 25, late))
        return max(soon, late) if late < _SOON_SECONDS else soon
    early = 1.5 * usual
    return early if early + usual <= -late else -late
