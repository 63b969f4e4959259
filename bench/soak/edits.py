"""Edits of a query through the gateway: which version every later request must see at least."""

from __future__ import annotations

import time
from dataclasses import dataclass

LATE_SECONDS = 3.0
"""What a process that is killed knew for a shorter time may not have been written yet: writes follow responses."""


@dataclass
class _Edit:
    version: int
    done: float
    holds_from: float


class Edits:
    """Moments are those of the system's clock."""

    def __init__(self, check_seconds: float) -> None:
        self.version = 0
        self._check_seconds = check_seconds
        self._edits: list[_Edit] = []

    def next(self) -> int:
        """Return the version that an edit is about to make. If it fails, Redash may have it nevertheless."""
        self.version += 1
        return self.version

    def done(self, version: int) -> None:
        """The gateway has confirmed the edit: from now on nobody may see an older version."""
        now = time.time()
        self._edits = [*self._edits[-100:], _Edit(version, now, now)]

    def killed(self, *, weather: bool) -> None:
        """The next process may learn of a very late edit only by a check of the definition, when Redash responds."""
        now = time.time()
        for edit in self._edits:
            if now - edit.done < LATE_SECONDS:
                edit.holds_from = float("inf") if weather else now + self._check_seconds + 1

    def calm(self) -> None:
        """Redash responds again: late edits are known soon."""
        for edit in self._edits:
            edit.holds_from = min(edit.holds_from, time.time() + self._check_seconds + 1)

    def least(self, sent: float) -> int:
        """Return the oldest version that a request which was sent then may see."""
        return max((edit.version for edit in self._edits if edit.holds_from <= sent), default=0)
