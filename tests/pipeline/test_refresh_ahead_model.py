"""Refresh ahead and a plain model of it: it spends no more than its budget, and runs nothing nobody asked for.

The model only keeps lists of what happened. It uses none of the gateway's code but what it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway import config
from gateway.config.units import Budget, Quiet
from gateway.model import Definition, Entry
from gateway.policy.access import Caller, Credential
from gateway.policy.budget import Reservation
from gateway.policy.plan import Plan, decide
from gateway.redash.requests import Execute
from gateway.secret import Secret
from gateway.warming.ahead import RefreshAhead
from gateway.warming.demand import LIMIT_BYTES, Demand, Pair

CREDENTIAL = Credential("team", "user", None, "http://redash", Secret("key"), "scope")
CALLER = Caller("team", config.Client(credentials=("team",)))
QUERIES = 5
DAY = 86_400.0


def plan_of(query: int, max_age: int | None, credential: Credential = CREDENTIAL) -> Plan:
    """What a caller asks for."""
    definition = Definition(
        query_id=query,
        name="q",
        text="select 1",
        marker="1",
        query_hash="",
        data_source_id=1,
        latest_result_id=None,
        parameters=(),
        tags=(),
        auto_limit=False,
    )
    return decide(Execute(query, max_age, {}, None), CALLER, credential, definition, config.Cache())


def stored(query: int, runtime: float, born: float) -> Entry:
    return Entry(
        body_id=b"", scope="scope", query_id=query, result_id=1, form="full", marker="1", runtime=runtime, born=born
    )


@dataclass
class Run:
    """A renewal in progress."""

    pair: Pair
    reservation: Reservation
    runtime: float


@dataclass
class Known:
    """What the model knows of a query."""

    runtime: float
    born: float
    requests: list[tuple[float, int]] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)

    @property
    def bound(self) -> int:
        """The smallest age that was asked for since the last renewal."""
        return min(age for at, age in self.requests if at > self.renewed)

    @property
    def renewed(self) -> float:
        return self.renewals[-1] if self.renewals else -1.0


class AheadMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.running: list[Run] = []
        self.spent: list[tuple[float, float]] = []
        self.known: dict[int, Known] = {}

    @initialize(
        budget=st.sampled_from([30.0, 120.0, 600.0]),
        most=st.sampled_from([1, 3, 20]),
        quiet=st.sampled_from([None, Quiet(22 * 60, 6 * 60), Quiet(60, 120)]),
        runtimes=st.lists(st.sampled_from([0.0, 0.5, 20.0, 70.0, 500.0]), min_size=QUERIES, max_size=QUERIES),
    )
    def begin(self, budget: float, most: int, quiet: Quiet | None, runtimes: list[float]) -> None:
        self.budget, self.most, self.quiet = budget, most, quiet
        entry = config.Warm(popular=most, within=DAY, budget=Budget(budget, 3_600.0), quiet=quiet, credential="team")
        self.ahead = RefreshAhead(entry, "scope")
        self.known = {query: Known(runtime, self.now) for query, runtime in enumerate(runtimes, 1)}
        self.entries = {plan_of(query, 1).key: query for query in self.known}

    def peek(self, key: bytes) -> Entry | None:
        query = self.entries.get(key)
        return None if query is None else stored(query, self.known[query].runtime, self.known[query].born)

    @rule(query=st.integers(1, QUERIES), max_age=st.sampled_from([30, 60, 600, 3_600]), times=st.integers(1, 3))
    def ask(self, query: int, max_age: int, times: int) -> None:
        self.now += 0.001  # what comes at the same moment as a renewal may count as before or after it
        for _ in range(times):
            plan = plan_of(query, max_age)
            self.ahead.note(plan, self.now)
            self.ahead.count({plan.key: 1}, self.now, self.peek)
            self.known[query].requests.append((self.now, max_age))

    @rule(query=st.integers(1, QUERIES), max_age=st.sampled_from([0, None]))
    def ask_for_what_no_renewal_helps(self, query: int, max_age: int | None) -> None:
        self.ahead.note(plan_of(query, max_age), self.now)

    @rule(query=st.integers(1, QUERIES))
    def ask_in_another_scope(self, query: int) -> None:
        other = Credential("other", "user", None, "http://redash", Secret("other"), "other scope")
        plan = plan_of(query, 60, other)
        self.ahead.note(plan, self.now)
        self.ahead.count({plan.key: 1}, self.now, self.peek)

    @rule(seconds=st.sampled_from([1.0, 10.0, 29.0, 58.5, 590.0, 1_800.0, 3_599.0, 3_700.0, 40_000.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look(self) -> None:
        minute = int(self.now // 60 % 1440)
        for pair in list(self.ahead.due(self.now, minute, self.peek)):
            entry = self.peek(pair.key)
            assert entry is not None
            self._judge_due(pair, entry, minute)
            taken = sum(seconds for at, seconds in self.spent if self.now - at < 3_600)
            reserved = sum(run.runtime for run in self.running)
            reservation = self.ahead.begin(pair, entry, self.now)
            if reservation is None:
                # Spent seconds are counted by parts of the hour, so they may count up to two of them longer.
                longer = sum(seconds for at, seconds in self.spent if self.now - at < 3_600 * (1 + 2 / 120))
                assert longer + reserved + entry.runtime > self.budget - 1e-3 or longer + reserved >= self.budget - 1e-3
                continue
            assert taken + reserved + entry.runtime <= self.budget + 1e-3
            assert taken + reserved < self.budget
            self.known[self.entries[pair.key]].renewals.append(self.now)
            self.running.append(Run(pair, reservation, entry.runtime))

    def _judge_due(self, pair: Pair, entry: Entry, minute: int) -> None:
        known = self.known[self.entries[pair.key]]
        assert any(at > known.renewed for at, _ in known.requests), "nobody has asked for it since its last renewal"
        assert any(self.now - at <= DAY * (1 + 2 / 24) for at, _ in known.requests)
        left = known.bound - entry.age(self.now)
        assert left <= max(2.0 + 1.25 * known.runtime, 0.0)
        assert left <= known.bound / 2
        assert all(run.pair.key != pair.key for run in self.running), "it is being renewed"
        assert self.quiet is None or not self._is_quiet(minute)

    def _is_quiet(self, minute: int) -> bool:
        quiet = self.quiet
        assert quiet is not None
        hours = range(quiet.begin, quiet.end) if quiet.begin < quiet.end else None
        return minute in hours if hours is not None else not quiet.end <= minute < quiet.begin

    @rule(which=st.integers(0, 5), fails=st.booleans(), took=st.sampled_from([0.3, 1.0, 1.5]))
    def a_renewal_ends(self, which: int, fails: bool, took: float) -> None:
        if not self.running:
            return
        run = self.running.pop(which % len(self.running))
        self.now += 0.5
        seconds = run.runtime * took
        self.ahead.end(run.pair, run.reservation, self.now, seconds, renewed=not fails)
        self.spent.append((self.now, seconds))
        known = self.known[self.entries[run.pair.key]]
        if not fails:
            known.born, known.runtime = self.now, max(0.0, seconds)

    @rule()
    def restart(self) -> None:
        """What was spent, and what was being spent, counts in the next process; renewals in progress are given up."""
        saved = self.ahead.saved(self.now)
        self.spent += [(self.now, run.runtime) for run in self.running]
        self.running = []
        self.ahead = RefreshAhead(self.ahead.entry, "scope")
        self.ahead.restore(saved, self.now)

    @invariant()
    def not_more_are_popular_than_configured(self) -> None:
        if self.known:
            assert len(self.ahead.popular(self.now)) <= self.most


def test_it_starts_nothing_beyond_its_budget_and_nothing_nobody_asked_for() -> None:
    run_state_machine_as_test(
        AheadMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[*HealthCheck],
        ),
    )


def test_what_is_asked_for_takes_bounded_memory_and_the_popular_stay() -> None:
    demand = Demand(DAY)
    popular = plan_of(1, 60)
    for number in range(2, 4_000):
        demand.note(plan_of(number, 60), float(number))
        if number % 100 == 0:
            demand.note(popular, float(number))
            demand.count({popular.key: 1}, float(number))
    assert demand.bytes <= LIMIT_BYTES
    assert 1_000 < len(demand) < 4_000
    assert [pair.query_id for pair in demand.most_asked(1, 4_000.0)] == [1]
