"""Refreshes queries by their schedule, as Redash's scheduler does; read in its source, not recorded."""

from __future__ import annotations

import asyncio
import calendar
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from .api_execute import store_result
from .jobs import Job
from .objects import Query
from .parameters import DetachedError, InvalidParametersError
from .state import State
from .timestamps import SECOND

EVERY_SECONDS: Final = 30.0


class Scheduler:
    """Looks for queries that are due. Tests turn the clock and call `refresh_due`."""

    def __init__(self, state: State) -> None:
        self._database = state.database
        self._jobs = state.jobs
        self._refreshed: dict[int, int] = {}  # when each query was last started by its schedule
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look every 30 seconds from now on."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.refresh_due()

    def refresh_due(self) -> list[int]:
        """Starts the queries that are due now, with their default values; returns their ids."""
        due = [query for query in self._database.queries.values() if self._is_due(query)]
        return [query.id for query in due if self._start(query)]

    def _is_due(self, query: Query) -> bool:
        if query.is_archived or not isinstance(query.schedule, dict) or query.schedule.get("disabled"):
            return False
        now, schedule = self._database.now(), query.schedule
        until = schedule.get("until")
        if until and datetime.fromisoformat(f"{until}T00:00:00Z").timestamp() <= now / SECOND:
            return False
        newest = self._database.results.get(query.latest_query_data_id or 0)
        before = self._refreshed.get(query.id) or (newest.retrieved_at if newest is not None else now)
        return should_refresh(_moment(before), _moment(now), schedule)

    def _start(self, query: Query) -> bool:
        database = self._database
        values = {each["name"]: each.get("value") for each in query.parameters}
        try:
            text = database.applied(query.query, query.parameters, values, query.org)
        except (InvalidParametersError, DetachedError):
            return False
        sql = database.executed(text, bool(query.options.get("apply_auto_limit")))
        job = Job(sql, database.hash_of(sql), query.data_source_id or 0, query.id, partial(store_result, database))
        job.typed = database.is_typed(query.data_source_id)
        self._refreshed[query.id] = database.now()
        self._jobs.start(job)
        return True


def should_refresh(previous: datetime, now: datetime, schedule: dict[str, Any]) -> bool:
    """As `should_schedule_next` of Redash computes it, without its delay after failures."""
    interval, time, day_of_week = int(schedule["interval"]), schedule.get("time"), schedule.get("day_of_week")
    if time is None:
        return now > previous + timedelta(seconds=interval)
    hour, minute = map(int, time.split(":"))
    normalized = previous.replace(hour=hour, minute=minute)
    if normalized > previous:
        previous = normalized - timedelta(days=1)
    days = 0 if day_of_week is None else list(calendar.day_name).index(day_of_week) - normalized.weekday()
    after = previous + timedelta(days=interval / 86_400) + timedelta(days=days)
    return now > after.replace(hour=hour, minute=minute)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / SECOND, UTC)
