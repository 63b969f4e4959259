"""The Redash of the isolation fuzz: its rows say where they came from, and it remembers who was allowed to see what.

Nothing here knows the gateway.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from support.clocks import TurnableClock
from support.inside import redash_jobs, watch_sandbox

from gateway.sandbox import Sandbox
from gateway.sandbox.sample_objects import parameter

T = TypeVar("T")

SHARED, LEFT, RIGHT = 1, 2, 3
"""The sources: all users may read the first, `analyst` and `viewer` the second, `second` the third."""

COUNTRIES = ("DE", "FR", "New York", "NewYork")
_MARK = re.compile(rb"@([a-z]+ ?[a-z0-9]*)\.v(\d+)\.p([\w .-]*)\.s(\d+)\.r(\d+)@")
_VERSION = re.compile(r"\.v(\d+)\.p")
_OBJECT = re.compile(rb"obj[ _]n(\d+)[ _]end")


class Mark(NamedTuple):
    """What a row says of itself: its query, the version of the definition, the value, the source and the run."""

    label: str
    version: int
    value: str
    source: int
    run: int


def marks_in(text: bytes) -> set[Mark]:
    """Return where the rows in a response came from."""
    return {Mark(m[0].decode(), int(m[1]), m[2].decode(), int(m[3]), int(m[4])) for m in set(_MARK.findall(text))}


def objects_in(text: bytes) -> set[int]:
    """Return the ids of the queries whose names stand in a response."""
    return {int(query) for query in set(_OBJECT.findall(text))}


def sql(label: str, version: int = 0, value: str = "") -> str:
    """Return SQL whose only row is a mark. It is no mark itself: only a run knows its source and number."""
    return f"select '@{label}.v{version}.p{value}.s' || data_source_id() || '.r' || run_number() || '@' as mark"


def _many(label: str, version: int) -> str:
    """Return SQL with 400 KB of rows, above what is kept in memory as one piece."""
    one = sql(label, version)
    return (
        f"with one as materialized ({one}), part(n) as (select 1 union all select n + 1 from part where n < 400)"
        " select mark, n, hex(zeroblob(500)) as filling from part, one"
    )


class Timeline(Generic[T]):
    """A value that changes: what it was at any time."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._values: list[T] = []

    @property
    def last(self) -> T:
        return self._values[-1]

    def add(self, at: float, value: T) -> None:
        self._times.append(at)
        self._values.append(value)

    def during(self, start: float, end: float) -> list[T]:
        """Return all values that it had between these times, both inclusive."""
        first = max(bisect_right(self._times, start) - 1, 0)
        return self._values[first : bisect_right(self._times, end)]


@dataclass(frozen=True)
class QueryState:
    """A query as it is at some time."""

    exists: bool
    label: str
    version: int
    source: int
    key: str
    default: str
    dropdowns: frozenset[int]


@dataclass(frozen=True)
class Rights:
    """Who may see what at some time: by user key the sources that it may read, and those that it may send SQL to."""

    reads: Mapping[str, frozenset[int]]
    runs: Mapping[str, frozenset[int]]
    queries: Mapping[int, QueryState]
    boards: Mapping[int, frozenset[int]]


class Redash:
    """A sandbox with a history. Every change is followed by `note`."""

    def __init__(self, clock: TurnableClock) -> None:
        self._clock = clock
        self.sandbox = Sandbox(now=clock.wall, orders=1, samples=False, workers=8)
        self.rights: Timeline[Rights] = Timeline()
        self.outage = ""
        """How Redash fails now."""
        self.unavailable: Timeline[bool] = Timeline()
        """Whether it failed, and until it has responded again: only then can anybody know that it does."""
        self.given: set[tuple[str, int]] = set()
        """(key, run): whose rows Redash has sent to which key."""
        self.born: dict[int, float] = {}
        self.denied: dict[tuple[str, int], tuple[int, float]] = {}
        """(key, query) → the phase in which, and when, Redash last refused this query to this key."""
        self.owners: dict[tuple[str, int, int], set[int]] = defaultdict(set)
        """(label, version, source) → the queries that such rows belong to."""
        self.keys: set[str] = set()
        self.phase = 0
        self.times_set_back = 0
        self._labels: dict[int, tuple[str, int]] = {}
        self._make_people()
        self.ids = self._make_queries()
        self.boards = self._make_boards()
        watch_sandbox(self.sandbox, self._arrived, self._sent)
        self.unavailable.add(clock.wall(), False)
        self.note()

    def _make_people(self) -> None:
        database = self.sandbox.database
        self.groups = {name: database.add_group(name).id for name in ("analysts", "others", "viewers")}
        analysts, others, viewers = self.groups.values()
        database.add_source("Shared", {analysts: False, others: False, viewers: True})
        database.add_source("Left", {analysts: False, viewers: True})
        database.add_source("Right", {others: False})
        database.add_user("Ada Admin", "a@example.com", [1, 2, *self.groups.values()])
        for name, group in (("Analyst", analysts), ("Second", others), ("Viewer", viewers)):
            database.add_user(f"Some {name}", f"{name}@example.com", [2, group])
        self.reset_groups()

    def reset_groups(self) -> None:
        """Give everybody the rights of the beginning."""
        analysts, others, viewers = self.groups.values()
        groups = {
            SHARED: {analysts: False, others: False, viewers: True},
            LEFT: {analysts: False, viewers: True},
            RIGHT: {others: False},
        }
        for source, allowed in groups.items():
            self.sandbox.database.sources[source].groups = allowed
        for user in self.sandbox.database.users.values():
            user.disabled_at = None
        for query in self.sandbox.queries.values():
            query.org = 1

    def _make_queries(self) -> dict[str, int]:
        country = parameter("country", "enum", "DE", enumOptions="\n".join(COUNTRIES))
        key = self.sandbox.user_keys["analyst"]
        ids = {
            "plain": self._add("plain", SHARED),
            "enum": self._add("enum", SHARED, country),
            "left": self._add("left", LEFT),
            "right": self._add("right", RIGHT),
            "twin left": self._add("twin", LEFT),
            "twin right": self._add("twin", RIGHT),
            "spaced": self._add("x y", SHARED),
            "closed": self._add("xy", SHARED),
            "number": self._add("number", SHARED, parameter("n", "number", 1)),
            "text": self._add("text", LEFT, parameter("t", "text", "a")),
            "options": self._add("options", LEFT),
            "large": self._add("large", SHARED),
        }
        picks = {**parameter("choice", "query", None), "queryId": ids["options"]}
        ids["picks"] = self._add("picks", SHARED)
        self.sandbox.edit_query(ids["picks"], options={"parameters": [picks]})
        failing = self.sandbox.add_query("", f'select * from "{key}"', data_source_id=SHARED)
        self._labels[failing] = "failing", 0
        self.sandbox.edit_query(failing, name=f"obj n{failing} end")
        return {**ids, "failing": failing}

    def _add(self, label: str, source: int, *parameters: dict[str, Any]) -> int:
        query = self.sandbox.add_query("", "", parameters=parameters, data_source_id=source)
        self._labels[query] = label, 0
        self.sandbox.edit_query(query, name=f"obj n{query} end", query=self.text(query))
        return query

    def text(self, query: int) -> str:
        """Return the SQL of a query in the version that it has now."""
        label, version = self._labels[query]
        parameters = self.sandbox.queries[query].parameters
        value = f"{{{{ {parameters[0]['name']} }}}}" if parameters and label != "picks" else ""
        return _many(label, version) if label == "large" else sql(label, version, value)

    def _make_boards(self) -> tuple[int, ...]:
        database = self.sandbox.database
        boards = []
        for name, shown in (("One", ("plain", "left", "twin left")), ("Two", ("enum", "right", "twin right"))):
            board = database.add_dashboard(name, 1, is_draft=False)
            for query in shown:
                database.add_widget(board.id, database.visualizations_of(self.ids[query])[0].id)
            boards.append(board.id)
        database.dashboards[boards[0]].tokens.append(database.new_key())
        return tuple(boards)

    # -- changes

    def edit_sql(self, query: int) -> str:
        """Count the version up; returns the new SQL, which somebody has to save."""
        label, version = self._labels[query]
        self._labels[query] = label, version + 1
        return self.text(query)

    def note(self) -> None:
        """Remember the state of rights and queries after a change."""
        database = self.sandbox.database
        reads, runs = {}, {}
        for user in database.users.values():
            admin = 1 in user.groups
            of = {
                s: [v for g, v in source.groups.items() if g in user.groups] for s, source in database.sources.items()
            }
            alive = user.disabled_at is None
            reads[user.api_key] = frozenset(s for s, views in of.items() if alive and (admin or views))
            runs[user.api_key] = frozenset(s for s, views in of.items() if alive and (admin or not all(views or [1])))
        queries = {query: self._state(query) for query in database.queries}
        boards = {board: frozenset(database.queries_on(board)) for board in self.boards}
        self.rights.add(self._clock.wall(), Rights(reads, runs, queries, boards))
        for query, state in queries.items():
            self.owners[state.label, state.version, state.source].add(query)
        self.keys |= {*reads, *(state.key for state in queries.values())}
        self.keys |= {token for board in database.dashboards.values() for token in board.tokens}

    def _state(self, query_id: int) -> QueryState:
        query = self.sandbox.queries[query_id]
        label, version = self._labels[query_id][0], int((_VERSION.findall(query.query) or [0])[0])
        dropdowns = frozenset(p["queryId"] for p in query.parameters if p.get("queryId"))
        default = str(query.parameters[0]["value"]) if query.parameters and not dropdowns else ""
        exists, source = query.org == 1, query.data_source_id or 0
        return QueryState(exists, label, version, source, query.api_key, default, dropdowns)

    # -- what it has sent

    def _arrived(self, request: Any) -> None:
        request.fails = bool(self.outage)

    def _sent(self, request: Any, route: str, status: int, body: bytes) -> None:
        key = request.headers.get("Authorization", "").removeprefix("Key ")
        now = self._clock.wall()
        if not request.fails and self.unavailable.last:
            self.unavailable.add(now, False)
        for mark in marks_in(body):
            self.given.add((key, mark.run))
            self.born.setdefault(mark.run, now)
        if route != "/api/queries/<query_id>":
            return
        if request.method == "POST":  # an edit through the gateway
            self.note()
        elif status in (403, 404) and not request.fails:
            self.denied[key, int(request.params["query_id"])] = self.phase, now

    def jobs(self) -> set[str]:
        """Return the ids of Redash's own jobs."""
        return {job.id for job in redash_jobs(self.sandbox)}

    def result_marks(self, result_id: int) -> Iterable[Mark]:
        """Return what Redash has under this id now."""
        result = self.sandbox.database.results.get(result_id)
        return marks_in(json.dumps(result.data).encode()) if result is not None else ()
