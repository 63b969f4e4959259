"""Queries as clients of Redash's API make them, with members of any type: what nobody needs is not demanded, and no
value reaches Redash that its definition, as Redash reads it, does not have.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .front import Front, Seen, Stub, Upstream, client, credential, query_object, result_object

QUERY, SOURCE = 5, 9
EVIL = "1 union select 'secret'"
DATE = re.compile(r"\d{4}-\d\d-\d\d")
ABSENT = "<absent>"


# -- Redash's own reading of a definition (models/parameterized_query.py)


def accepts(schema: list[Any], name: str, value: object) -> bool:
    """Whether Redash accepts the value: what its checks answer with an exception is refused as well."""
    definition = next((item for item in schema if isinstance(item, dict) and item.get("name") == name), None)
    if definition is None:
        return False
    kind = definition.get("type")
    several = isinstance(definition.get("multiValuesOptions"), dict)
    options = definition.get("enumOptions")
    if kind == "text":
        return isinstance(value, str)
    if kind == "number":
        return isinstance(value, int | float) or (isinstance(value, str) and re.fullmatch(r"-?\d+", value) is not None)
    if kind == "enum":
        return within(value, options.split("\n") if isinstance(options, str) else options, several)
    if kind == "query":
        return definition.get("queryId") in (SOURCE, str(SOURCE)) and within(value, ["x", "y"], several)
    if kind == "date":
        return isinstance(value, str) and DATE.fullmatch(value) is not None
    if kind == "date-range":
        return isinstance(value, dict) and all(DATE.fullmatch(str(value.get(end))) for end in ("start", "end"))
    return False


def within(value: object, options: object, several: bool) -> bool:
    if not isinstance(options, list | dict):
        return False  # a TypeError there
    texts = [item for item in options if isinstance(item, str)]
    if isinstance(value, list):
        return several and {str(item) for item in value} <= set(texts)
    return str(value) in texts


def rendered(text: str, schema: list[Any], values: Mapping[str, Any]) -> str:
    def one(tag: re.Match[str]) -> str:
        root, _, end = tag[1].strip().partition(".")
        value = values[root][end] if end else values[root]
        if not isinstance(value, list):
            return str(value)
        found = next((item for item in schema if isinstance(item, dict) and item.get("name") == root), {})
        wrap = found.get("multiValuesOptions") or {}
        inner = [f"{wrap.get('prefix', '')}{item}{wrap.get('suffix', '')}" for item in value]
        return str(wrap.get("separator", ",")).join(inner)

    return re.sub(r"\{\{(.*?)\}\}", one, text)


class Redash:
    """Has one query, as it was written, and one that dropdowns read."""

    def __init__(self) -> None:
        self.query: dict[str, Any] = query_object(QUERY)
        self.ran: list[Mapping[str, Any]] = []

    @property
    def schema(self) -> list[Any]:
        options = self.query.get("options")
        listed = options.get("parameters") if isinstance(options, dict) else None
        return listed if isinstance(listed, list) else []

    def __call__(self, seen: Seen) -> Stub:
        if seen.method == "GET" and seen.path == f"/api/queries/{QUERY}":
            return Stub.json(self.query)
        if seen.method == "GET" and "/dropdowns/" in seen.path:
            return Stub.json([{"name": "x", "value": "x"}])
        if seen.method == "GET" and seen.path.endswith("/results.json"):
            return Stub.json({"message": "No cached result found for this query."}, 404)
        assert seen.method == "POST", seen
        values = seen.json["parameters"]
        self.ran.append(values)
        if self.schema and not all(accepts(self.schema, name, value) for name, value in values.items()):
            return Stub.json({"message": "The following parameter values are incompatible"}, 400)
        response: dict[str, Any] = result_object(7, QUERY)
        response["query_result"]["query"] = rendered(self.query["query"], self.schema, values)
        return Stub.json(response)


# -- queries as somebody may have written them

KINDS = ["text", "number", "enum", "enum", "query", "date", "date-range", "text-pattern", "mystery", None, 5, ABSENT]
OPTIONS = ["x\ny", ["x", "y"], ["x", 1, None], ["x\ny"], None, [], "", {"x": 1}, 5, "x", True, ABSENT]
SEVERAL = [None, {}, {"prefix": "'", "suffix": "'", "separator": ","}, {"prefix": None}, [], "x", True, 5, ABSENT]
DEFAULTS = [
    None,
    "x",
    1,
    "1",
    ["x"],
    {"start": "2024-01-01", "end": 5},
    {},
    [[1]],
    True,
    10**30,
    "d_last_7_days",
    ABSENT,
]
NAMES = ["a", "a", "a", "b", "", None, 5, ["a"], ABSENT]


def present(members: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value != ABSENT}


PARAMETERS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "type": st.sampled_from(KINDS),
        "value": st.sampled_from(DEFAULTS),
        "enumOptions": st.sampled_from(OPTIONS),
        "multiValuesOptions": st.sampled_from(SEVERAL),
        "queryId": st.sampled_from([SOURCE, str(SOURCE), None, "x", 9.5, [SOURCE], -1, 2**70, ABSENT]),
        "regex": st.sampled_from([None, "[", 5, ABSENT]),
        "title": st.sampled_from([None, "A", 5, ABSENT]),
    }
).map(present)
LISTED = st.lists(PARAMETERS | st.sampled_from([None, 5, "a", []]), max_size=3)
OTHERS = {
    "options": st.one_of(
        *(st.fixed_dictionaries({"parameters": LISTED}) for _ in range(4)),
        st.fixed_dictionaries({"parameters": st.sampled_from([None, {}, "x", 5, [None]]), "apply_auto_limit": LISTED}),
        st.sampled_from([None, [], "x", 5, {}, ABSENT]),
    ),
    "query_hash": st.sampled_from([f"{QUERY:032x}", None, 5, "", ABSENT]),
    "data_source_id": st.sampled_from([1, "1"]),
    "latest_query_data_id": st.sampled_from([None, 7, "7", "x", 2**70, -1, True, ABSENT]),
    "tags": st.sampled_from([None, [], ["a", None, 5], "a", {}, ABSENT]),
    "is_archived": st.sampled_from([None, 0, "no", [], ABSENT]),
    "name": st.sampled_from(["Sales", None, 5, [], ABSENT]),
    "version": st.sampled_from([None, "x"]),
    "schedule": st.sampled_from([None, 5, {"interval": "x"}]),
}
TEXTS = st.sampled_from(
    ["select {{a}}", "select {{ a }}, {{b}} x", "select 1", "select {{a.start}}", "select '{{ a }}'"]
)
RANGES = [{"start": "2024-01-01", "end": "2024-01-02"}, {"start": EVIL, "end": "2024-01-02"}, {}]
LISTS = [["x"], ["x", "y"], [EVIL], [], [1], [["x"]]]
WORDS = ["x", "y", "z", "", "x\ny", EVIL, "1", "2024-01-01", f"2024-01-01{EVIL}"]
VALUES = st.sampled_from([1, 1.5, True, None, *WORDS, *LISTS, *RANGES])
SENT = st.dictionaries(st.sampled_from(["a", "a", "a", "b", "c", ""]), VALUES, max_size=2)
ARGUMENTS = st.lists(
    st.tuples(st.sampled_from(["p_a", "p_b", "p_a.start", "p_a.end"]), st.sampled_from(["x", "y", EVIL, "1", '["x"]'])),
    max_size=2,
)


# -- the gateway in front of it


class Lab:
    """One gateway for all examples, in its own event loop. `bound` may send no text that becomes SQL, `free` may."""

    def __init__(self, directory: Path) -> None:
        self.runner = asyncio.Runner()
        self.redash = Redash()
        self.upstream = Upstream(self.redash)
        self.directory = directory
        self.statuses: Counter[tuple[str, int]] = Counter()

    async def open(self) -> None:
        await self.upstream.__aenter__()
        self.front = Front(self.directory, self.upstream.url)
        self.front.write(
            credential(self.directory, "user"),
            client("bound", f"queries = [{QUERY}]"),
            client("free", "text_parameters = true"),
            server='max_wait = "1s"',
        )
        await self.front.start()

    async def close(self) -> None:
        await self.front.__aexit__()
        await self.upstream.__aexit__()

    async def call(self, who: str, method: str, path: str, body: object = None) -> int:
        reply = await self.front.call(method, f"/api/queries/{QUERY}{path}", body, client=who)
        self.statuses[method, reply.status] += 1
        assert reply.status < 500, (who, method, path, body, self.redash.query, reply.status, reply.body)
        return reply.status

    async def try_all(self, query: dict[str, Any], values: dict[str, Any], arguments: list[tuple[str, str]]) -> None:
        self.front.clock.turn(4_000)  # beyond the age of definitions and results
        self.redash.query = query
        url = "&".join(f"{name}={quote(value)}" for name, value in arguments)
        for who in ("bound", "free"):
            self.redash.ran.clear()
            assert await self.call(who, "GET", "") == 200
            await self.call(who, "GET", "/results.json")
            await self.call(who, "GET", f"/dropdowns/{SOURCE}")
            await self.call(who, "POST", "/results", {"max_age": 0, "parameters": values})
            await self.call(who, "POST", "/results", {"max_age": 0})
            await self.call(who, "GET", f"/results.json?max_age=0&{url}")
            if who == "bound":
                self.check()

    def check(self) -> None:
        """Nothing that `bound` has sent to Redash can be anything but an option, a number or a date."""
        for values in self.redash.ran:
            assert EVIL not in json.dumps(values), (self.redash.query, values)
            for name, value in values.items():
                found = [item for item in self.redash.schema if isinstance(item, dict) and item.get("name") == name]
                kinds = {item.get("type") for item in found}
                assert found, (self.redash.query, values)
                assert kinds <= {"number", "enum", "query", "date", "date-range", "text-pattern"}, (kinds, values)
                if found[0]["type"] == "enum":
                    assert accepts(self.redash.schema, name, value), (found, value)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    made.runner.run(made.open())
    yield made
    made.runner.run(made.close())
    made.runner.close()


@pytest.mark.timeout(120)
def test_odd_definitions_break_nothing_and_let_nothing_through(lab: Lab) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(TEXTS, st.fixed_dictionaries(OTHERS), SENT, ARGUMENTS, st.integers(0, 9))
    def run(
        text: str, others: dict[str, object], values: dict[str, Any], arguments: list[tuple[str, str]], edit: int
    ) -> None:
        query = {"id": QUERY, "query": text, "updated_at": f"2026-11-2{edit}T08:00:00Z", **present(others)}
        lab.runner.run(lab.try_all(query, values, arguments))

    run()
    assert lab.statuses["POST", 200] > 20
    assert lab.statuses["POST", 403] > 20


# -- single members


@pytest.fixture
def redash() -> Redash:
    return Redash()


@pytest.fixture
async def front(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Front]:
    made = Front(tmp_path, upstream.url)
    made.write(credential(tmp_path, "user"), client("bound", f"queries = [{QUERY}]"))
    async with made:
        yield made


async def run(front: Front, **values: object) -> tuple[int, str]:
    reply = await front.call("POST", f"/api/queries/{QUERY}/results", {"parameters": values}, client="bound")
    return reply.status, reply.body.decode()


@pytest.mark.parametrize("missing", ["query_hash", "data_source_id", "name", "options", "tags", "latest_query_data_id"])
async def test_what_is_not_needed_is_not_demanded(front: Front, redash: Redash, missing: str) -> None:
    redash.query.pop(missing)
    assert (await front.call("GET", f"/api/queries/{QUERY}", client="bound")).status == 200
    status, body = await run(front)
    # Without a source, the rows of every source are those of another one: as in Redash, there is nothing to run.
    assert status == (502 if missing == "data_source_id" else 200), body


@pytest.mark.parametrize("missing", ["id", "query", "updated_at"])
async def test_what_is_needed_is_demanded(front: Front, redash: Redash, missing: str) -> None:
    redash.query.pop(missing)
    status, body = await run(front)
    assert (status, "not a query object" in body) == (502, True)


def enum(**members: object) -> dict[str, object]:
    return {"parameters": [{"name": "a", "type": "enum", **members}]}


@pytest.mark.parametrize("options", [["x", "y"], "x\ny", ["x", None, 1]])
async def test_options_may_be_a_text_or_a_list(front: Front, redash: Redash, options: object) -> None:
    redash.query.update(query="select '{{a}}'", options=enum(enumOptions=options, regex=None, title=None))
    assert (await run(front, a="x"))[0] == 200
    for value in ("z", "x\ny", EVIL, "1", "None", ["x"]):
        assert (await run(front, a=value))[0] == 400, value
    assert redash.ran == [{"a": "x"}]


@pytest.mark.parametrize("options", [None, [], {"x": 1}, 5, [1, None], "absent"])
async def test_an_enum_without_readable_options_takes_no_value(front: Front, redash: Redash, options: object) -> None:
    members = {} if options == "absent" else {"enumOptions": options}
    redash.query.update(query="select '{{a}}'", options=enum(value="x", **members))
    for value in ("x", "", EVIL, "1", "None"):
        status, body = await run(front, a=value)
        assert (status, "has no options" in body) == (400, True), body
    reply = await front.call("GET", f"/api/queries/{QUERY}/results.json?max_age=0", client="bound")
    assert (reply.status, "has no default" in reply.json["message"]) == (400, True)
    assert redash.ran == []


@pytest.mark.parametrize("kind", [None, "absent", "mystery", 5, "TEXT", "Enum", "text"])
async def test_a_type_that_nobody_checks_is_the_callers_text(front: Front, redash: Redash, kind: object) -> None:
    """Redash of today refuses values of an unknown type. One of tomorrow may know it, and paste them into the SQL."""
    members = {} if kind == "absent" else {"type": kind}
    redash.query.update(query="select {{a}}", options={"parameters": [{"name": "a", "enumOptions": "x", **members}]})
    status, body = await run(front, a="x")
    assert (status, "becomes SQL" in body) == (403, True)
    assert redash.ran == []


async def test_the_dropdown_of_a_text_id_is_open(front: Front, redash: Redash) -> None:
    redash.query["options"] = {"parameters": [{"name": "a", "type": "query", "queryId": str(SOURCE)}]}
    reply = await front.call("GET", f"/api/queries/{QUERY}/dropdowns/{SOURCE}", client="bound")
    assert reply.status == 200
    assert (await front.call("GET", f"/api/queries/{QUERY}/dropdowns/8", client="bound")).status == 403
