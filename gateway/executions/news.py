"""Which executions hear of what happens to a run on another gateway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.concurrency.events import wait_for
from gateway.executions.execution import Execution
from gateway.store import Leases

_OF_INTEREST: Final = ("posted", "ended", "freed")


class News:
    """Each execution hears of one run: that which it follows, or waits for."""

    def __init__(self, leases: Leases) -> None:
        self._hearers: dict[str, set[Execution]] = {}  # by the id of the run
        leases.on_news.append(self._spread)

    def _spread(self, what: str, execution_id: str, _job_id: str) -> None:
        if what == "unknown":
            for hearers in self._hearers.values():
                _wake(hearers)
        elif what in _OF_INTEREST:
            _wake(self._hearers.get(execution_id, ()))

    def subscribe(self, execution: Execution, run: str) -> bool:
        """Let it hear of that run from now on, and of no other ("": of none); return whether it was before.

        If it was not, something may have happened since the run was last looked at: look again before you wait.
        """
        before, execution.standing.hears_of = execution.standing.hears_of, run
        if before == run:
            return True
        hearers = self._hearers.get(before, set())
        hearers.discard(execution)
        if not hearers:
            self._hearers.pop(before, None)
        if run:
            self._hearers.setdefault(run, set()).add(execution)
        return False

    async def arrives(self, execution: Execution, seconds: float) -> bool:
        """Return whether there is news, or comes within so many seconds."""
        standing = execution.standing
        if not standing.has_news:
            await wait_for(standing.changed, max(0.0, seconds))
        has_news, standing.has_news = standing.has_news, False
        return has_news


def _wake(executions: Iterable[Execution]) -> None:
    for execution in executions:
        execution.standing.news()
