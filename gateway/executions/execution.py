"""The state of one run of a query, from the POST to the stored result. What is done with it is in `runner.py`."""

from __future__ import annotations

import asyncio
import uuid
from enum import IntEnum
from typing import Final

from gateway.concurrency.events import Event
from gateway.concurrency.spool import Spool
from gateway.errors import CredentialRejected, GatewayError, UpstreamRefused
from gateway.model import Entry, ExecutionRecord
from gateway.outcome import ExecutionResult, Sender
from gateway.policy.plan import Plan, upstream_post
from gateway.redash.answers import read_error
from gateway.results.cache import Found

CANCELLED_TEXT: Final = "Query cancelled by user."


class Phase(IntEnum):
    """How far an execution has come."""

    QUEUED = 0  # waits here for a slot; its POST has not left
    ASKING = 1  # the POST is under way
    RUNNING = 2  # Redash runs it
    ENDED = 3


class Execution:
    """The state of one run, and who waits for it."""

    def __init__(self, plan: Plan, sender: Sender, started: float, execution_id: str = "") -> None:
        self.id = execution_id or str(uuid.uuid4())
        self.plan = plan
        self.sender = sender
        self.started = started  # monotonic
        self.max_age = plan.max_age  # callers that join while it is queued may tighten it
        self.phase = Phase.QUEUED
        self.status = 1  # as a job shows it (CONTRACT 9)
        self.error = ""
        self.failure: GatewayError | None = None
        self.found: Found | None = None
        self._arriving: tuple[Entry, Spool] | None = None
        self.upstream_job = ""
        self.result: ExecutionResult = "success"
        self.callers = 1
        self.cancelled = False
        self.noted = False  # in the ledger
        self.purged = False  # a purge came since it began: its result is for those who wait only
        self.seen: dict[str, float] = {}  # the job ids that stand for it, and when each was last asked for
        self.answerable = Event()  # queued here, or Redash has answered the POST
        self.posted = Event()  # Redash has answered the POST
        self.showable = Event()  # a large result begins to arrive, or it has ended
        self.ended = Event()
        self.stopping = Event()  # cancelled in Redash: whoever follows the job need not wait for its next poll
        self.held: dict[str, Event] = {}  # by job id: who waits for that job
        self.updated_at: object = 0  # as Redash tells it while the job is started (CONTRACT 9)
        self.task: asyncio.Task[None] | None = None

    @property
    def result_id(self) -> int | None:
        """Return the id of the result, once there is one."""
        return self.found[0].result_id if self.found is not None else None

    @property
    def arriving(self) -> tuple[Entry, Spool] | None:
        """Return a large result as far as it has come; None where none is coming, or the last one broke off."""
        return None if self._arriving is None or self._arriving[1].failed else self._arriving

    def show_early(self, entry: Entry, spool: Spool) -> None:
        """Let those who wait have a large result while it arrives."""
        self._arriving = entry, spool
        self.answerable.set()
        self.showable.set()

    def fail(self, error: str, result: ExecutionResult = "failure", failure: GatewayError | None = None) -> None:
        """End in status 4 with a text for whoever holds a job id."""
        self.status, self.error, self.result, self.failure = 4, error, result, failure

    def end(self) -> None:
        """Let go of everybody who waits."""
        self.phase = Phase.ENDED
        if self._arriving is not None:
            self._arriving[1].fail()  # unless it was kept
            self._arriving = None
        for event in self._signals:
            event.set()

    @property
    def waiters(self) -> int:
        """How many callers wait for an answer just now."""
        return sum(event.waiting for event in self._signals)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for what it brings; not for a job id."""
        return self.showable.waiting + self.ended.waiting > 0

    def release_waiters(self) -> None:
        """Send those home who wait for what it brings or for a job id, though it has not ended."""
        for event in (self.showable, self.ended, *self.held.values()):
            event.wake()

    @property
    def _signals(self) -> tuple[Event, ...]:
        return (self.answerable, self.posted, self.showable, self.ended, *self.held.values())

    def record(self, wall: float, now: float) -> ExecutionRecord:
        """Return what the ledger keeps of it."""
        path, query, body = upstream_post(self.plan.operation, self.plan.upstream_max_age())
        return ExecutionRecord(
            id=self.id,
            key=self.plan.key,
            scope=self.plan.credential.scope,
            credential=self.plan.credential.name,
            query_id=self.plan.query_id,
            path=f"{path}?{query}" if query else path,
            body=body,
            marker=self.plan.marker,
            started_at=wall - (now - self.started),
            upstream_job=self.upstream_job,
            status=self.status,
            error=self.error,
            result_id=self.result_id,
            purged=self.purged,
        )


def failure_text(error: GatewayError) -> str:
    """Return the text that a job in status 4 shows for an error."""
    if isinstance(error, UpstreamRefused) and error.body.data is not None:
        return read_error(error.body.data) or error.detail
    if isinstance(error, CredentialRejected):
        return "Redash does not accept the gateway's key."
    return error.detail
