"""What a client spends of several budgets: nothing starts beyond any of them, and nothing leaks, however runs end."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.config.units import Budget
from gateway.policy.spending import OpenRun, Record, Spending

BUDGETS = (Budget(600.0, 3600.0), Budget(1500.0, 86400.0))
BEGAN = 1_800_000_000.0


class SpendingMachine(RuleBasedStateMachine):
    """A gateway with one client: runs start and end in any order, the process ends and begins again, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGAN
        self.spending = Spending(BUDGETS)
        self.running: dict[str, float] = {}
        self.ended: list[tuple[float, float]] = []
        self.count = 0

    def taken(self, per: float) -> float:
        """What counts by the words of docs/access.md, without the steps of 1/120."""
        spent = sum(seconds for at, seconds in self.ended if self.now - at < per)
        return spent + sum(self.running.values())

    @rule(seconds=st.floats(0, 900))
    def start(self, seconds: float) -> None:
        self.count += 1
        run, opens = f"run-{self.count}", self.spending.opens_in(self.now, seconds)
        if self.spending.reserve(run, self.now, seconds):
            assert opens == 0
            for budget in BUDGETS:
                assert self.taken(budget.per_seconds) + seconds <= budget.seconds + 1e-3
            self.running[run] = seconds
        else:
            assert opens > 0
            assert (opens == math.inf) == any(seconds > budget.seconds + 1e-6 for budget in BUDGETS)
            late = [self.taken(one.per_seconds * (1 + 2 / 120)) + seconds > one.seconds - 1e-3 for one in BUDGETS]
            assert any(late)  # it is refused for a reason

    @rule(seconds=st.floats(0, 700), data=st.data())
    def end(self, seconds: float, data: st.DataObject) -> None:
        if self.running:
            run = data.draw(st.sampled_from(sorted(self.running)))
            del self.running[run]
            for _ in range(2):  # the second time nothing happens
                self.spending.settle(run, self.now, seconds)
            self.ended.append((self.now, seconds))

    @rule(seconds=st.floats(0, 4000))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(gives_up=st.booleans())
    def restart(self, gives_up: bool) -> None:
        """The record goes through JSON. What nobody follows counts as it was reserved."""
        text = msgspec.json.encode(self.spending.record())
        self.spending = Spending(BUDGETS)
        self.spending.restore(msgspec.json.decode(text, type=Record), self.now)
        if gives_up:
            self.spending.give_up(list(self.running), self.now)
            self.ended += [(self.now, seconds) for seconds in self.running.values()]
            self.running = {}

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.spending.open.keys() == self.running.keys()
        for state, budget in zip(self.spending.states(self.now), BUDGETS, strict=True):
            assert state.reserved == pytest.approx(sum(self.running.values()))
            most = sum(s for at, s in self.ended if self.now - at <= budget.per_seconds * (1 + 1 / 120))
            least = sum(s for at, s in self.ended if self.now - at < budget.per_seconds)
            assert least - 1e-3 <= state.spent <= most + 1e-3
            assert (state.resets_in > 0) == (state.spent > 0)


TestSpending = SpendingMachine.TestCase
TestSpending.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_who_waits_for_a_run_is_sent_back_when_it_should_end() -> None:
    spending = Spending(BUDGETS)
    assert spending.reserve("first", BEGAN, 400.0)
    assert spending.opens_in(BEGAN + 100, 300.0) == pytest.approx(300.0)
    assert spending.opens_in(BEGAN + 500, 300.0) == 1.0  # it is late


def test_a_record_of_the_future_does_not_count_for_longer() -> None:
    """The clock may have been set back over a restart."""
    spending = Spending(BUDGETS)
    spending.restore(Record({3600.0: [(BEGAN + 10**6, 600.0)]}, {"run": OpenRun(10.0, BEGAN + 10**6)}), BEGAN)
    assert 0 < spending.states(BEGAN)[0].resets_in <= 3600 * (1 + 1 / 120)
