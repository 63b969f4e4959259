"""One refresh without a caller: from a query and its values to a result that is young enough."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway import config
from gateway.concurrency.events import wait_for
from gateway.errors import Forbidden, QueryFailed, ServiceUnavailable
from gateway.executions.found import Pending
from gateway.executions.lookup import ResultLookup
from gateway.model import Clock
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Caller, Credential
from gateway.policy.bounds import Bounds
from gateway.policy.configured import Live
from gateway.policy.plan import Plan, decide
from gateway.policy.values import fitted
from gateway.redash.parameters import defaults, is_raw_sql
from gateway.redash.requests import Execute
from gateway.results.cache import StoredResult
from gateway.results.definitions import Definitions
from gateway.warming.demand import Pair

NAME: Final = "gateway-warm"
_LONGEST_RUN: Final = 3600.0


class Refreshed(msgspec.Struct, frozen=True):
    """What a refresh has brought."""

    stored: StoredResult
    ran: bool
    """Whether the query has run for it; Redash may have had a result that is young enough."""


class Refresher:
    """Plans and makes refreshes."""

    def __init__(self, live: Live, lookup: ResultLookup, definitions: Definitions, clock: Clock) -> None:
        self._live = live
        self._lookup = lookup
        self._definitions = definitions
        self._clock = clock

    async def of_entry(self, entry: config.Warm, credential: Credential, query_id: int) -> float:
        """Make sure that a query's result is younger than the entry's `every`; return how long it stays so.

        Raises:
            GatewayError: the run failed, or could not begin.
        """
        settings, every = self._live.settings, entry.every or 0.0
        definition = await self._definitions.get(credential, query_id, sender())
        now = datetime.fromtimestamp(self._clock.wall(), UTC).astimezone(ZoneInfo(settings.cache.timezone))
        operation = Execute(query_id, int(every), {**defaults(definition, now), **entry.parameters}, None)
        plan = decide(operation, _caller(credential), credential, definition, settings.cache)
        plan = msgspec.structs.replace(plan, max_age=every)
        stored = (await self._refresh(plan)).stored
        return plan.accepts(stored.entry, self._clock.monotonic()) or 0.0

    async def of_pair(self, pair: Pair, credential: Credential) -> Refreshed:
        """Renew the result of what callers have asked for: half as old as they accept is young enough.

        Raises:
            Forbidden: the query has come to take text that becomes SQL, and nobody has judged who may send some.
            GatewayError: the run failed, or could not begin.
        """
        definition = await self._definitions.get(credential, pair.query_id, sender())
        if is_raw_sql(definition) and not pair.raw_sql:
            raise Forbidden(f"Query {pair.query_id} was edited, and now takes text that becomes SQL as it is.")
        max_age = int(pair.bound / 2)
        operation = fitted(Execute(pair.query_id, max_age, pair.parameters, pair.auto_limit), definition)
        plan = decide(operation, _caller(credential), credential, definition, self._live.settings.cache)
        return await self._refresh(msgspec.structs.replace(plan, max_age=float(max_age), bounds=Bounds()))

    async def _refresh(self, plan: Plan) -> Refreshed:
        outcome = Outcome(request_id=NAME, client=NAME)
        found = await self._lookup.join_or_execute(await self._lookup.find(plan, outcome), plan, outcome)
        if isinstance(found, StoredResult):
            return Refreshed(found, ran=False)
        return Refreshed(await _ended(found), ran=bool(found.execution.upstream_job))


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


def _caller(credential: Credential) -> Caller:
    return Caller(NAME, config.Client(credentials=(credential.name,)))


def sender() -> Sender:
    """Return on whose behalf Redash is called."""
    return Sender(NAME, NAME)
