"""The executions that have not ended, and which of them a caller may join."""

from __future__ import annotations

from gateway.executions.execution import Execution, Phase
from gateway.model import Key
from gateway.policy.configured import Live
from gateway.policy.plan import Plan, stricter


class InProgress:
    """At most one run and one check of each key are joined; earlier ones may be about to end."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._runs: dict[Key, Execution] = {}
        self._checks: dict[Key, Execution] = {}
        self._all: dict[Execution, None] = {}  # in the order of their start
        self._by_id: dict[str, Execution] = {}
        self.weight = 0  # of all of them, in bytes

    @property
    def all(self) -> list[Execution]:
        """Return all of them, in the order of their start."""
        return list(self._all)

    @property
    def is_full(self) -> bool:
        """Whether they take as much memory as they may (`cache.memory`)."""
        return self.weight > self._live.settings.cache.memory

    def by_id(self, execution_id: str) -> Execution | None:
        """Return the execution with that id, None if it has ended or never was in this process."""
        return self._by_id.get(execution_id)

    # -- joining

    def joinable(self, plan: Plan, *, check: bool) -> Execution | None:
        """Return the one whose end will satisfy `plan`, None if there is none; `check`: if a check will."""
        execution = self.would_join(plan, check=check)
        if execution is not None:
            execution.max_age = stricter(execution.max_age, plan.max_age)
        return execution

    def would_join(self, plan: Plan, *, check: bool) -> Execution | None:
        """Return the same as `joinable`, without changing it."""
        execution = (self._checks if check else self._runs).get(plan.key)
        if execution is None or execution.cancelling or execution.purged or execution.plan.marker != plan.marker:
            return None
        open_to_all = check or execution.phase in (Phase.QUEUED, Phase.RUNNING)
        return execution if open_to_all or plan.at_least_as_lenient(execution.max_age) else None

    def blocking(self, plan: Plan, *, check: bool) -> Execution | None:
        """Return the POST in progress that `plan` cannot join but must wait for, because it may start a run."""
        execution = None if check else self._runs.get(plan.key)
        if execution is None or execution.phase is not Phase.POSTING or execution.plan.marker != plan.marker:
            return None
        return execution

    def earlier(self, key: Key) -> Execution | None:
        """Return what a new run of the key has to wait for, because Redash would join the two.

        That is the run of before, or a check from before a purge, for which Redash may run the query, too.
        """
        if (run := self._runs.get(key)) is not None:
            return run
        check = self._checks.get(key)
        return check if check is not None and check.purged and check.phase is not Phase.QUEUED else None

    # -- coming and going

    def add(self, execution: Execution) -> None:
        """Add one that begins."""
        self._all[execution] = None
        self._by_id[execution.id] = execution
        self.weight += execution.weight

    def add_check(self, execution: Execution) -> None:
        """Let callers join it as the check of its key."""
        self._checks[execution.plan.key] = execution

    def add_run(self, execution: Execution) -> None:
        """Let callers join it as the run of its key."""
        self._runs[execution.plan.key] = execution

    def take_up(self, execution: Execution) -> None:
        """Let callers join a run that began elsewhere; of several of a key, they join the latest."""
        run = self._runs.get(execution.plan.key)
        if run is None or run.resumed:
            self.add_run(execution)

    def rename(self, execution: Execution, old: str) -> None:
        """Note that it has got another id."""
        if self._by_id.get(old) is execution:
            del self._by_id[old]
        self._by_id.setdefault(execution.id, execution)

    def close(self, execution: Execution) -> None:
        """Let nobody join it any more."""
        for joined in (self._runs, self._checks):
            if joined.get(execution.plan.key) is execution:
                del joined[execution.plan.key]

    def remove(self, execution: Execution) -> None:
        """Forget one that has ended."""
        self._all.pop(execution, None)
        self.weight -= execution.weight
        if self._by_id.get(execution.id) is execution:
            del self._by_id[execution.id]
