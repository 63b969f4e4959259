"""Leads a run, or follows the gateway that leads it: at most one run per key, however many gateways there are.

What gateways may do with a run is said in `store/redis/leases.py`. With a store that no other gateway shares, each
lease is granted at once, so everything here that waits for another gateway is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.concurrency.events import wait_for
from gateway.errors import GatewayError, UpstreamError
from gateway.executions.ending import Ending
from gateway.executions.execution import Execution, Phase
from gateway.executions.following import kind_of
from gateway.executions.news import News
from gateway.executions.records import inherit, log_takeover, mirror, record_of
from gateway.executions.runner import Runner
from gateway.executions.waits import Waits
from gateway.model import Clock, ExecutionRecord, new_id
from gateway.policy.keys import result_key
from gateway.redash.responses import Job
from gateway.results.cache import ResultCache
from gateway.store import Claim, Held, Lease, LeaseLostError, Leases, Ledger

LOOK_SECONDS: Final = 1.0
"""How often a follower looks at lease and record, in case that an announcement was lost."""

OVER_SECONDS: Final = 0.03
"""How long a run that is about to end, or has ended, may keep its lease before callers notice."""

ASK_SECONDS: Final = 0.01
"""At least so much time is between two asks of a follower; callers that come meanwhile share one."""

Work = Callable[[], Awaitable[Ending]]


class Leading:
    """Decides by the lease of its key who does a run."""

    def __init__(
        self, leases: Leases, ledger: Ledger, results: ResultCache, runner: Runner, waits: Waits, clock: Clock
    ) -> None:
        self.leases = leases
        self.runner = runner
        self._ledger = ledger
        self._results = results
        self._clock = clock
        self._waits = waits
        self._news = News(leases)
        self.renamed: Callable[[Execution, str], None] = lambda execution, old: None
        """Called when an execution has got the id of the run that it follows."""

    async def announce(self, what: str, execution: Execution) -> None:
        """Tell the followers, if there can be any."""
        if execution.standing.lease.number:
            await self.leases.announce(what, execution.id)

    async def carry(self, execution: Execution, work: Work) -> Ending:
        """Do the run, or follow it, to its end. `work` does it; it is called once more if the lease was lost.

        Raises:
            GatewayError: the result of another gateway's run cannot be read.
        """
        try:
            return await self._carry(execution, work)
        finally:
            self._news.subscribe(execution, "")

    async def _carry(self, execution: Execution, work: Work) -> Ending:
        claim: Lease | Held | None = None
        force_at, over = math.inf, ""
        while True:
            claim = claim or await self._claim(execution, by_force=self._clock.monotonic() >= force_at, over=over)
            over = ""
            if not isinstance(claim, Held):
                ending, claim = await self._lead(execution, claim, work), None
            elif await self._joined(execution, claim):
                ending, claim = await self._follow(execution, claim)
            elif execution.upstream_job:
                ending, claim = await self._apart(execution, work), None
            else:
                if not claim.joinable:
                    force_at = min(force_at, self._clock.monotonic() + self._waits.slots.timeout)
                over, claim = await self._wait(execution, claim.execution_id, force_at), None
                continue
            if ending is not None:
                return ending
            force_at = math.inf

    async def _claim(
        self, execution: Execution, *, by_force: bool = False, over: str = "", alone: bool = True
    ) -> Lease | Held:
        now, need, standing = self._clock.monotonic(), execution.latest_need, execution.standing
        asks = need > (standing.covered if standing.follows else -math.inf)
        standing.asking, standing.joins = need, standing.joins or not standing.follows
        return await self.leases.claim(
            Claim(
                execution.plan.key,
                execution.id,
                execution.plan.marker,
                age=max(0.0, now - need) if asks else None,
                unused=self._unused(execution, now),
                by_force=by_force,
                over=over,
                alone=alone,
                upstream_job=lambda: execution.upstream_job,
                on_need=execution.need_elsewhere,
            )
        )

    def _unused(self, execution: Execution, now: float) -> float:
        if execution.is_awaited or not execution.standing.follows:  # who joins has use for it
            return 0.0
        return now - max(execution.seen.values(), default=-math.inf)

    async def _wait(self, execution: Execution, other: str, until: float) -> str:
        """Wait for news of a run that this one cannot join, a moment at most; its id if it has ended with its lease."""
        if not self._news.subscribe(execution, other):
            return ""  # something may have happened since the claim
        if await self._news.arrives(execution, OVER_SECONDS):
            return ""
        execution.can_respond.set()
        record = await self._ledger.execution(other)
        if record is not None and record.status >= 3:
            return other
        await self._news.arrives(execution, min(LOOK_SECONDS, until - self._clock.monotonic()))
        return ""

    async def give_up(self, execution: Execution, *, stopping: bool) -> None:
        """Hand its lease over: to the next process, or to a follow-up, if there is one."""
        lease, follow_up = execution.standing.lease, execution.follow_up
        if stopping:
            await lease.release()
        else:
            await lease.end(*(() if follow_up is None else (follow_up.id, follow_up.plan.marker)))

    # -- leading ---------------------------------------------------------------------------------------------------

    async def _lead(self, execution: Execution, lease: Lease, work: Work) -> Ending | None:
        """Do the run; None if another gateway has taken the lease meanwhile."""
        execution.standing.lead(lease)
        try:
            async with lease.until_lost():
                if execution.standing.inherits and (ending := await self._inherit(execution)) is not None:
                    return ending
                execution.standing.led = True
                try:
                    ending = await work()
                except GatewayError as error:
                    ending = Ending.failed(error)
                await lease.close()
                return ending
        except LeaseLostError:
            execution.lead_no_more()
            return None

    async def _apart(self, execution: Execution, work: Work) -> Ending | None:
        """Follow its own job beside the lease of another run; None if that is not enough, and a POST is needed."""
        execution.standing.go_apart()
        try:
            return await work()
        except LeaseLostError:
            execution.lead_no_more()
            execution.upstream_job = ""
            return None

    async def _inherit(self, execution: Execution) -> Ending | None:
        """Go on where the gateway that led before has left off; return how it ended, if it has."""
        standing = execution.standing
        record = await self._ledger.execution(execution.id)
        if record is None:
            return None
        if record.status >= 3:
            await standing.lease.end()
            standing.be_follower()
            return await self._as_ended(execution, record)
        jobs = await self._ledger.jobs_of(record.id)
        now, wall = self._clock.monotonic(), self._clock.wall()
        inherit(execution, record, jobs, now, wall)
        if standing.lease.number:
            log_takeover(execution)
            execution.note_recording()
            await self._ledger.record_execution(record_of(execution, wall, now))
        return None

    # -- following -------------------------------------------------------------------------------------------------

    async def _follow(self, execution: Execution, held: Held) -> tuple[Ending | None, Lease | Held | None]:
        """Learn how a run ends that another gateway leads; or what came instead of the end."""
        standing = execution.standing
        if not standing.follows:
            standing.follow()
        execution.phase = Phase.RUNNING
        self._note_ask(execution, held)
        self._news.subscribe(execution, execution.id)
        return await self._until_end(execution)

    async def _joined(self, execution: Execution, held: Held) -> bool:
        """Become part of another run, unless that is over: then its lease is about to be given up."""
        if held.execution_id == execution.id:
            return True
        if not held.joinable or execution.is_known:
            return False
        record = await self._ledger.execution(held.execution_id)
        if execution.is_known or (record is not None and (record.status >= 3 or record.purged)):
            return False
        self._rename(execution, held.execution_id)
        return True

    def _rename(self, execution: Execution, execution_id: str) -> None:
        old, execution.id = execution.id, execution_id
        execution.begin_anew()
        self.renamed(execution, old)

    async def _until_end(self, execution: Execution) -> tuple[Ending | None, Lease | Held | None]:
        standing = execution.standing
        look_at = -math.inf
        alone_at = math.inf if self.leases.shared else self._clock.monotonic() + LOOK_SECONDS
        other: Held | None = None
        while True:
            now = self._clock.monotonic()
            if standing.has_news or now >= look_at:
                standing.has_news = False
                record = await self._ledger.execution(execution.id)
                if record is not None and record.status >= 3:
                    return await self._as_ended(execution, record), None
                standing.settle()
                if record is not None:
                    mirror(execution, record)
                elif look_at > -math.inf:
                    execution.can_respond.set()
                look_at = now + LOOK_SECONDS
                if other is not None:  # the lease is another run's, and this one has no end
                    return None, other
            if not self.leases.shared:  # no news comes any more
                execution.can_respond.set()
                standing.noted.wake()
            # Its leader goes on while Redis is unavailable: a job is followed at once, but a POST waits for a while.
            alone = bool(execution.upstream_job) or now >= alone_at
            knows = self.leases.shared
            if knows or alone:
                claim = await self._claim(execution, alone=alone)
                if not isinstance(claim, Held):
                    return None, claim
                self._note_ask(execution, claim)
                other = claim if claim.execution_id != execution.id else None
                knows = claim.is_known
            alone_at = math.inf if knows else min(alone_at, now + LOOK_SECONDS)
            standing.has_news = standing.has_news or other is not None
            if not standing.has_news:
                await self._pause(execution, look_at)

    def _note_ask(self, execution: Execution, held: Held) -> None:
        if held.ask and held.execution_id == execution.id:
            execution.standing.note_ask(held.ask)
        execution.standing.noted.wake()

    async def _pause(self, execution: Execution, until: float) -> None:
        """Wait until there is news, or something to ask for; callers that come together share one ask."""
        standing = execution.standing
        if execution.latest_need <= standing.covered:
            await wait_for(standing.changed, until - self._clock.monotonic())
        if execution.latest_need > standing.covered and not standing.has_news:
            await wait_for(standing.changed, ASK_SECONDS)

    async def _as_ended(self, execution: Execution, record: ExecutionRecord) -> Ending | None:
        """Return the same end as its leader has recorded; None if the run is to be begun once more.

        Where the leader could not begin it, each gateway learns itself why, and says so to its own callers. Where the
        rows are too old for all that wait here, they need no follow-up of their own.
        """
        standing = execution.standing
        served_from = standing.served_from(record.served) if record.status == 3 else -math.inf
        refused = record.status == 4 and not record.upstream_job
        too_old = record.status == 3 and served_from == -math.inf < execution.latest_need
        if (refused or too_old) and not execution.is_known:
            await self._news.arrives(execution, ASK_SECONDS)  # of a lease that is about to be given up
            if not execution.is_known:  # otherwise a caller has got a job of this very run meanwhile
                self._rename(execution, new_id())
                return None
        mirror(execution, record)
        standing.follow_up, standing.heard = record.follow_up, record.heard
        if record.status == 4:
            failure = UpstreamError(record.error) if record.unavailable else None
            return Ending(kind_of(record.error), error=record.error, failure=failure)
        execution.rows_from = served_from  # nothing else that is known here: all gateways are to agree on it
        return await self._result(execution, record)

    async def _result(self, execution: Execution, record: ExecutionRecord) -> Ending:
        """Return the result of a run that another gateway has led; one that was not stored is fetched."""
        result_id = record.result_id or 0
        stored = await self._results.get(result_key(record.scope, result_id, "json"))
        if stored is not None and not execution.purged:
            return Ending("success", stored)
        return await self.runner.fetch(execution, Job(id=record.upstream_job, status=3, query_result_id=result_id))
