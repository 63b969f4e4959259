"""A plain model of DESIGN 6, "Freshness": what a gateway may answer, and what it may ask Redash for.

Written from the design, not from the gateway's code, and it uses none of it. The model learns what the gateway was told
by watching Redash's answers (`Heard`) and then says, for a request, what has to happen (`Verdict`). All times are
seconds of the clock that the gateway and Redash share in the test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

DEFINITION_CHECK = 60.0
ANY_AGE_CONFIRM = 60.0


class Do(Enum):
    """What becomes of a request."""

    HIT = "hit"  # from the store, Redash is asked for no run
    REVALIDATE = "stale-while-revalidate"  # from the store, and Redash is asked behind the answer
    ASK = "asked"  # Redash is asked
    ON_ERROR = "stale-if-error"  # Redash was asked in vain, the store stands in
    REFUSED = "refused"  # Redash does not let this credential
    FAIL = "fail"  # 502-504


class Redash(Enum):
    """How Redash is."""

    UP = "up"
    AWAY = "away"  # connections fail, answers break off, a proxy says 502-504: stale_if_error is for this
    UNUSABLE = "unusable"  # answers, but HTML or garbage: nothing may stand in for that


@dataclass(frozen=True)
class Bounds:
    """Floor, ceiling and stale windows that count for one client and query."""

    floor: float = 0.0
    ceiling: float = math.inf
    while_revalidate: float = 0.0
    if_error: float = 600.0

    @classmethod
    def first(cls, *tables: Mapping[str, float]) -> Bounds:
        """From client, rule and cache section, in that order."""
        names = ("floor", "ceiling", "while_revalidate", "if_error")
        given = {name: next(t[name] for t in tables if name in t) for name in names if any(name in t for t in tables)}
        return cls(**given)

    def effective(self, max_age: int | None) -> float | None:
        """None is any age. "a smaller max_age counts as [floor]", "any-age and larger ones count as [ceiling]"."""
        if max_age is None:
            return None if math.isinf(self.ceiling) else self.ceiling
        return min(max(max_age, self.floor), self.ceiling)


@dataclass(frozen=True)
class Definition:
    """What Redash said of a query, and when it was asked."""

    marker: str
    text: str
    newest: int | None
    checked: float
    archived: bool = False


@dataclass(frozen=True)
class Held:
    """One stored result."""

    run: int
    born: float
    marker: str
    confirmed: float
    result_id: int | None  # Redash's; query keys are not told


@dataclass(frozen=True)
class Asked:
    """One request of a caller, as the model sees it."""

    scope: str
    query: int
    key: Hashable  # query, parameters, limit
    max_age: int | None
    bounds: Bounds

    @property
    def effective(self) -> float | None:
        return self.bounds.effective(self.max_age)

    @property
    def upstream_max_age(self) -> int:
        """Floors and ceilings count upstream as well; -1 is any age there."""
        return -1 if self.effective is None else math.floor(self.effective)


@dataclass(frozen=True)
class Verdict:
    """What has to happen. `check`: Redash is asked for the definition, "first", "behind" the answer, or not at all."""

    do: Do
    check: str = ""
    held: Held | None = None
    ttl: float | None = None


class Fresh(Enum):
    """How far a known definition goes."""

    IN_FORCE = ""
    REFRESH_BEHIND = "behind"
    ASK_FIRST = "first"


@dataclass
class Model:
    """What a gateway knows that was told exactly this."""

    known: dict[tuple[str, int], Definition] = field(default_factory=dict)
    doubted: set[tuple[str, int]] = field(
        default_factory=set
    )  # a run has ended: ask first, fall back if Redash is away
    dropped: set[tuple[str, int]] = field(default_factory=set)  # edited through the gateway: what was known is wrong
    held: dict[tuple[str, Hashable], Held] = field(default_factory=dict)
    results: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)  # (scope, id) → (query, run)

    # -- what the gateway was told

    def told_definition(self, scope: str, query: int, definition: Definition) -> None:
        """A GET of the query's object was answered."""
        self.known[scope, query] = definition
        self.doubted.discard((scope, query))
        self.dropped.discard((scope, query))

    def barred(self, scope: str, query: int) -> None:
        """403 or 404 from that bars all entries of the scope and query, results by id included."""
        self.known.pop((scope, query), None)
        self.doubted.discard((scope, query))
        self.dropped.discard((scope, query))
        self.purged(query, scope)

    def told_result(self, scope: str, query: int, key: Hashable, held: Held) -> None:
        """An execution request was answered with a result; `held.marker` was in force before it left."""
        self.held[scope, key] = held
        if held.result_id is not None:
            self.results[scope, held.result_id] = (query, held.run)

    def run_ended(self, query: int) -> None:
        """ "The end of any execution drops the query's definition", so that "latest" is the new result."""
        self.doubted |= {place for place in self.known if place[1] == query}

    def edited_here(self, query: int) -> None:
        """ "a write through the gateway drops it", and "what it touches": nothing known before is in force any more,
        and nothing stored is needed."""
        self.dropped |= {place for place in self.known if place[1] == query}
        self.purged(query)

    def restarted(self) -> None:
        """The earlier process may have doubted any definition: ask first, fall back on it if Redash is away."""
        self.doubted |= set(self.known)

    def purged(self, query: int | None, scope: str | None = None) -> None:
        """Results are forgotten."""
        gone = [(s, k) for s, k in self.held if scope in (None, s) and query in (None, _query_of(k))]
        for place in gone:
            del self.held[place]
        for (s, i), (q, _) in list(self.results.items()):
            if scope in (None, s) and query in (None, q):
                del self.results[s, i]

    # -- what has to happen

    def check(self, scope: str, query: int, now: float) -> Fresh:
        """Whether the definition has to be asked for: never within one `definition_check`, behind the answer up to
        twice that, then first."""
        definition = self.known.get((scope, query))
        if definition is None or (scope, query) in self.doubted | self.dropped:
            return Fresh.ASK_FIRST
        age = now - definition.checked
        if age <= DEFINITION_CHECK:
            return Fresh.IN_FORCE
        return Fresh.REFRESH_BEHIND if age <= 2 * DEFINITION_CHECK else Fresh.ASK_FIRST

    def definition(
        self, scope: str, query: int, now: float, redash: Redash, truth: Definition | None, if_error: float
    ) -> Definition | Do:
        """The definition in force for a request, or why there is none. `truth` is what Redash would say (None: 403)."""
        known = self.known.get((scope, query))
        if self.check(scope, query, now) is not Fresh.ASK_FIRST:
            assert known is not None
            return known
        if redash is Redash.UP:
            return truth if truth is not None else Do.REFUSED
        in_force = known is not None and (scope, query) not in self.dropped
        if redash is Redash.AWAY and in_force and now - known.checked <= 2 * DEFINITION_CHECK + if_error:  # type: ignore[union-attr]
            return known  # type: ignore[return-value]
        return Do.FAIL

    def judge(
        self,
        asked: Asked,
        now: float,
        redash: Redash,
        truth: Definition | None,
        if_error: float,
        *,
        allowed: bool | None = None,
    ) -> Verdict:
        """What has to become of a request that arrives now. `if_error` is the window for the definition."""
        check = self.check(asked.scope, asked.query, now).value
        definition = self.definition(asked.scope, asked.query, now, redash, truth, if_error)
        if isinstance(definition, Do):
            return Verdict(definition, check)
        held = self.held.get((asked.scope, asked.key))
        slack = self.slack(held, definition, asked.effective, now)
        if slack is not None and slack >= 0:
            return Verdict(Do.HIT, check, held, slack)
        if slack is not None and -slack <= asked.bounds.while_revalidate:
            return Verdict(Do.REVALIDATE, check, held, slack)
        if redash is Redash.UP:
            may_run = truth is not None if allowed is None else allowed
            return Verdict(Do.ASK if may_run else Do.REFUSED, check, held, slack)
        if redash is Redash.AWAY and slack is not None and -slack <= asked.bounds.if_error:
            return Verdict(Do.ON_ERROR, check, held, slack)
        return Verdict(Do.FAIL, check, held, slack)

    @staticmethod
    def slack(held: Held | None, definition: Definition, effective: float | None, now: float) -> float | None:
        """Seconds for which it stays acceptable, negative since when it is not; None: nothing makes it acceptable."""
        if held is None or held.marker != definition.marker or effective == 0:
            return None
        if effective is not None:
            return effective - (now - held.born)
        confirmed = held.confirmed
        # A definition check that names this result as the newest confirms it too.
        if definition.newest == held.result_id is not None and not definition.archived:
            confirmed = max(confirmed, definition.checked)
        return ANY_AGE_CONFIRM - (now - confirmed)


def key_of(query: int, parameters: Mapping[str, object], limit: bool | None) -> Hashable:
    """The cache key: exact parameters (order of names aside), limit as sent."""
    return (query, json.dumps(parameters, sort_keys=True), limit)


def _query_of(key: Hashable) -> int:
    assert isinstance(key, tuple)
    return int(key[0])


def confirmed_at(held: Held, when: float) -> Held:
    """The same result, confirmed as the newest."""
    return replace(held, confirmed=when)
