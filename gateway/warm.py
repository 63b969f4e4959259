"""Keeping queries fresh without anybody asking, and never in the way of those who do."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway import config
from gateway.concurrency.flight import wait_for
from gateway.concurrency.limits import Breaker
from gateway.errors import GatewayError, QueryFailed, ServiceUnavailable
from gateway.executions.flights import Executions
from gateway.model import Clock
from gateway.outcome import Outcome, Sender
from gateway.pipeline import Gateway
from gateway.policy.access import Caller, Credential
from gateway.policy.plan import Plan, decide
from gateway.redash.answers import queries_on
from gateway.redash.parameters import defaults
from gateway.redash.requests import Execute
from gateway.upstream.request import Upstream, UpstreamRequest, refusal

log = logging.getLogger("gateway.warm")

NAME: Final = "gateway-warm"
_BUSY_SECONDS: Final = 5.0
"""How long to stand back when Redash is away or its executions are at their limit."""

_LONGEST_RUN: Final = 3600.0


class WarmState(msgspec.Struct):
    """How one `[[warm]]` entry is doing, for status page and metrics."""

    name: str
    every: float
    runs: int = 0
    failures: int = 0
    skips: int = 0
    last_error: str = ""


class Warmer:
    """Runs the `[[warm]]` entries of the configuration."""

    def __init__(
        self, gateway: Gateway, executions: Executions, upstream: Upstream, clock: Clock, *, breaker: Breaker
    ) -> None:
        self._gateway = gateway
        self._executions = executions
        self._upstream = upstream
        self._clock = clock
        self._breaker = breaker
        self._active = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.states: list[WarmState] = []

    def start(self, entries: tuple[config.Warm, ...]) -> None:
        """Begin with these entries; those of an earlier configuration end."""
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
        # Spread over time, so that a start with many entries is no burst.
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
            credential = self._gateway.access.credentials[entry.credential]
            for query_id in await self._queries(entry, credential):
                if self._in_the_way():
                    state.skips += 1
                    return _BUSY_SECONDS
                self._active += 1  # at once: other entries look before this one's run has begun
                try:
                    pauses.append(await self._refresh(await self._plan(entry, credential, query_id)))
                except GatewayError as failed:  # the others of a dashboard are kept warm all the same
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
        """Count the round, with one line for each change of state."""
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
        """Whether a run now would be in the way of callers: Redash is away, or slots are scarce.

        Half of the slots at most are for keeping warm, and one is always left for callers where there are several.
        """
        slots = self._executions.slots
        spare = slots.size - slots.taken - (1 if slots.size > 1 else 0)
        return self._breaker.is_open or not slots.free() or spare <= 0 or self._active >= max(1, slots.size // 2)

    async def _queries(self, entry: config.Warm, credential: Credential) -> list[int]:
        return [entry.query] if entry.query is not None else await self._queries_on(credential, entry.dashboard)

    async def _queries_on(self, credential: Credential, dashboard: int | None) -> list[int]:
        call = UpstreamRequest(method="GET", path=f"/api/dashboards/{dashboard}", route="/api/dashboards/{dashboard}")
        response = await self._upstream.send(credential, call, _sender())
        if response.status != 200:
            raise refusal(response)
        return sorted(queries_on(response.body.load()))

    async def _plan(self, entry: config.Warm, credential: Credential, query_id: int) -> Plan:
        settings = self._gateway.settings
        definition = await self._gateway.know(credential, query_id, _sender())
        now = datetime.fromtimestamp(self._clock.wall(), UTC).astimezone(ZoneInfo(settings.cache.timezone))
        values = {**defaults(definition, now), **entry.parameters}
        caller = Caller(NAME, config.Client(credentials=(credential.name,)))
        plan = decide(Execute(query_id, int(entry.every), values, None), caller, credential, definition, settings.cache)
        return msgspec.structs.replace(plan, max_age=entry.every)

    async def _refresh(self, plan: Plan) -> float:
        """Make sure that the result is younger than the entry's `every`; returns the seconds for which it will be."""
        obtained = await self._gateway.lookup.obtain(plan, _sender(), Outcome(request_id=NAME))
        execution = obtained.execution
        if execution is not None:
            await wait_for(execution.ended, _LONGEST_RUN)
            if not execution.ended.is_set:
                raise ServiceUnavailable("still running after an hour")
            if execution.failure is not None:
                raise execution.failure
            if execution.found is None:
                raise QueryFailed(execution.error)
        found = obtained.found or (execution.found if execution is not None else None)
        assert found is not None  # noqa: S101 - it is one or the other
        return plan.accepts(found[0], self._clock.monotonic()) or 0.0


def _sender() -> Sender:
    return Sender(NAME, NAME)


def _name(entry: config.Warm) -> str:
    return f"warm query {entry.query}" if entry.query is not None else f"warm dashboard {entry.dashboard}"
