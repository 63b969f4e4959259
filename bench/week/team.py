"""A team and its week: dashboards, queries, who opens what when, edits, schedules. All of it follows from the seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.model import Definition, Parameter, Schedule

HOUR, DAY = 3_600.0, 86_400.0
DASHBOARDS, QUERIES = 20, 200
MONITORS = 4
"""Dashboards on a wall, which load themselves again while the office is open."""

EDITS_A_DAY = 8
OPENINGS_AN_HOUR = 45.0
FORCED = 0.02
"""Part of the openings with the refresh button: max_age 0."""

MAX_AGES = (60, 300, 300, 600, 900)
COUNTRIES = ("DE", "FR", "IT")


@dataclass
class Query:
    """A query of the team."""

    id: int
    runtime: float
    parameters: tuple[Parameter, ...]
    schedule: Schedule | None
    edits: int = 0

    def definition(self, latest: int | None, checked: float) -> Definition:
        """As Redash has it now."""
        return Definition(
            query_id=self.id,
            name=f"Query {self.id}",
            text="select {{ country }}" if self.parameters else "select 1",
            marker=str(self.edits),
            query_hash="",
            data_source_id=1,
            latest_result_id=latest,
            parameters=self.parameters,
            tags=(),
            auto_limit=False,
            schedule=self.schedule,
            checked=checked,
        )


@dataclass
class Dashboard:
    """A dashboard: its queries, and the age that it asks for."""

    queries: list[int]
    max_age: int


@dataclass(frozen=True)
class Panel:
    """One request of an opened dashboard."""

    query: int
    max_age: int
    values: dict[str, object]


@dataclass(frozen=True)
class Opening:
    """Somebody opens a dashboard, or a query is edited."""

    at: float
    panels: tuple[Panel, ...] = ()
    edited: int = 0


@dataclass
class Team:
    """Who asks for what. Monday begins at 0, all times are seconds in UTC."""

    seed: int
    days: int = 7
    queries: dict[int, Query] = field(default_factory=dict)
    dashboards: list[Dashboard] = field(default_factory=list)

    def __post_init__(self) -> None:
        chance = random.Random(f"team {self.seed}")
        self.queries = {number: _query(number, chance) for number in range(1, QUERIES + 1)}
        popularity = _zipf(QUERIES)
        for _ in range(DASHBOARDS):
            shown = set(chance.choices(list(self.queries), popularity, k=chance.randint(8, 18)))
            self.dashboards.append(Dashboard(sorted(shown), chance.choice(MAX_AGES)))

    def week(self) -> list[Opening]:
        """Everything that happens, in order."""
        chance = random.Random(f"week {self.seed}")
        return sorted((*self._visits(chance), *self._monitors(chance), *self._edits(chance)), key=lambda o: o.at)

    def _visits(self, chance: random.Random) -> Iterator[Opening]:
        now, most, popularity = 0.0, OPENINGS_AN_HOUR / HOUR, _zipf(DASHBOARDS)
        while (now := now + chance.expovariate(most)) < self.days * DAY:
            if chance.random() < _activity(now):
                board = chance.choices(self.dashboards, popularity)[0]
                forced = chance.random() < FORCED
                country = chance.choices(COUNTRIES, (6, 3, 1))[0]
                yield Opening(now, self._panels(board, 0 if forced else board.max_age, country))

    def _monitors(self, chance: random.Random) -> Iterator[Opening]:
        for board in self.dashboards[:MONITORS]:
            now = chance.uniform(0, 300)
            while (now := now + max(board.max_age, 300) + chance.uniform(0, 5)) < self.days * DAY:
                if _activity(now) > 0.5:
                    yield Opening(now, self._panels(board, board.max_age, COUNTRIES[0]))

    def _edits(self, chance: random.Random) -> Iterator[Opening]:
        for _ in range(EDITS_A_DAY * self.days):
            now = chance.uniform(0, self.days * DAY)
            if _activity(now) > 0.5:
                yield Opening(now, edited=chance.choice(list(self.queries)))

    def _panels(self, board: Dashboard, max_age: int, country: str) -> tuple[Panel, ...]:
        values = {number: {"country": country} if self.queries[number].parameters else {} for number in board.queries}
        return tuple(Panel(number, max_age, dict(values[number])) for number in board.queries)


def _query(number: int, chance: random.Random) -> Query:
    runtime = min(180.0, max(0.05, chance.lognormvariate(math.log(4.0), 1.3)))
    country = Parameter(name="country", type="enum", value=COUNTRIES[0], enumOptions=COUNTRIES)
    parameters = (country,) if chance.random() < 0.3 else ()
    schedules = (None, None, None, Schedule(HOUR), Schedule(4 * HOUR), Schedule(DAY, 6 * 60))
    return Query(number, runtime, parameters, chance.choice(schedules))


def _zipf(count: int) -> list[float]:
    return [1 / (rank + 1) for rank in range(count)]


def _activity(now: float) -> float:
    """How busy the team is, from 0 to 1: on weekdays from 8 to 18 h."""
    day, hour = int(now // DAY) % 7, now % DAY / HOUR
    if day >= 5:
        return 0.02
    return 1.0 if 8 <= hour < 18 else 0.15 if 7 <= hour < 20 else 0.01
