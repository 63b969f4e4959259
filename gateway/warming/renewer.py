"""Refresh ahead at work: looks each second what is due, and renews it."""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from gateway.errors import GatewayError
from gateway.model import Clock
from gateway.policy.budget import Reservation
from gateway.policy.configured import Live
from gateway.warming.ahead import RefreshAhead
from gateway.warming.demand import Pair
from gateway.warming.records import Records
from gateway.warming.refreshing import Refresher
from gateway.warming.spare import Spare
from gateway.warming.state import WarmState

log = logging.getLogger("gateway.warm")

TICK_SECONDS: Final = 1.0
SAVE_SECONDS: Final = 60.0
SHARE_SECONDS: Final = 15.0
"""So often gateways that share a store tell what they were asked for."""


class Renewer:
    """Does one entry with `popular`."""

    def __init__(
        self,
        ahead: RefreshAhead,
        state: WarmState,
        live: Live,
        refresher: Refresher,
        records: Records,
        spare: Spare,
        clock: Clock,
    ) -> None:
        self._ahead = ahead
        self._state = state
        self._live = live
        self._refresher = refresher
        self._records = records
        self._spare = spare
        self._clock = clock
        self._leads = False
        self._next: dict[str, float] = {}  # when what is done from time to time is done next
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Renew what is due, until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                try:
                    await self.step()
                except Exception:
                    log.exception("%s: internal error", self._state.name)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._leads:
                await self._records.save(self._ahead)

    async def step(self) -> None:
        """Look once what is due."""
        ahead, leads = self._ahead, await self._records.is_ours(self._ahead)
        if leads and not self._leads:
            await self._records.load(ahead)
        self._leads = leads
        if not leads:
            if self._is_time("share", SHARE_SECONDS):
                await self._records.share(ahead)
            return
        if self._is_time("merge", SHARE_SECONDS):
            await self._records.merge(ahead)
            for pair in ahead.popular(self._clock.monotonic()):
                await self._records.bring(pair.key)
        now = self._clock.monotonic()
        for pair in ahead.due(now, self._minute(), self._records.peek):
            if not self._spare.is_there:
                self._state.skips += 1
                break
            self._begin(pair, now)
        if self._is_time("save", SAVE_SECONDS):
            await self._records.save(ahead)

    def _is_time(self, what: str, every: float) -> bool:
        now = self._clock.monotonic()
        if now < self._next.get(what, -math.inf):
            return False
        self._next[what] = now + every
        return True

    def _minute(self) -> int:
        """Return the minute of the day in the time zone of the configuration."""
        zone = ZoneInfo(self._live.settings.cache.timezone)
        local = datetime.fromtimestamp(self._clock.wall(), UTC).astimezone(zone)
        return local.hour * 60 + local.minute

    def _begin(self, pair: Pair, now: float) -> None:
        entry = self._records.peek(pair.key)
        reservation = self._ahead.begin(pair, entry, now) if entry is not None else None
        if reservation is not None:
            task = asyncio.create_task(self._renew(pair, reservation, now))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _renew(self, pair: Pair, reservation: Reservation, began: float) -> None:
        seconds, error = 0.0, "cancelled"
        with self._spare.used():
            try:
                await self._records.save(self._ahead)  # with what is reserved: a kill does not make room in the budget
                credential = self._live.access.credentials[self._ahead.entry.credential]
                refreshed = await self._refresher.of_pair(pair, credential)
                if refreshed.ran:
                    seconds = refreshed.stored.entry.runtime or self._clock.monotonic() - began
                error = ""
            except GatewayError as failed:
                error, seconds = f"query {pair.query_id}: {failed.detail}", self._clock.monotonic() - began
            finally:
                self._ahead.end(pair, reservation, self._clock.monotonic(), seconds, renewed=not error)
                self._state.note(error)
        await self._records.save(self._ahead)
