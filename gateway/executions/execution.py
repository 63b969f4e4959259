"""The state of one run of a query, from the POST to the stored result; `ending` has how it ended.

`runner` does the run; `flights` lets callers join it; `records` has its record in the ledger.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final

import msgspec

from gateway.concurrency.early_exits import EarlyExits
from gateway.concurrency.events import Event
from gateway.errors import GatewayError, UpstreamError
from gateway.executions.ending import Ending
from gateway.executions.polling import Polls
from gateway.executions.standing import Standing
from gateway.executions.work import Work
from gateway.model import new_id
from gateway.outcome import Sender
from gateway.policy.plan import Plan, stricter
from gateway.redash.footprint import weight
from gateway.results.cache import ArrivingResult, StoredResult

OVERHEAD_BYTES: Final = 10_000
"""Of an execution without parameters: its task, its events, its caller's."""

ALIVE_SECONDS: Final = 60.0
"""While one job id was polled within this time, a DELETE of another does not cancel the shared job in Redash."""

LIFE_SECONDS: Final = 12 * 3600.0
"""How long a job id is valid, and how long a run is followed. Redash keeps a job that succeeded, and the lock that lets
others join a run, as long (CONTRACT 9)."""


class Phase(IntEnum):
    """How far an execution has come."""

    QUEUED = 0  # waits here for a slot; its POST has not been sent
    POSTING = 1  # the POST is in progress
    RUNNING = 2  # Redash runs it
    ENDED = 3


class Execution:
    """The state of one run, and the callers that wait for it."""

    def __init__(self, plan: Plan, sender: Sender, started: float, execution_id: str = "") -> None:
        self.id = execution_id or new_id()
        self.plan = plan
        self.sender = sender
        self.standing = Standing()
        self.started = started  # monotonic
        self.max_age = plan.max_age  # callers that join may tighten it, for a POST that is yet to be sent
        self.phase = Phase.QUEUED
        self.sent = math.inf  # monotonic: when the first request of it was about to be sent to Redash
        self.ending: Ending | None = None
        self.upstream_job = ""
        self.upstream_status = 1  # of Redash's job: 1 queued there, 2 started (CONTRACT 9)
        self.polls: Polls | None = None  # of the job that is followed, or was followed last
        self.updated_at: object = 0  # as Redash reports it while the job is started (CONTRACT 9)
        self._arriving: ArrivingResult | None = None
        self.callers = 1
        self.payers = {sender.client: -math.inf}  # the clients of its callers, and from when on each needs rows
        self.work = Work()
        self.coming = 0  # how many callers are about to get a job id
        self.cancelling = False  # no caller may join it any more
        self.abandoned = False  # it is cancelled because nobody is known to have use for it
        self.serves_nobody = False  # that has ended it: whoever has use for it nevertheless needs another run
        self.recorded = False  # in the ledger
        self.is_known = False  # others know it by its id, so it cannot become part of another run
        self.resumed = False  # an earlier process began it
        self.purged = False  # purged since it began: only the callers that wait get its result, nothing is stored
        self.seen: dict[str, float] = {}  # its job ids, and when each was last polled
        self.not_before: dict[str, float] = {}  # its job ids, and since when rows must be for each (monotonic)
        self.latest_need = -math.inf  # the latest of these moments, for callers without a job id, too
        self.rows_from = -math.inf  # the rows are not older: the moment of the POST, in the end that of the run's end
        self.follow_up: Execution | None = None  # a later run, for those whose bound the rows do not meet
        self.can_respond = Event()  # a job id can be given out: queued here, or Redash has responded to the POST
        self.posted = Event()  # Redash has responded to the POST
        self.polled = Event()  # wakes at each poll that finds it running; set when it has ended
        self.showable = Event()  # a large result begins to arrive, or the execution has ended
        self.ended = Event()
        self.over = Event()  # the same, for runs that wait for the end of this one: they have no use for it
        self.stopping = Event()  # cancelled in Redash: the runner need not wait for its next poll
        self.job_events: dict[str, Event] = {}  # by job id: wakes the callers that wait for that job
        self.task: asyncio.Task[None] | None = None
        self._unanswered = False  # Redash does not answer requests about this run now
        self._exits = EarlyExits(_unanswered)
        self.weight = _weight(plan)
        """About as many bytes as it takes in memory, with its parameters and its definition."""

    def lead_no_more(self) -> None:
        """Another gateway has taken the lease: nobody knows from when its rows will be."""
        self.standing.lead_no_more()
        self.phase, self.rows_from = Phase.RUNNING, -math.inf
        self._drop_arriving()

    def join(self, client: str, not_before: float) -> None:
        """Note a caller of that client that needs rows from that moment on."""
        self.payers[client] = max(not_before, self.payers.get(client, -math.inf))
        self.attach(not_before)

    @property
    def is_others(self) -> bool:
        """Whether another process began it, or leads it."""
        return self.resumed or self.standing.inherits

    def begin_anew(self) -> None:
        """It is another run from now on; nobody knows of it yet."""
        self.standing.begin_anew()
        self.phase, self.rows_from, self.purged, self.abandoned = Phase.QUEUED, -math.inf, False, False
        self.upstream_job, self.upstream_status, self.recorded = "", 1, False

    def note_recording(self) -> None:
        """Its record is about to be written, under its lease."""
        self.recorded = self.is_known = True
        self.standing.fence = max(self.standing.fence, self.standing.lease.number)

    def queued_until(self, now: float) -> float:
        """Return until when it has waited here; it waits until `now` if it still does."""
        return min(now, self.sent) if self.sent < math.inf or self.phase is Phase.QUEUED else -math.inf

    @property
    def status(self) -> int:
        """Return the status that a job shows."""
        return self.upstream_status if self.ending is None else self.ending.status

    @property
    def stored(self) -> StoredResult | None:
        """Return the stored result, None unless it has ended with one."""
        return self.ending.stored if self.ending is not None else None

    @property
    def failure(self) -> GatewayError | None:
        """Return the error for callers without a job id, None unless it has ended with one."""
        return self.ending.failure if self.ending is not None else None

    @property
    def arriving(self) -> ArrivingResult | None:
        """Return a large result while it arrives; None where none can be read from its beginning."""
        return self._arriving if self._arriving is not None and self._arriving.body.is_whole else None

    @property
    def is_unanswered(self) -> bool:
        """Whether Redash does not answer requests about this run now: nobody knows whether it has ended there."""
        return self._unanswered

    @is_unanswered.setter
    def is_unanswered(self, value: bool) -> None:
        self._unanswered = value
        if value:
            self._exits.open()

    @asynccontextmanager
    async def until_unanswered(self) -> AsyncIterator[None]:
        """Let what is awaited within end when Redash does not answer: for callers that have a stale result.

        Raises:
            UpstreamError: it does not answer now, or came to do so meanwhile.
        """
        if self._unanswered:
            raise _unanswered()
        async with self._exits.offered():
            yield

    def attach(self, not_before: float) -> None:
        """Note a caller that needs rows from that moment on."""
        if not_before > self.latest_need:
            self.latest_need = not_before
            self.standing.changed.wake()

    def need_elsewhere(self, not_before: float, age: float) -> None:
        """Note callers of another gateway."""
        self.attach(not_before)
        self.max_age = stricter(self.max_age, age)

    def upstream_max_age(self, now: float) -> int | None:
        """Return the age with which the POST is sent now, None for any.

        Where another process began the run, its POST may have left, too: what that has made is good, however long ago
        that was, as are all rows from the moment on from which the callers need them; without any, from its start on.
        """
        if not self.resumed and not self.standing.inherits:
            return None if self.max_age is None else math.floor(self.max_age)
        need = self.latest_need
        if need == -math.inf and (self.not_before or self.max_age is None):
            return None
        return max(1, math.floor(now - (need if need > -math.inf else self.started)) + 1)

    def later_plan(self, now: float) -> Plan:
        """Return the plan of a later run, for the callers that this one does not serve.

        Rows of this age at the POST are new enough: then Redash decides by its own clock whether to run the query.
        """
        age = now - self.latest_need
        max_age = None if age == math.inf else float(max(0, math.floor(age)))
        return msgspec.structs.replace(self.plan, max_age=max_age)

    def serves(self, not_before: float) -> bool:
        """Whether it is known that its rows are from that moment or later."""
        return not self.serves_nobody and not_before <= self.rows_from

    def serving(self, not_before: float) -> Execution:
        """Return the run that brings rows from that moment or later: this one, or a follow-up."""
        if self.follow_up is None or self.serves(not_before):
            return self
        return self.follow_up.serving(not_before)

    def release_job(self, job_id: str) -> None:
        """Forget a job that is over, and wake its callers."""
        self.seen.pop(job_id, None)
        self.not_before.pop(job_id, None)
        if (event := self.job_events.pop(job_id, None)) is not None:
            event.set()

    def show_early(self, arriving: ArrivingResult) -> None:
        """Let waiting callers have a large result while it arrives."""
        self._arriving = arriving
        self.can_respond.set()
        self.showable.set()

    def end(self, ending: Ending) -> None:
        """End, and wake all waiting callers."""
        self.ending = ending
        self.phase = Phase.ENDED
        self._drop_arriving()
        self.standing.settle()
        for event in (*self._events, self.over):
            event.set()

    def _drop_arriving(self) -> None:
        if self._arriving is not None:
            self._arriving.body.fail()  # no effect where it was stored
            self._arriving = None

    @property
    def waiters(self) -> int:
        """How many callers wait for a response now."""
        return sum(event.waiting for event in self._events)

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits for its result, or for the job id that it will be given."""
        return self.can_respond.waiting + self.showable.waiting + self.ended.waiting > 0

    def has_callers(self, now: float) -> bool:
        """Whether a caller waits for it, is about to get a job id, or has polled one lately."""
        lately = now - ALIVE_SECONDS
        return self.is_awaited or self.coming > 0 or any(seen >= lately for seen in self.seen.values())

    def release_waiters(self) -> None:
        """Wake the callers that wait for its result, a poll or one of its jobs, though it has not ended."""
        for event in (self.polled, self.showable, self.ended, *self.job_events.values()):
            event.wake()

    @property
    def _events(self) -> tuple[Event, ...]:
        events = (self.can_respond, self.posted, self.polled, self.showable, self.ended, self.standing.noted)
        return (*events, *self.job_events.values())


def _unanswered() -> UpstreamError:
    return UpstreamError("Redash does not answer requests about this run at the moment.")


def _weight(plan: Plan) -> int:
    counted = OVERHEAD_BYTES + weight(repr(plan.operation).encode())  # about as long as JSON, and quicker to make
    if plan.definition is not None:  # others have the same one mostly, but not after an edit
        counted += len(plan.definition.text)
        counted += sum(50 + len(option) for p in plan.definition.parameters for option in p.enumOptions)
    return counted
