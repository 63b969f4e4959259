"""How long Redash works on one run, for budgets: its own `runtime`, else the time in which polls show status 2."""

from __future__ import annotations


class Work:
    """Of one execution; all its jobs count. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Of the jobs that have ended."""
        self.is_measured = False
        """Whether Redash itself has said how long the last one took."""
        self._is_open = False
        self._queued = self._started = self._ended = 0.0

    def begin(self, now: float) -> None:
        """Redash has made a job, perhaps in place of one that it has lost."""
        self.end(now)
        self._is_open, self._queued, self._started, self._ended = True, now, 0.0, 0.0

    def note(self, status: int, now: float) -> None:
        """Take note of what a poll has shown (CONTRACT 9); what is neither queued nor started has ended."""
        if status == 1:
            self._queued = now
        elif status == 2:
            self._started, self._ended = self._started or now, 0.0
        else:
            self._ended = self._ended or now

    def end(self, now: float, runtime: float | None = None) -> None:
        """Count the job, once; without a runtime from when it was seen to work, or last seen not to."""
        if self._is_open:
            self._is_open, self.is_measured = False, runtime is not None
            self.seconds += (self._ended or now) - (self._started or self._queued) if runtime is None else runtime
