"""The guard against Redash's cache, which ignores white space: all callers get the rows of exactly their own text.

Redash finds results and joins runs by the SQL without any white space, also within quotes (CONTRACT 7), up to version
10 also without letter case; the sandbox does so, too. Every query here shows its own values in its rows, and the values
differ in white space and case alone, so that a result that was made for another caller shows at once.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clocks import TurnableClock
from support.inside import polling_every
from support.versions import EVERY_KIND
from support.waiting import until
from support.world import World

from gateway.sandbox import Sandbox
from gateway.sandbox.sample_objects import parameter

RUNS = 30

VALUES = ("New York", "NewYork", "N ewYork", "New\tYork", " NewYork", "NewYork ", "newyork", "NEW York")
"""All equal for the hash of Redash 8 and 10; for later ones, those without the last two."""

PLACES = ("New York", "NEW York", "new york")
"""The options of the dropdown."""

MAX_AGES = (0, 1, 60, 3600, None)
PATTERN = {"regex": "[A-Za-z \t]*"}
QUOTED = {"prefix": "'", "suffix": "'", "separator": ","}

TEMPLATES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "text": ("select '{{x}}' as x, run_number() as run", [parameter("x", "text", "none")]),
    "pattern": ("select '{{ x }}' as x, run_number() as run", [parameter("x", "text-pattern", "none", **PATTERN)]),
    "enum": (
        "select '{{x}}' as x, run_number() as run",
        [parameter("x", "enum", VALUES[0], enumOptions="\n".join(VALUES))],
    ),
    "multi": (
        "select {{x}} as x, run_number() as run",
        [parameter("x", "enum", [VALUES[0]], enumOptions="\n".join(VALUES), multiValuesOptions=QUOTED)],
    ),
    "undeclared": ("select '{{x}}' as x, run_number() as run", []),
    "section": ("select '{{#x}}{{x}}{{/x}}' as x, run_number() as run", []),
    "commented": ("select '{{x}}' as x, run_number() as run -- as sent", [parameter("x", "text", "none")]),
    "edited": ("select 'New York' as x, run_number() as run, 1 as edited", []),
}
"""By the kind of parameter. A section cannot be rendered plainly: there the values must occur in the text. `dropdown`
is added with its source; `edited` gets another value before each round."""

DROPDOWN = "select '{{x}}' as x, run_number() as run, 2 as dropdown"
"""A text of its own, like that of `edited`: no other query's runs can be taken for a run of it (docs/freshness.md)."""

BY_QUERY_KEY = ("pattern", "enum", "multi", "undeclared", "dropdown", "edited")
"""What Redash lets a query key run; its results contain no SQL to check."""


@dataclass(frozen=True)
class Want:
    kind: str
    value: str
    max_age: int | None
    key: bool  # by the query's own key
    wait: bool

    def __repr__(self) -> str:
        return f"{self.kind}{'*' if self.key else ''}:{self.value!r}≤{self.max_age}"


def _want(kind: str, value: str, max_age: int | None, key: bool, wait: bool) -> Want:
    if kind == "dropdown":  # its options are taken to differ in more than white space (docs/access.md)
        value = PLACES[VALUES.index(value) % len(PLACES)]
    # In a section's text a value need only occur (DESIGN 6): there "NewYork" and "NewYork " cannot be distinguished.
    return Want(kind, value.strip() if kind == "section" else value, max_age, key and kind in BY_QUERY_KEY, wait)


WANTS = st.builds(
    _want,
    kind=st.sampled_from([*TEMPLATES, "dropdown", "adhoc"]),
    value=st.sampled_from(VALUES),
    max_age=st.sampled_from(MAX_AGES),
    key=st.booleans(),
    wait=st.booleans(),
)


class Guarded:
    """A gateway before a sandbox in which every text collides with all others of its kind."""

    def __init__(self, directory: Path, redash: str) -> None:
        self.clock = TurnableClock()
        self.sandbox = Sandbox(now=self.clock.wall, orders=1, redash=redash)
        self.ids = {
            kind: self.sandbox.add_query(kind, text, parameters=parameters)
            for kind, (text, parameters) in TEMPLATES.items()
            if kind != "pattern" or self.sandbox.version.text_pattern
        }
        source = self.sandbox.add_query("places", " union all ".join(f"select '{value}' as x" for value in PLACES))
        self.sandbox.add_first_result(source)
        dropdown = parameter("x", "query", PLACES[0], queryId=source)
        self.ids["dropdown"] = self.sandbox.add_query("dropdown", DROPDOWN, parameters=[dropdown])
        self.literal = VALUES[0]
        self.world = World(directory, self.sandbox, self.clock)

    async def __aenter__(self) -> Guarded:
        await self.sandbox.start()
        keys = "".join(
            f'[credentials.own-{kind}]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n'
            for kind, query in self.ids.items()
            if kind in BY_QUERY_KEY
        )
        await self.world.start(keys, store="memory:", sql="", narrow="text_parameters = true", dashboard="")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.world.stop()
        await self.sandbox.stop()

    def edit(self, value: str) -> None:
        """Edit the SQL of one query, in Redash itself: the gateway notices it within `definition_check`."""
        self.literal = value
        self.sandbox.edit_query(self.ids["edited"], query=TEMPLATES["edited"][0].replace(VALUES[0], value))
        self.clock.turn(61)

    def expected(self, want: Want) -> str:
        return self.literal if want.kind == "edited" else want.value

    async def rows(self, want: Want) -> list[dict[str, Any]]:
        """As a polling client gets them, or in one request."""
        client = "narrow" if want.key else "sql"
        if want.kind == "adhoc":
            path, body = (
                "/api/query_results",
                {"query": f"select '{want.value}' as x, run_number() as run", "data_source_id": 1},
            )
        else:
            value = [want.value] if want.kind == "multi" else want.value
            parameters = {} if want.kind == "edited" else {"x": value}
            path, body = f"/api/queries/{self.ids[want.kind]}/results", {"parameters": parameters}
        headers = {"Prefer": "wait=30"} if want.wait else {}
        reply = await self.world.call("POST", path, {**body, "max_age": want.max_age}, client=client, headers=headers)
        assert reply.status == 200, (want, reply)
        if "query_result" in reply.json:
            return reply.rows
        job = await self.world.finish(reply.job["id"], client=client)
        assert job["status"] == 3, (want, job)
        nested = "query_results" if want.kind == "adhoc" else f"queries/{self.ids[want.kind]}/results"
        read = await self.world.get(f"/api/{nested}/{job['query_result_id']}.json", client=client)
        assert read.status == 200, (want, read)
        return read.rows


@EVERY_KIND
def test_every_caller_gets_the_rows_of_its_own_text(redash_version: str) -> None:
    @settings(
        max_examples=RUNS,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[*HealthCheck],
    )
    @given(
        rounds=st.lists(
            st.tuples(st.none() | st.sampled_from(VALUES), st.lists(WANTS, min_size=1, max_size=6)),
            min_size=1,
            max_size=4,
        ),
        pause=st.sampled_from([0, 2, 61, 4000]),
    )
    def callers(rounds: list[tuple[str | None, list[Want]]], pause: int) -> None:
        runner.run(_answered(guarded, rounds, pause))

    # One gateway for all examples: what earlier ones left in Redash's cache may trip later ones.
    with (
        asyncio.Runner() as runner,
        tempfile.TemporaryDirectory() as directory,
        polling_every(0.005),
    ):
        guarded = Guarded(Path(directory), redash_version)
        runner.run(guarded.__aenter__())
        try:
            callers()
        finally:
            runner.run(guarded.__aexit__())


async def _answered(guarded: Guarded, rounds: list[tuple[str | None, list[Want]]], pause: int) -> None:
    """Each round at once, one round after the other; all callers of a value see that value and nothing else."""
    # Redash's cache keeps what earlier examples left, the gateway's does not: else one failure causes others.
    await guarded.world.purge({"all": True})
    for edit, wants in rounds:
        if edit is not None:
            guarded.edit(edit)
        possible = [want for want in wants if want.kind == "adhoc" or want.kind in guarded.ids]
        began = guarded.sandbox.counters.started
        results = await asyncio.gather(*(guarded.rows(want) for want in possible))
        for want, rows in zip(possible, results, strict=True):
            assert [row["x"] for row in rows] == [guarded.expected(want)], f"{want} got {rows} among {possible}"
        # Runs serve requests: up to three more for each request that met another's rows, but a limited number.
        assert guarded.sandbox.counters.started - began <= 4 * len(wants)
        guarded.clock.turn(pause)


async def test_differences_without_effect_on_rows_cause_no_second_run(bare: World) -> None:
    """Unused parameters, comments, white space outside quotes, `;` and an added LIMIT do not make other SQL."""
    add = bare.sandbox.add_query
    enum = parameter("unused", "enum", "a b", enumOptions="a b\nab")
    harmless = {
        "unused": add("unused", "select 1 as x", parameters=[enum]),
        "comment": add("comment", "/* who */ select 1 as x -- why\n"),
        "semicolon": add("semicolon", "select 1 as x ; \n"),
        "limit": add("limit", "select 1 as x", options={"apply_auto_limit": True}),
        "limit and comment": add("limit and comment", "select 1 as x -- all", options={"apply_auto_limit": True}),
        "lines": add("lines", "select\n\t1   as x\nfrom ( select 2 )  "),
        "statements": add("statements", "select 0; select 1 as x;"),
    }
    await bare.start()
    for name, query in harmless.items():
        body: dict[str, Any] = {"parameters": {"unused": "ab"}} if name == "unused" else {}
        bare.sandbox.reset_counters()
        rows = await bare.rows(query, client="sql", max_age=0, **body)
        assert rows == [{"x": 1}], name
        assert (bare.sandbox.counters.started, bare.sandbox.counters.posts[query]) == (1, 1), name
        reply = await bare.post(query, client="sql", max_age=3600, **body)
        assert "hit" in reply.cache, (name, reply)
        assert bare.sandbox.counters.started == 1, name


async def test_another_spelling_of_the_same_sql_causes_no_second_run(bare: World) -> None:
    """Redash shows the spelling that ran first: outside quotes, white space and comments mean nothing."""
    first = bare.sandbox.add_query("first", "select 'a b' as x, 7 as y")
    second = bare.sandbox.add_query("second", "/* mine */ select 'a b'   as x,\n7 as y")
    await bare.start()
    await bare.rows(first, client="sql", max_age=3600)
    reply = await bare.post(second, client="sql", max_age=3600, wait=20)
    assert reply.rows == [{"x": "a b", "y": 7}]
    assert bare.sandbox.counters.started == 1


async def test_an_unused_parameter_of_a_query_key_costs_one_run_for_each_value(bare: World) -> None:
    """Results for query keys contain no SQL. An unused parameter cannot cause a mix-up: nothing is forced."""
    unused = parameter("unused", "enum", "a b", enumOptions="a b\nab")
    query = bare.sandbox.add_query("unused", "select 1 as x", parameters=[unused])
    keys = f'[credentials.own]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n'
    await bare.start(keys)
    for value in ("a b", "ab"):
        assert await bare.rows(query, client="narrow", max_age=3600, parameters={"unused": value}) == [{"x": 1}]
    assert bare.sandbox.counters.started == 1  # the second request reaches Redash, which has the result


async def test_a_query_key_does_not_get_the_rows_of_a_users_run(bare: World) -> None:
    """Redash joins all requests for texts that differ in white space alone; a query key's result contains no SQL."""
    text, parameters = TEMPLATES["pattern"]
    query = bare.sandbox.add_query("mixed", text, parameters=parameters)
    await bare.start(f'[credentials.own]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n')
    async with bare.sandbox.hold(query):
        user = await bare.post(query, client="sql", max_age=0, parameters={"x": "New York"})
        await bare.sandbox.wait_executions(1)
        key = asyncio.create_task(bare.rows(query, client="narrow", max_age=0, parameters={"x": "NewYork"}))
        await until(lambda: [x.can_respond.is_set for x in bare.runtime.executions.flights.running] == [True, True])
    assert [row["x"] for row in await key] == ["NewYork"]
    job = await bare.finish(user.job["id"], client="sql")
    read = await bare.get(f"/api/queries/{query}/results/{job['query_result_id']}.json", client="sql")
    assert [row["x"] for row in read.rows] == ["New York"]


@EVERY_KIND
@pytest.mark.parametrize("of_query", [True, False])
async def test_letter_case_costs_a_run_only_where_redash_ignores_it(bare: World, of_query: bool) -> None:
    """What Redash has of both values serves a gateway that has lost its own; up to version 10 it has one of them."""
    options = parameter("country", "enum", "de", enumOptions="de\nDE")
    query = bare.sandbox.add_query("case", "select '{{country}}' as x", parameters=[options])
    await bare.start(f'[credentials.own]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n')
    client = "narrow" if of_query else "sql"
    for _ in range(2):
        for value in ("de", "DE"):
            rows = await bare.rows(query, client=client, max_age=3600, parameters={"country": value})
            assert rows == [{"x": value}]
        await bare.runtime.results.cache.purge()  # as if evicted: who says that everything is new, wants new rows
    assert bare.sandbox.counters.started == (4 if bare.sandbox.version.hash_folds_case else 2)
