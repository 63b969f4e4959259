"""Keeps queries fresh without requests for them, and never at the expense of requests."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway import config
from gateway.concurrency.breaker import Breaker
from gateway.concurrency.events import wait_for
from gateway.concurrency.slots import FairSlots
from gateway.errors import GatewayError, QueryFailed, ServiceUnavailable
from gateway.executions.found import Pending
from gateway.executions.lookup import ResultLookup
from gateway.model import Clock
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Caller, Credential
from gateway.policy.configured import Live
from gateway.policy.plan import Plan, decide
from gateway.redash.parameters import defaults
from gateway.redash.requests import Execute
from gateway.results.cache import StoredResult
from gateway.results.parts import ResultParts

log = logging.getLogger("gateway.warm")

NAME: Final = "gateway-warm"
_BUSY_SECONDS: Final = 5.0
"""How long to wait when Redash is unavailable or its execution slots are in use."""

_LONGEST_RUN: Final = 3600.0


class WarmState(msgspec.Struct):
    """The state of one `[[warm]]` entry, for console and metrics."""

    name: str
    every: float
    runs: int = 0
    failures: int = 0
    skips: int = 0
    last_error: str = ""


class Warmer:
    """Runs the `[[warm]]` entries of the configuration."""

    def __init__(
        self,
        live: Live,
        lookup: ResultLookup,
        results: ResultParts,
        slots: FairSlots,
        breaker: Breaker,
        clock: Clock,
    ) -> None:
        self._live = live
        self._lookup = lookup
        self._results = results
        self._slots = slots
        self._breaker = breaker
        self._clock = clock
        self._active = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.states: list[WarmState] = []
        live.on_change.append(self.start)

    def start(self) -> None:
        """Start the entries of the configuration in force, and end those of the previous one."""
        entries = self._live.settings.warm
        for task in self._tasks:
            task.cancel()
        self.states = [WarmState(_name(entry), entry.every) for entry in entries]
        self._tasks = [
            asyncio.create_task(self._keep_warm(entry, state))
            for entry, state in zip(entries, self.states, strict=True)
        ]

    def counts(self) -> dict[str, int]:
        """Rounds of all entries by what became of them, since the configuration was loaded."""
        names = {"success": "runs", "failure": "failures", "skipped": "skips"}
        return {result: sum(getattr(state, name) for state in self.states) for result, name in names.items()}

    async def stop(self) -> None:
        """End every entry."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _keep_warm(self, entry: config.Warm, state: WarmState) -> None:
        # Spread over time, so that a start with many entries causes no burst.
        await asyncio.sleep(random.uniform(0, min(entry.every, 60.0) / 4))  # noqa: S311 - not for secrets
        while True:
            pause = await self._once(entry, state)
            await asyncio.sleep(pause * random.uniform(0.95, 1.0))  # noqa: S311

    async def _once(self, entry: config.Warm, state: WarmState) -> float:
        """Make one round; returns the seconds until the next."""
        pauses, error = [entry.every], ""
        if self._in_the_way():
            state.skips += 1
            return _BUSY_SECONDS
        try:
            credential = self._live.access.credentials[entry.credential]
            for query_id in await self._queries(entry, credential):
                if self._in_the_way():
                    state.skips += 1
                    return _BUSY_SECONDS
                self._active += 1  # now: other entries check it before this one's run has begun
                try:
                    pauses.append(await self._refresh(await self._plan(entry, credential, query_id)))
                except GatewayError as failed:  # the other queries of a dashboard are still kept warm
                    error = error or f"query {query_id}: {failed.detail}"
                finally:
                    self._active -= 1
        except GatewayError as failed:
            error = failed.detail
        except Exception:
            log.exception("%s: internal error", state.name)
            error = "Internal error of the gateway; its log says more."
        self._note(state, error)
        return max(1.0, min(pauses))

    def _note(self, state: WarmState, error: str) -> None:
        """Count the round, and log one line for each change of state."""
        if error:
            state.failures += 1
        else:
            state.runs += 1
        if error and error != state.last_error:
            log.error("%s: %s", state.name, error)
        elif state.last_error and not error:
            log.warning("%s: works again", state.name)
        state.last_error = error

    def _in_the_way(self) -> bool:
        """Whether a run now would hinder callers: Redash is unavailable, or slots are scarce.

        At most half of the slots are used for warming, and where there are several, one always stays free for callers.
        """
        slots = self._slots
        spare = slots.size - slots.taken - (1 if slots.size > 1 else 0)
        return self._breaker.is_open or not slots.free() or spare <= 0 or self._active >= max(1, slots.size // 2)

    async def _queries(self, entry: config.Warm, credential: Credential) -> list[int]:
        if entry.query is not None:
            return [entry.query]
        assert entry.dashboard is not None  # noqa: S101 - the configuration has one or the other
        return sorted(await self._results.dashboards.queries_on(credential, entry.dashboard, _sender()))

    async def _plan(self, entry: config.Warm, credential: Credential, query_id: int) -> Plan:
        settings = self._live.settings
        definition = await self._results.definitions.get(credential, query_id, _sender())
        now = datetime.fromtimestamp(self._clock.wall(), UTC).astimezone(ZoneInfo(settings.cache.timezone))
        values = {**defaults(definition, now), **entry.parameters}
        caller = Caller(NAME, config.Client(credentials=(credential.name,)))
        plan = decide(Execute(query_id, int(entry.every), values, None), caller, credential, definition, settings.cache)
        return msgspec.structs.replace(plan, max_age=entry.every)

    async def _refresh(self, plan: Plan) -> float:
        """Make sure that the result is younger than the entry's `every`; returns the seconds for which it stays so."""
        outcome = Outcome(request_id=NAME, client=NAME)
        found = await self._lookup.join_or_execute(await self._lookup.find(plan, outcome), plan, outcome)
        stored = await _ended(found) if isinstance(found, Pending) else found
        return plan.accepts(stored.entry, self._clock.monotonic()) or 0.0


async def _ended(pending: Pending) -> StoredResult:
    """Wait for the end of an execution, or of the one that follows it, and return its result."""
    await wait_for(pending.execution.ended, _LONGEST_RUN)
    if pending.current != pending:
        return await _ended(pending.current)
    ending = pending.execution.ending
    if ending is None:
        raise ServiceUnavailable("still running after an hour")
    if ending.failure is not None:
        raise ending.failure.copy()
    if ending.stored is None:
        raise QueryFailed(ending.error)
    return ending.stored


def _sender() -> Sender:
    return Sender(NAME, NAME)


def _name(entry: config.Warm) -> str:
    return f"warm query {entry.query}" if entry.query is not None else f"warm dashboard {entry.dashboard}"
