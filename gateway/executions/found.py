"""What a look-up finds where the store has nothing that the plan accepts."""

from __future__ import annotations

import math

import msgspec

from gateway.executions.execution import Execution
from gateway.outcome import MissReason, Outcome
from gateway.redash.readings import is_made_here
from gateway.redash.requests import ReadParameterised
from gateway.results.cache import ArrivingResult, StoredResult


class Miss(msgspec.Struct, frozen=True):
    """The store has nothing that the plan accepts."""

    stored: StoredResult | None
    """A stored result that was acceptable before."""
    slack: float
    """Seconds since then, negative; -inf without one."""
    joinable: Execution | None
    """An execution in progress, or a recent failure, that serves this plan, too."""
    why: MissReason
    check: bool
    """Redash would only be asked whether the stored result is still the newest; nothing needs to run."""


class Pending(msgspec.Struct, frozen=True):
    """An execution that has come far enough to respond to its callers."""

    execution: Execution
    fallback: StoredResult | None = None
    """A stored result to use if Redash turns out to be unavailable (`stale_if_error`)."""
    not_before: float = -math.inf
    """The caller needs rows from that moment on (monotonic)."""

    @property
    def current(self) -> Pending:
        """Return this, with the follow-up where the execution has ended too early for this caller."""
        return msgspec.structs.replace(self, execution=self.execution.serving(self.not_before))

    @property
    def arriving(self) -> ArrivingResult | None:
        """Return a large result if this caller may have it while it arrives: its end says from when its rows are."""
        return self.execution.arriving if self.execution.serves(self.not_before) else None


def use_stale(stored: StoredResult, slack: float, outcome: Outcome, detail: str, now: float) -> StoredResult:
    """Return a stored result that is not fresh, and record which window allows it."""
    outcome.record_stale(slack, stored.entry.age(now), stored.entry.runtime, detail)
    outcome.saves_run = True
    return stored


def is_enough(arriving: ArrivingResult, reading: ReadParameterised | None) -> bool:
    """Whether a response can begin while the result is still arriving; `reading` is set where a file was requested.

    A file's name contains the day of the result; forms that are made from the JSON need all of it.
    """
    if reading is None:
        return True
    return reading.form == "json" and not is_made_here(reading) and arriving.entry.retrieved_at != ""
