"""Runs the `[[warm]]` entries of the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final

from gateway import config
from gateway.model import Clock
from gateway.outcome import OutcomeBatch
from gateway.policy.configured import Live
from gateway.policy.plan import Plan
from gateway.warming.ahead import AheadStats, RefreshAhead
from gateway.warming.demand import LIMIT_BYTES
from gateway.warming.records import Records
from gateway.warming.refreshing import Refresher
from gateway.warming.renewer import Renewer
from gateway.warming.rounds import Rounds
from gateway.warming.spare import Spare
from gateway.warming.state import WarmState

Work = Coroutine[None, None, None]

RECORD_SECONDS: Final = 1.0
"""Requests for a prepared response are recorded up to so much later. They must not count as since a renewal."""


class Warmer:
    """Keeps queries and dashboards fresh by the clock, and renews what is popular."""

    def __init__(
        self, live: Live, refresher: Refresher, rounds: Rounds, records: Records, spare: Spare, clock: Clock
    ) -> None:
        self._live = live
        self._refresher = refresher
        self._rounds = rounds
        self._records = records
        self._spare = spare
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self.aheads: dict[str, RefreshAhead] = {}
        """What is popular, by the credential."""
        self.states: list[WarmState] = []
        live.on_change.append(self.start)

    def start(self) -> None:
        """Start the entries of the configuration in force, and end those of the previous one."""
        entries = self._live.settings.warm
        for task in self._tasks:
            task.cancel()
        before, self.aheads = self.aheads, {}
        self.states = [WarmState(_name(entry), entry.every or 0.0) for entry in entries]
        self._tasks = [
            asyncio.create_task(self._task(entry, state, before))
            for entry, state in zip(entries, self.states, strict=True)
        ]
        scopes = {ahead.scope for ahead in self.aheads.values()}
        gone = [ahead for ahead in before.values() if ahead.scope not in scopes]
        self._tasks += [asyncio.create_task(self._records.release(ahead)) for ahead in gone]

    def _task(
        self, entry: config.Warm, state: WarmState, before: dict[str, RefreshAhead]
    ) -> Coroutine[None, None, None]:
        if entry.popular is None:
            return self._rounds.run(entry, state)
        ahead = RefreshAhead(entry, self._live.access.credentials[entry.credential].scope)
        self.aheads[entry.credential] = ahead
        earlier, now = before.get(entry.credential), self._clock.monotonic()
        if earlier is not None and earlier.scope == ahead.scope:
            ahead.restore(earlier.saved(now), now)
        parts = self._live, self._refresher, self._records, self._spare, self._clock
        return Renewer(ahead, state, *parts).run()

    def note(self, plan: Plan) -> None:
        """Note what a caller asks for."""
        for ahead in self.aheads.values():
            ahead.note(plan, self._clock.monotonic())

    def count(self, batch: OutcomeBatch) -> None:
        """Count requests that were recorded."""
        for ahead in self.aheads.values() if batch.keys else ():
            ahead.count(batch.keys, self._clock.monotonic() - RECORD_SECONDS, self._records.peek)

    def counts(self) -> dict[str, int]:
        """Rounds of all entries by what became of them, since the configuration was loaded."""
        names = {"success": "runs", "failure": "failures", "skipped": "skips"}
        return {result: sum(getattr(state, name) for state in self.states) for result, name in names.items()}

    @property
    def ahead(self) -> AheadStats:
        """What refresh ahead did and saved, all entries together."""
        return AheadStats.together(ahead.stats for ahead in self.aheads.values())

    @property
    def memory(self) -> tuple[int, int]:
        """How many bytes the pairs that are asked for take, and how many they may take."""
        return sum(ahead.demand.bytes for ahead in self.aheads.values()), len(self.aheads) * LIMIT_BYTES

    async def stop(self) -> None:
        """End every entry."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for ahead in self.aheads.values():
            await self._records.release(ahead)


def _name(entry: config.Warm) -> str:
    if entry.popular is not None:
        return f"popular {entry.popular} of {entry.credential}"
    return f"warm query {entry.query}" if entry.query is not None else f"warm dashboard {entry.dashboard}"
