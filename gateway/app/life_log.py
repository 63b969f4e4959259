"""What the log says of the life of a process: how it stops, and which runs of an earlier process it follows."""

from __future__ import annotations

import logging
import time

from gateway.executions.revival import Resumed

events = logging.getLogger("gateway.events")


def log_resumed(resumed: Resumed) -> None:
    """Log what became of the runs that an earlier process left, each by its id: "execution ended" has the same."""
    if resumed.followed:
        events.info("following %d executions that an earlier process began", len(resumed.followed))
    for execution_id, query_id in resumed.followed:
        events.info("execution resumed", extra={"fields": {"execution": execution_id, "query": query_id}})
    for execution_id, why in resumed.given_up:
        events.warning("execution not resumed: %s", why, extra={"fields": {"execution": execution_id}})


class StopLog:
    """The lines of one stop. A gateway that never served stops without a word: the error that ended it is logged."""

    def __init__(self, *, served: bool) -> None:
        self._served = served
        self._began = time.monotonic()

    def begins(self, seconds: float, *, connections: int, requests: int, runs: int) -> None:
        """Log what is open when the stop begins; it has so many seconds."""
        text = f"stopping: open requests have {seconds:g} s to end"
        self._log(logging.INFO, text, connections=connections, requests=requests, runs=runs)

    def drained(self, cut_off: int) -> None:
        """Log that every response is complete, or how many requests did not come so far."""
        if cut_off:
            text = "requests in progress are cut off: they did not end within server.drain_timeout"
            self._log(logging.WARNING, text, requests=cut_off)
        else:
            self._log(logging.INFO, "every response is complete")

    def ended(self, cut_off: int, runs: int) -> None:
        """Log the end: how many responses were not sent whole, and how many runs the next process will follow."""
        self._log(logging.INFO, "stopped", responses_cut_off=cut_off, runs_left=runs)

    def _log(self, level: int, text: str, **fields: int) -> None:
        if self._served:
            seconds = round(time.monotonic() - self._began, 3)
            events.log(level, "%s", text, extra={"fields": {**fields, "seconds": seconds}})
