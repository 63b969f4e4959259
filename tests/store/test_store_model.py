"""Every store against a plain dictionary, step by random step."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from store_helpers import MAKERS, FakeClock, entry, key, spooled

from gateway.body import Body

names = st.integers(0, 5)
several = st.lists(names, min_size=1, max_size=3, unique=True)
scopes = st.sampled_from(["s", "t"])
queries = st.integers(1, 2)

pytestmark = pytest.mark.usefixtures("patience")


class StoreMachine(RuleBasedStateMachine):
    """Body ids carry the content, so that equal ids have equal bytes."""

    kind = ""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.model: dict[int, tuple[Any, bytes]] = {}
        self.open()

    def open(self) -> None:
        self.store = MAKERS[self.kind](Path(self.directory.name) / "gateway.db", self.clock)
        self.runner.run(self.store.open())

    @rule(name=several, scope=scopes, query=queries, size=st.integers(0, 4), as_file=st.booleans())
    def put(self, name: list[int], scope: str, query: int, size: int, as_file: bool) -> None:
        data = bytes([size]) * (size * 1_000)
        stored = entry(f"{as_file} {size}", scope=scope, query_id=query, confirmed=4_000.0)
        body = self.runner.run(spooled(self.store, data)) if as_file else Body.of(data)
        self.runner.run(self.store.put([key(one) for one in name], stored, body))
        self.model.update(dict.fromkeys(name, ((scope, query, 4_000.0), data)))

    @rule(name=names)
    def get(self, name: int) -> None:
        async def both() -> tuple[Any, bytes] | None:
            found = await self.store.get(key(name))
            if found is None:
                return None
            body = await self.store.read(found)
            assert body is not None
            return (found.scope, found.query_id, found.confirmed), body.load()

        assert self.runner.run(both()) == self.model.get(name)

    @rule(name=names, at=st.integers(4_001, 4_999))
    def confirm(self, name: int, at: int) -> None:
        self.runner.run(self.store.confirm(key(name), float(at)))
        if name in self.model:
            (scope, query, _), data = self.model[name]
            self.model[name] = ((scope, query, float(at)), data)

    @rule(scope=st.none() | scopes, query=st.none() | queries)
    def delete(self, scope: str | None, query: int | None) -> None:
        gone = [name for name, ((s, q, _), _) in self.model.items() if scope in (None, s) and query in (None, q)]
        assert self.runner.run(self.store.delete(scope=scope, query_id=query)) == len(gone)
        for name in gone:
            del self.model[name]

    @rule()
    def wait(self) -> None:
        self.runner.run(asyncio.sleep(0.001))

    @rule()
    def sweep(self) -> None:
        self.clock.advance(20)
        self.runner.run(getattr(self.store, "backing", self.store).sweep())

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.close())
        self.open()
        if self.kind == "memory":
            self.model.clear()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.store.close())
            self.runner.close()
            self.directory.cleanup()


@pytest.mark.parametrize("kind", list(MAKERS))
def test_store_is_as_good_as_a_dictionary(kind: str) -> None:
    machine = type("Machine", (StoreMachine,), {"kind": kind})
    profile = settings(
        max_examples=20,
        stateful_step_count=20,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=profile)
