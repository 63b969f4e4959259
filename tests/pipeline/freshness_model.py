"""A plain model of DESIGN 6, "Freshness": what a gateway may respond, and what it may request from Redash.

Written from the design, not from the gateway's code, and it uses none of it. The model learns what the gateway knows
by watching Redash's responses (`Heard`) and then says, for a request, what has to happen (`Verdict`). All times are
seconds of the clock that the gateway and Redash share in the test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

DEFINITION_CHECK = 60.0
ANY_AGE_CONFIRM = 60.0


class Do(Enum):
    """What becomes of a request."""

    HIT = "hit"  # from the store, no run is requested from Redash
    REVALIDATE = "stale-while-revalidate"  # from the store, and Redash is called in the background
    FORWARD = "request"  # Redash is called
    ON_ERROR = "stale-if-error"  # Redash was called in vain, the stored result is used
    REFUSED = "refused"  # Redash denies this credential
    FAIL = "fail"  # 502-504


class Redash(Enum):
    """The state of Redash."""

    UP = "up"
    UNAVAILABLE = (
        "unavailable"  # connections fail, responses break off, a proxy sends 502-504: stale_if_error is for this
    )
    UNUSABLE = "unusable"  # responds, but with HTML or garbage: nothing stored may be used instead


@dataclass(frozen=True)
class Bounds:
    """Floor, ceiling and stale windows that apply to one client and query."""

    floor: float | tuple[float, float, float] = 0.0
    """Seconds; or so many runtimes of the last run, at least, at most."""
    follow: bool = False
    """Whether schedules of Redash are followed."""
    ceiling: float = math.inf
    while_revalidate: float = 0.0
    if_error: float = 600.0

    @classmethod
    def first(cls, *tables: Mapping[str, Any]) -> Bounds:
        """From client, rule and cache section, in that order."""
        names = ("floor", "follow", "ceiling", "while_revalidate", "if_error")
        given = {name: next(t[name] for t in tables if name in t) for name in names if any(name in t for t in tables)}
        return cls(**given)

    def effective(self, max_age: int | None, runtime: float = 0.0) -> float | None:
        """None is any age. "a smaller max_age counts as [floor]", "any-age and larger ones count as [ceiling]"."""
        if max_age is None:
            return None if math.isinf(self.ceiling) else self.ceiling
        floor = self.floor
        if isinstance(floor, tuple):
            times, least, most = floor
            floor = min(max(times * runtime, least), most)
        return min(max(max_age, floor), self.ceiling)


@dataclass(frozen=True)
class Definition:
    """A definition from Redash, and when it was requested."""

    marker: str
    text: str
    newest: int | None
    checked: float
    archived: bool = False
    interval: float | None = None  # of its schedule


@dataclass(frozen=True)
class StoredEntry:
    """One stored result."""

    run: int
    born: float
    marker: str
    confirmed: float
    result_id: int | None  # Redash's; results of query keys have none
    runtime: float = 0.0


@dataclass(frozen=True)
class Request:
    """One request of a caller, as the model sees it."""

    scope: str
    query: int
    key: Hashable  # query, parameters, limit
    max_age: int | None
    bounds: Bounds
    runtime: float = 0.0
    """Of the last run of this key."""
    interval: float | None = None
    """Of the schedule that is followed."""
    purged: float = math.inf
    """Seconds since the query was purged."""

    @property
    def unscheduled(self) -> float | None:
        """What counts for a result that Redash has a newer one of."""
        return self.bounds.effective(self.max_age, self.runtime)

    @property
    def effective(self) -> float | None:
        """ "its result stands in until the next one is due": by intervals alone, the age is the interval."""
        plain = self.unscheduled
        if plain is None or self.interval is None:
            return plain
        return min(max(plain, self.interval), self.bounds.ceiling)

    @property
    def upstream_max_age(self) -> int:
        """Floors and ceilings apply upstream, too; -1 is any age there."""
        return -1 if self.effective is None else math.floor(self.effective)

    @property
    def asked_ages(self) -> set[int]:
        """The max_age of the POST: Redash knows of no purge, and must not give its own rows from before it. Where rows
        from after it are stored, Redash has them, too; this is left open, as is the moment of the POST."""
        if self.purged == math.inf:
            return {self.upstream_max_age}
        bounds = {math.floor(self.purged), math.floor(self.purged + 0.5), 10**13}
        most = self.upstream_max_age
        return {most if bound == 10**13 else bound if most == -1 else min(most, bound) for bound in bounds}


@dataclass(frozen=True)
class Verdict:
    """What has to happen. `check`: the definition is read "first", in the "background", or not at all."""

    do: Do
    check: str = ""
    entry: StoredEntry | None = None
    ttl: float | None = None


class Fresh(Enum):
    """How far a known definition is valid."""

    IN_FORCE = ""
    REFRESH_IN_BACKGROUND = "background"
    READ_FIRST = "first"


@dataclass
class Model:
    """What a gateway knows after exactly these responses."""

    known: dict[tuple[str, int], Definition] = field(default_factory=dict)
    renewed: dict[int | None, float] = field(default_factory=dict)
    """When each query was purged (None: all) by whoever knows of new data; it survives a restart, as does `late`."""
    late: dict[tuple[str, int], float] = field(default_factory=dict)
    """When a run ended that a purge had overtaken, by scope and query: its rows may be old, though its end is new."""
    invalidated: set[tuple[str, int]] = field(default_factory=set)  # a run has ended: read it first
    dropped: set[tuple[str, int]] = field(default_factory=set)  # edited through the gateway: it is wrong
    entries: dict[tuple[str, Hashable], StoredEntry] = field(default_factory=dict)
    results: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)  # (scope, id) → (query, run)

    # -- what the gateway received

    def record_definition(self, scope: str, query: int, definition: Definition) -> None:
        """The query's object was read."""
        self.known[scope, query] = definition
        self.invalidated.discard((scope, query))
        self.dropped.discard((scope, query))

    def deny(self, scope: str, query: int) -> None:
        """403 or 404 for it denies all entries of the scope and query, results by id included."""
        self.known.pop((scope, query), None)
        self.invalidated.discard((scope, query))
        self.dropped.discard((scope, query))
        self.purged(query, scope)

    def record_result(self, scope: str, query: int, key: Hashable, entry: StoredEntry) -> None:
        """An execution request returned a result; `entry.marker` was in force before it was sent."""
        self.entries[scope, key] = entry
        if entry.result_id is not None:
            self.results[scope, entry.result_id] = (query, entry.run)

    def run_ended(self, query: int) -> None:
        """ "The end of any execution drops the query's definition", so that "latest" is the new result."""
        self.invalidated |= {place for place in self.known if place[1] == query}

    def edited_here(self, query: int) -> None:
        """ "a write through the gateway drops it", and "what it touches": nothing known before is in force any more,
        and nothing stored is needed."""
        self.dropped |= {place for place in self.known if place[1] == query}
        self.purged(query)

    def new_data(self, scope: str, query: int) -> float:
        """Since when (wall clock) rows must be: Redash may not give older ones from its own cache."""
        said = (self.renewed.get(which, -math.inf) for which in (query, None))
        return max(*said, self.late.get((scope, query), -math.inf))

    def restarted(self) -> None:
        """The earlier process may have invalidated any definition: read it first; use it if Redash is unavailable."""
        self.invalidated |= set(self.known)

    def purged(self, query: int | None, scope: str | None = None) -> None:
        """Results are deleted."""
        gone = [(s, k) for s, k in self.entries if scope in (None, s) and query in (None, _query_of(k))]
        for place in gone:
            del self.entries[place]
        for (s, i), (q, _) in list(self.results.items()):
            if scope in (None, s) and query in (None, q):
                del self.results[s, i]

    # -- what has to happen

    def check(self, scope: str, query: int, now: float) -> Fresh:
        """Whether the definition has to be read: not within half of `definition_check`, in the background up to the
        whole, then first."""
        definition = self.known.get((scope, query))
        if definition is None or (scope, query) in self.invalidated | self.dropped:
            return Fresh.READ_FIRST
        age = now - definition.checked
        if age <= DEFINITION_CHECK / 2:
            return Fresh.IN_FORCE
        return Fresh.REFRESH_IN_BACKGROUND if age <= DEFINITION_CHECK else Fresh.READ_FIRST

    def definition(
        self, scope: str, query: int, now: float, redash: Redash, truth: Definition | None, if_error: float
    ) -> Definition | Do:
        """The definition in force for a request, or why there is none. `truth` is what Redash has (None: 403)."""
        known = self.known.get((scope, query))
        if self.check(scope, query, now) is not Fresh.READ_FIRST:
            assert known is not None
            return known
        if redash is Redash.UP:
            return truth if truth is not None else Do.REFUSED
        in_force = known is not None and (scope, query) not in self.dropped
        if redash is Redash.UNAVAILABLE and in_force and now - known.checked <= DEFINITION_CHECK + if_error:  # type: ignore[union-attr]
            return known  # type: ignore[return-value]
        return Do.FAIL

    def judge(
        self,
        request: Request,
        now: float,
        redash: Redash,
        truth: Definition | None,
        if_error: float,
        *,
        allowed: bool | None = None,
    ) -> Verdict:
        """What has to happen with a request that arrives now. `if_error` is the window for the definition."""
        check = self.check(request.scope, request.query, now).value
        definition = self.definition(request.scope, request.query, now, redash, truth, if_error)
        if isinstance(definition, Do):
            return Verdict(definition, check)
        entry = self.entries.get((request.scope, request.key))
        newer = entry is not None and (entry.result_id or math.inf) < (definition.newest or 0)
        slack = self.slack(entry, definition, request.unscheduled if newer else request.effective, now)
        slack = None if request.effective == 0 else slack
        if slack is not None and slack >= 0:
            return Verdict(Do.HIT, check, entry, slack)
        if slack is not None and -slack <= request.bounds.while_revalidate:
            return Verdict(Do.REVALIDATE, check, entry, slack)
        if redash is Redash.UP:
            may_run = truth is not None if allowed is None else allowed
            return Verdict(Do.FORWARD if may_run else Do.REFUSED, check, entry, slack)
        if redash is Redash.UNAVAILABLE and slack is not None and -slack <= request.bounds.if_error:
            return Verdict(Do.ON_ERROR, check, entry, slack)
        return Verdict(Do.FAIL, check, entry, slack)

    @staticmethod
    def slack(entry: StoredEntry | None, definition: Definition, effective: float | None, now: float) -> float | None:
        """Seconds for which it stays acceptable, negative since it no longer is; None: nothing makes it acceptable."""
        if entry is None or entry.marker != definition.marker or effective == 0:
            return None
        if effective is not None:
            return effective - (now - entry.born)
        confirmed = entry.confirmed
        # A definition check that names this result as the newest confirms it, too.
        if definition.newest == entry.result_id is not None and not definition.archived:
            confirmed = max(confirmed, definition.checked)
        return ANY_AGE_CONFIRM - (now - confirmed)


def key_of(query: int, parameters: Mapping[str, object], limit: bool | None) -> Hashable:
    """The cache key: exact parameters (except the order of names), limit as sent."""
    return (query, json.dumps(parameters, sort_keys=True), limit)


def _query_of(key: Hashable) -> int:
    assert isinstance(key, tuple)
    return int(key[0])


def confirmed_at(entry: StoredEntry, when: float) -> StoredEntry:
    """The same result, confirmed as the newest."""
    return replace(entry, confirmed=when)
