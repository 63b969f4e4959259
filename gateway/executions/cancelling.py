"""Ends runs in Redash for which no caller has use any more, on any gateway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import GatewayError
from gateway.executions.execution import Execution, Phase
from gateway.executions.flights import Executions
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.redash import calls
from gateway.store import LeaseLostError, Leases
from gateway.upstream.protocol import Upstream

log = logging.getLogger("gateway.executions")


class Cancelling:
    """Only the gateway that leads a run ends it; others tell it that they have no use for it any more."""

    def __init__(self, executions: Executions, leases: Leases, upstream: Upstream, clock: Clock) -> None:
        self._executions = executions
        self._leases = leases
        self._upstream = upstream
        self._clock = clock
        self._again: dict[Execution, bool] = {}  # those that are being stopped, and whether to try once more
        self._tasks: set[asyncio.Task[None]] = set()

    def is_wanted(self, execution: Execution) -> bool:
        """Whether a caller of this gateway waits for it, polled one of its jobs lately, or is about to have one."""
        now = self._clock.monotonic()
        others = [one for one in self._executions.running if one is not execution]
        run = execution.plan.key, execution.plan.marker
        if any(one.standing.joins and (one.plan.key, one.plan.marker) == run for one in others):
            return True
        same = [execution, *(one for one in others if one.id == execution.id)]
        return any(one.has_callers(now) for one in same)

    @contextmanager
    def prevented(self, execution: Execution) -> Iterator[None]:
        """Keep it alive for a caller that has joined it and has no job id yet."""
        execution.coming += 1
        try:
            yield
        finally:
            execution.coming -= 1

    def stop_soon(self, execution: Execution) -> None:
        """Do so in the background, because of what has happened on another gateway."""
        task = asyncio.create_task(self._quietly(execution))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, execution: Execution) -> None:
        try:
            if execution.standing.follows and not self.is_wanted(execution):
                await self._leases.announce("left", execution.id, leaves=True)
            await self.stop_if_unused(execution, execution.sender)
        except GatewayError as error:
            log.info("a run could not be cancelled: %s", error.detail, extra={"fields": {"execution": execution.id}})

    async def stop_if_unused(self, execution: Execution, sender: Sender) -> None:
        """End it, if it is led here and nobody has use for it."""
        if execution in self._again:
            self._again[execution] = True  # what the other attempt has found may be out of date
            return
        self._again[execution] = True
        try:
            while self._again[execution]:
                self._again[execution] = False
                await self._stop(execution, sender)
        finally:
            del self._again[execution]

    async def _stop(self, execution: Execution, sender: Sender) -> None:
        standing, over = execution.standing, execution.cancelling or execution.phase is Phase.ENDED
        # Another gateway leads it, or will: that one knows who has use for it.
        elsewhere = standing.follows or (standing.inherits and not standing.lease.number)
        if over or elsewhere or self.is_wanted(execution):
            return
        if execution.phase is Phase.QUEUED and execution.task is not None:
            if not await self._is_closed(execution):
                return
            if execution.phase is Phase.QUEUED:
                execution.cancelling = execution.abandoned = True
                execution.task.cancel()
            else:  # its POST has left meanwhile
                await standing.lease.reopen()
                self._again[execution] = True
            return
        if self._can_cancel(execution) and await self._is_closed(execution):
            execution.abandoned = True
            await self._cancel(execution, sender)

    def _can_cancel(self, execution: Execution) -> bool:
        """Whether it has a job in Redash of its own that its key may cancel (CONTRACT 2: a query's key may not)."""
        if execution.arriving is not None:
            return False  # the run is over, and other callers may be reading its result
        if self._leases.for_many and not execution.standing.lease.number:
            return False  # other gateways may follow the same job in Redash, and nobody knows
        others = (other for other in self._executions.running if other.id != execution.id)
        shared = any(other.upstream_job == execution.upstream_job for other in others)
        return bool(execution.upstream_job) and not shared and not execution.plan.credential.is_query_key

    async def end(self, execution: Execution, sender: Sender) -> bool:
        """Cancel it for all its callers, because an operator wants it; returns whether it ends now.

        A run that another gateway leads is ended there.
        """
        standing, is_queued = execution.standing, execution.phase is Phase.QUEUED
        if execution.cancelling or execution.phase is Phase.ENDED or standing.follows or standing.is_apart:
            return False
        if not is_queued and not self._can_cancel(execution):
            return False
        try:
            if not await standing.lease.close():
                return False
        except LeaseLostError:
            return False
        execution.abandoned = False
        if is_queued and execution.phase is Phase.QUEUED and execution.task is not None:
            execution.cancelling = True
            execution.task.cancel()
            return True
        await self._cancel(execution, sender)
        return True

    async def _is_closed(self, execution: Execution) -> bool:
        """Whether no caller can join it any more, on any gateway."""
        lease = execution.standing.lease
        try:
            closed = await lease.close(unless_used=True)
        except LeaseLostError:
            return False
        if closed and self.is_wanted(execution):  # somebody has come meanwhile
            await lease.reopen()
            return False
        return closed

    async def _cancel(self, execution: Execution, sender: Sender) -> None:
        request = calls.cancellation(execution.upstream_job)
        execution.cancelling = True  # no caller joins it from now on
        try:
            if execution.standing.lease.number:  # whoever takes the run over has to know why it was cancelled
                await self._executions.record(execution)
            await self._upstream.send(execution.plan.credential, request, sender)
        except BaseException:  # also of a caller that leaves: nobody knows whether Redash has cancelled it
            execution.cancelling = False  # it stays abandoned: if it has, who has come meanwhile needs another run
            await execution.standing.lease.reopen()
            raise
        execution.stopping.set()
