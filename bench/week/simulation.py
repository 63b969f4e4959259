"""The week in front of Redash: the gateway's decisions, with a simulated clock, store and Redash."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from bench.week.team import DAY, Opening, Panel, Query, Team
from gateway import config
from gateway.model import Definition, Entry, Key
from gateway.policy.access import Caller, Credential
from gateway.policy.budget import Reservation
from gateway.policy.plan import Plan, adapted, decide
from gateway.redash.requests import Execute
from gateway.redash.schedule import stands_for
from gateway.secret import Secret
from gateway.warming.ahead import RefreshAhead
from gateway.warming.demand import Pair

EPOCH = datetime(2027, 1, 4, tzinfo=UTC).timestamp()
"""A Monday."""

SCHEDULER_SECONDS = 30.0
LOOK_SECONDS = 2.0
"""So often refresh ahead looks what is due; the gateway does each second."""

SCOPE = "team"
CREDENTIAL = Credential("team", "user", None, "http://redash", Secret("key"), SCOPE)


@dataclass
class Figures:
    """What became of the requests of the week."""

    requests: int = 0
    at_once: int = 0
    waited: float = 0.0
    executions: int = 0
    ahead: int = 0
    scheduled: int = 0
    seconds: float = 0.0
    ages: list[float] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """All runs in Redash."""
        return self.executions + self.scheduled

    @property
    def waits(self) -> int:
        """Requests that were not answered from the store."""
        return self.requests - self.at_once

    @property
    def share(self) -> float:
        """The part of the requests that was answered from the store."""
        return self.at_once / self.requests

    def age(self, part: float) -> float:
        """The age, in seconds, that so large a part of the responses had at most."""
        return sorted(self.ages)[min(len(self.ages) - 1, int(part * len(self.ages)))]


@dataclass
class Result:
    """A result that Redash has."""

    id: int
    made: float
    runtime: float
    marker: str


@dataclass
class Running:
    """A run in Redash, and what happens when it ends."""

    query: int
    ends: float
    runtime: float
    marker: str
    asks: list[float] = field(default_factory=list)
    then: list[Callable[[Result], None]] = field(default_factory=list)


class Week:
    """One team with one configuration."""

    def __init__(self, team: Team, settings: config.Config) -> None:
        self.team = team
        self.figures = Figures()
        self._cache = settings.cache
        self._caller = Caller("team", config.Client(credentials=("team",)))
        self._ahead = RefreshAhead(settings.warm[0], SCOPE) if settings.warm else None
        self._store: dict[Key, Entry] = {}
        self._redash: dict[Key, Result] = {}
        self._latest: dict[int, Result] = {}
        self._known: dict[int, Definition] = {}
        self._running: dict[Key, Running] = {}
        self._ids = itertools.count(1)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []

    def run(self) -> Figures:
        """Let the week pass."""
        for opening in self.team.week():
            self._at(opening.at, lambda now, opening=opening: self._open(opening, now))  # type: ignore[misc]
        end = self.team.days * DAY
        self._every(SCHEDULER_SECONDS, end, self._refresh_by_schedule)
        if self._ahead is not None:
            self._every(LOOK_SECONDS, end, self._look_ahead)
        while self._events:
            now, _, act = heapq.heappop(self._events)
            act(now)
        return self.figures

    def _at(self, moment: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), act))

    def _every(self, seconds: float, end: float, act: Callable[[float], None]) -> None:
        def again(now: float) -> None:
            act(now)
            if now + seconds < end:
                self._at(now + seconds, again)

        self._at(seconds, again)

    # -- callers

    def _open(self, opening: Opening, now: float) -> None:
        if opening.edited:
            self.team.queries[opening.edited].edits += 1
            self._latest.pop(opening.edited, None)
        for panel in opening.panels:
            self._ask(panel, now)

    def _ask(self, panel: Panel, now: float) -> None:
        definition = self._definition(self.team.queries[panel.query], now)
        operation = Execute(panel.query, panel.max_age, panel.values, None)
        plan = decide(operation, self._caller, CREDENTIAL, definition, self._cache)
        entry = self._store.get(plan.key)
        if plan.is_adaptive:
            plan = adapted(plan, entry, EPOCH + now)
        figures = self.figures
        figures.requests += 1
        if self._ahead is not None:
            self._ahead.note(plan, now)
            self._ahead.count({plan.key: 1}, now, self._store.get)
        slack = plan.accepts(entry, now) if entry is not None else None
        if entry is not None and slack is not None and slack >= 0:
            figures.at_once += 1
            figures.ages.append(entry.age(now))
        else:
            self._post(plan, now).asks.append(now)

    def _definition(self, query: Query, now: float) -> Definition:
        """As known, at most a minute old, and from half a minute on read again in the background."""
        known = self._known.get(query.id)
        if known is None or now - known.checked > 30:
            latest = self._latest.get(query.id)
            read = query.definition(latest.id if latest is not None else None, now)
            self._known[query.id] = read
            return read if known is None or now - known.checked > 60 else known
        return known

    # -- Redash

    def _post(self, plan: Plan, now: float) -> Running:
        """Send the POST: a result that is young enough comes after a round trip, else the query runs."""
        running = self._running.get(plan.key)
        if running is not None and running.marker == plan.marker:
            return running
        has, max_age = self._redash.get(plan.key), plan.upstream_max_age()
        if has is not None and has.marker == plan.marker and (max_age is None or now - has.made <= max_age):
            self._put(plan, has, now)
            inline = Running(plan.query_id, now, has.runtime, plan.marker)
            self._at(now, lambda moment: self._respond(inline, has, moment))
            return inline
        self.figures.executions += 1
        return self._start(plan, now)

    def _start(self, plan: Plan, now: float) -> Running:
        query = self.team.queries[plan.query_id]
        running = Running(query.id, now + query.runtime, query.runtime, plan.marker)
        self._running[plan.key] = running
        self.figures.seconds += query.runtime
        self._at(running.ends, lambda moment: self._end(plan, running, moment))
        return running

    def _end(self, plan: Plan, running: Running, now: float) -> None:
        if self._running.get(plan.key) is running:
            del self._running[plan.key]
        result = Result(next(self._ids), now, running.runtime, running.marker)
        self._redash[plan.key] = result
        defaults = {parameter.name: parameter.value for parameter in self.team.queries[running.query].parameters}
        if isinstance(plan.operation, Execute) and plan.operation.parameters == defaults:
            self._latest[running.query] = result
        if running.asks or running.then:  # a run that only Redash's schedule began is not fetched
            self._put(plan, result, now)
            self._known.pop(running.query, None)
        self._respond(running, result, now)
        for act in running.then:
            act(result)

    def _respond(self, running: Running, result: Result, now: float) -> None:
        for since in running.asks:
            self.figures.waited += now - since
            self.figures.ages.append(now - result.made)

    def _put(self, plan: Plan, result: Result, now: float) -> None:
        self._store[plan.key] = Entry(
            body_id=b"",
            scope=SCOPE,
            query_id=plan.query_id,
            result_id=result.id,
            form="full",
            marker=result.marker,
            retrieved_at=datetime.fromtimestamp(EPOCH + result.made, UTC).isoformat(),
            runtime=result.runtime,
            born=result.made,
            confirmed=now,
        )

    def _refresh_by_schedule(self, now: float) -> None:
        for query in self.team.queries.values():
            last = self._latest.get(query.id)
            if query.schedule is None or (
                last is not None and now - last.made < stands_for(query.schedule, EPOCH + last.made)
            ):
                continue
            plan = self._plan(query, {p.name: p.value for p in query.parameters}, now)
            if plan.key not in self._running:
                self.figures.scheduled += 1
                self._start(plan, now)

    def _plan(self, query: Query, values: dict[str, object], now: float) -> Plan:
        latest = self._latest.get(query.id)
        definition = query.definition(latest.id if latest is not None else None, now)
        return decide(Execute(query.id, 0, values, None), self._caller, CREDENTIAL, definition, config.Cache())

    # -- refresh ahead

    def _look_ahead(self, now: float) -> None:
        assert self._ahead is not None
        for pair in self._ahead.due(now, int((EPOCH + now) // 60 % 1440), self._store.get):
            reservation = self._ahead.begin(pair, self._store[pair.key], now)
            if reservation is not None:
                self._renew(self._ahead, pair, reservation, now)

    def _renew(self, ahead: RefreshAhead, pair: Pair, reservation: Reservation, now: float) -> None:
        plan = self._plan(self.team.queries[pair.query_id], pair.parameters, now)
        plan = msgspec.structs.replace(plan, max_age=pair.bound / 2)
        before = self.figures.executions
        running = self._post(plan, now)
        ran = self.figures.executions - before
        self.figures.ahead += ran

        def settle(result: Result) -> None:
            ahead.end(pair, reservation, result.made, result.runtime * ran, renewed=True)

        if running.ends > now:
            running.then.append(settle)
        else:
            ahead.end(pair, reservation, now, 0.0, renewed=True)
