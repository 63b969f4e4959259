"""Rounds by the clock: a query, or every query on a dashboard, is refreshed before its result is older than `every`."""

from __future__ import annotations

import asyncio
import logging
import random

from gateway import config
from gateway.errors import GatewayError
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.results.dashboards import Dashboards
from gateway.warming.refreshing import Refresher, sender
from gateway.warming.spare import BUSY_SECONDS, Spare
from gateway.warming.state import WarmState

log = logging.getLogger("gateway.warm")


class Rounds:
    """Does the entries that have an `every`."""

    def __init__(self, live: Live, refresher: Refresher, dashboards: Dashboards, spare: Spare) -> None:
        self._live = live
        self._refresher = refresher
        self._dashboards = dashboards
        self._spare = spare

    async def run(self, entry: config.Warm, state: WarmState) -> None:
        """Keep one entry fresh, until it is cancelled."""
        every = entry.every or 0.0
        # Spread over time, so that a start with many entries causes no burst.
        await asyncio.sleep(random.uniform(0, min(every, 60.0) / 4))  # noqa: S311 - not for secrets
        while True:
            pause = await self._once(entry, state)
            await asyncio.sleep(pause * random.uniform(0.95, 1.0))  # noqa: S311

    async def _once(self, entry: config.Warm, state: WarmState) -> float:
        """Make one round; returns the seconds until the next."""
        pauses, error = [entry.every or 0.0], ""
        if not self._spare.is_there:
            state.skips += 1
            return BUSY_SECONDS
        try:
            credential = self._live.access.credentials[entry.credential]
            for query_id in await self._queries(entry, credential):
                if not self._spare.is_there:
                    state.skips += 1
                    return BUSY_SECONDS
                with self._spare.used():
                    try:
                        pauses.append(await self._refresher.of_entry(entry, credential, query_id))
                    except GatewayError as failed:  # the other queries of a dashboard are still kept warm
                        error = error or f"query {query_id}: {failed.detail}"
        except GatewayError as failed:
            error = failed.detail
        except Exception:
            log.exception("%s: internal error", state.name)
            error = "Internal error of the gateway; its log says more."
        state.note(error)
        return max(1.0, min(pauses))

    async def _queries(self, entry: config.Warm, credential: Credential) -> list[int]:
        if entry.query is not None:
            return [entry.query]
        assert entry.dashboard is not None  # noqa: S101 - the configuration has one or the other
        return sorted(await self._dashboards.queries_on(credential, entry.dashboard, sender()))
