"""What an execution waits for before it asks Redash: an earlier run of its key, a colliding text, a slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Final

from gateway.concurrency.events import wait_for
from gateway.concurrency.slots import FairSlots
from gateway.concurrency.turns import TurnsByText, no_turn
from gateway.executions.execution import Execution
from gateway.executions.guard import Guard
from gateway.model import digest
from gateway.policy.configured import Live
from gateway.store import Claim, Held, Lease, Leases
from gateway.upstream.protocol import Upstream

TURN_SECONDS: Final = 0.1
"""How often a run looks whether another gateway has finished one that Redash would confuse with it."""


class Waits:
    """The waits of all executions. Each ends after `upstream.queue_timeout`, and each is counted by its kind."""

    def __init__(self, live: Live, guard: Guard, leases: Leases, upstream: Upstream) -> None:
        self._live = live
        self._guard = guard
        self._leases = leases
        settings = live.settings.upstream
        self.slots = FairSlots(
            settings.max_executions, timeout=settings.queue_timeout, is_stuck=upstream.is_stuck_since
        )
        live.on_change.append(self._take_over_limits)
        self._turns = TurnsByText()
        self._behind_earlier = 0

    def _take_over_limits(self) -> None:
        upstream = self._live.settings.upstream
        self.slots.size, self.slots.timeout = upstream.max_executions, upstream.queue_timeout

    def counts(self) -> dict[str, int]:
        """Return how many executions wait now, by kind."""
        return {"slot": self.slots.queued, "collision": self._turns.waiting, "earlier_run": self._behind_earlier}

    async def after(self, before: Execution, execution: Execution) -> None:
        """Wait for an earlier run of the same key; when the time is up both run, and only the later one is current."""
        execution.can_respond.set()
        self._behind_earlier += 1
        try:
            await wait_for(before.over, self.slots.timeout)
        finally:
            self._behind_earlier -= 1

    def apart(self, execution: Execution) -> AbstractAsyncContextManager[None]:
        """Keep runs apart whose texts Redash cannot distinguish: a query key's response does not show its SQL.

        Raises (on entering):
            ServiceUnavailable: the time is up.
        """
        return self._apart(execution) if self._live.access.has_query_keys else nullcontext()

    @asynccontextmanager
    async def _apart(self, execution: Execution) -> AsyncIterator[None]:
        key, text = await self._guard.collision(execution.plan, execution.sender)
        blind = execution.plan.credential.is_query_key
        if self._turns.would_wait(key, text, blind=blind):
            execution.can_respond.set()
        async with self._turns.hold(key, text, blind=blind, timeout=self.slots.timeout):
            if not self._leases.shared or not await self._guard.may_be_mixed_up(execution.plan, execution.sender):
                yield
                return
            lease = await self._turn_of_all(key, execution)
            try:
                yield
            finally:
                await lease.release()

    async def _turn_of_all(self, key: bytes, execution: Execution) -> Lease:
        """Wait for the turn among the query keys' runs of all gateways: one is inside at a time.

        That leaves users' runs on other gateways, as it leaves those that somebody starts in Redash itself.
        """
        claim = Claim(digest(b"turn", key), f"{execution.id}:turn", "")
        try:
            async with asyncio.timeout(self.slots.timeout):
                while isinstance(lease := await self._leases.claim(claim), Held):
                    execution.can_respond.set()
                    await asyncio.sleep(TURN_SECONDS)
        except TimeoutError:
            raise no_turn() from None
        return lease

    @asynccontextmanager
    async def again(self, execution: Execution) -> AsyncIterator[None]:
        """Let runs that got each other's rows run again one after the other, or they would meet again.

        Raises (on entering):
            ServiceUnavailable: the time is up.
        """
        key, text = await self._guard.collision(execution.plan, execution.sender)
        async with self._turns.hold(b"again\0" + key, text, blind=True, timeout=self.slots.timeout):
            yield
