"""Everything that looks at text of callers or of Redash takes time in proportion to it: no text stops the event loop.

Every parser and every regular expression over such text has its row here.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from support.growth import grows_linearly
from support.length import TIMES

from gateway.body import Body
from gateway.errors import GatewayError
from gateway.http.request import _names_gzip
from gateway.model import Definition, Parameter, Request
from gateway.policy.context import honoured_wait
from gateway.redash import template
from gateway.redash.ambiguity import is_ambiguous
from gateway.redash.arguments import parse_arguments
from gateway.redash.downloads import content_disposition, day_in, id_in
from gateway.redash.matching import match
from gateway.redash.max_age import parse_max_age
from gateway.redash.outline import outline
from gateway.redash.parameters import is_raw_sql, parse_parameters
from gateway.redash.redaction import body_without_own_keys, text_without_keys, without_keys
from gateway.redash.refusals import parse_error
from gateway.redash.requests import parse_operation
from gateway.redash.responses import parse_beginning, parse_result_or_job
from gateway.redash.sqltext import collision_text, matches, same_text, squeezed
from gateway.telemetry.log import _one_line, _plain
from gateway.telemetry.tracing import _state

NOW: Final = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
SECTION: Final = "{{#a}}'{{a}}'{{/a}}"
EXECUTE: Final = match("POST", "/api/queries/1/results")
ONE: Final[tuple[Parameter, ...]] = (Parameter(name="a", type="text"),)


def _definition(text: str, *parameters: Parameter) -> Definition:
    return Definition(
        query_id=1,
        name="q",
        text=text,
        marker="",
        query_hash="",
        data_source_id=1,
        latest_result_id=None,
        parameters=parameters,
        tags=(),
        auto_limit=False,
    )


def _given(kind: str, text: str, **more: Any) -> object:
    """Parse `p_a=<text>` for a parameter of that type."""
    parameter = Parameter(name="a", type=kind, enumOptions=("x", "y"), **more)
    return parse_parameters(_definition("select {{a}}", parameter), [("p_a", text)], NOW)


def _body(text: str) -> bytes:
    """The text as bytes, the way it may stand anywhere in a body."""
    return text.encode("utf-8", "surrogatepass")


def _with_query(text: str) -> bytes:
    return b'{"query_result": {"id": 1, "query_hash": "a", "query": "' + _body(text)


def _outline(data: bytes) -> object:
    with contextlib.suppress(ValueError, RecursionError):
        return outline(Body.of(data).pieces(64 * 1024), len(data))


WORK: dict[str, Callable[[str], object]] = {
    "squeezed": squeezed,
    "same text": lambda text: same_text(text, text),
    "another text": lambda text: same_text(text, text + " z"),
    "text with a value": lambda text: matches("select '{{a}}' -- x", ONE, {"a": text}, "select '" + text + " '"),
    "text with a section": lambda text: matches(SECTION + text, (), {"a": text[:100]}, text),
    "section with this value": lambda text: matches(SECTION, (), {"a": text}, text + text),
    "section with these values": lambda text: matches(SECTION, (), {"a": text.split()}, text),
    "template": lambda text: matches(text, (), {"a": "x", "": "y"}, text),
    "collision text": lambda text: collision_text(text, (), {"a": "x"}),
    "collision text of a value": lambda text: collision_text("select {{a}}", (), {"a": text}),
    "collision text of a section": lambda text: collision_text(SECTION, (), {"a": text}),
    "names": template.names,
    "raw SQL": lambda text: is_raw_sql(_definition(text)),
    "ambiguous template": lambda text: is_ambiguous(text, ONE, {"a": "x"}),
    "ambiguous number": lambda text: is_ambiguous("{{a}}", (Parameter(name="a", type="number"),), {"a": text}),
    "ambiguous date": lambda text: is_ambiguous("{{a}}", (Parameter(name="a", type="date"),), {"a": text}),
    "ambiguous option": lambda text: is_ambiguous(
        "{{a}} {{a}}", (Parameter(name="a", type="enum", enumOptions=tuple(text.split("\n"))),), {"a": text}
    ),
    "number": lambda text: _given("number", text),
    "enum": lambda text: _given("enum", text),
    "enums": lambda text: _given("enum", text, multiValuesOptions={}),
    "date": lambda text: _given("date", text),
    "range": lambda text: _given("date-range", text),
    "undeclared": lambda text: parse_parameters(_definition("{{a}}"), [("p_a", text)], NOW),
    "arguments": parse_arguments,
    "max_age": parse_max_age,
    "body": lambda text: parse_operation(EXECUTE, "", _body(text)),
    "path": lambda text: match("GET", text),
    "path of a query": lambda text: match("GET", "/api/queries/" + text),
    "keys in a text": text_without_keys,
    "keys in a body": lambda text: without_keys(_body(text)),
    "keys of ours in a body": lambda text: body_without_own_keys(_body(text)),
    "result or job": lambda text: parse_result_or_job(Body.of(_body(text))),
    "beginning of a result": lambda text: parse_beginning(_with_query(text)),
    "whole result": lambda text: parse_result_or_job(Body.of(_with_query(text))),
    "beginning in another order": lambda text: parse_beginning(b'{"query_result": {"query": "' + _body(text)),
    "beginning of anything": lambda text: parse_beginning(_body(text)),
    "outline": lambda text: _outline(_body(text)),
    "outline of rows": lambda text: _outline(b'{"query_result": {"data": {"rows": [{"a": 1}, ' + _body(text)),
    "error": lambda text: parse_error(_body(text)),
    "name of a file": lambda text: content_disposition(text, "2026-11-26", "csv"),
    "day in a name of a file": day_in,
    "id in a name of a file": id_in,
    "Prefer": lambda text: honoured_wait(Request("GET", "/", "", {"Prefer": text}, False), 50.0),
    "Accept-Encoding": _names_gzip.__wrapped__,
    "tracestate": lambda text: _state([text]),
    "a value in the log": _plain,
    "a line of the log": _one_line,
}


def _numbered(size: int) -> list[str]:
    return [f"p{number}" for number in range(size // 50)]


def _many_tags(text: str) -> object:
    names = _numbered(len(text))
    parameters = tuple(Parameter(name=name) for name in names)
    template_text = " ".join(f"{{{{{name}}}}}" for name in names)
    return matches(template_text, parameters, {key: ["x"] for key in names}, "x")


def _many_tags_of_one(text: str) -> object:
    """Each tag shows the same list, whose text is never that of `returned`."""
    return matches("{{a}}" * min(9_000, len(text) // 50), ONE, {"a": list(text[:300])}, "x")


def _many_tags_of_many_options(text: str) -> object:
    options = Parameter(name="a", type="enum", enumOptions=tuple(_numbered(len(text))))
    return is_ambiguous("{{a}};" * min(9_000, len(text) // 50), (options,), {"a": "p1"})


def _many_of_many_options(text: str) -> object:
    options = Parameter(name="a", type="enum", enumOptions=tuple(_numbered(len(text))), multiValuesOptions={})
    chosen = json.dumps(_numbered(len(text)))
    return parse_parameters(_definition("select {{a}}", options), [("p_a", chosen)], NOW)


def _deep_lists(text: str) -> object:
    value: object = ["x"] * len(text)
    for _ in range(min(900, len(text) // 100)):
        value = [value]
    return matches(SECTION, (), {"a": value}, "x")


WORK |= {
    "tags and parameters": _many_tags,
    "tags of one list": _many_tags_of_one,
    "tags and options": _many_tags_of_many_options,
    "values and options": _many_of_many_options,
    "lists in lists": _deep_lists,
}

PIECES: Final = (
    *("'", '"', "`", "'''", '"""', "\\", "\\'", "''", "$", "$a$", "$$", "[", "]", "[a", "{", "}", "(", ","),
    *("/*", "*/", "/*a", "/*!", "/**/", "--", "# ", "#", "//", ";", "; ", "\n", "\r\n", " ", "\t", "a", "a ", "_"),
    *("{{", "}}", "{{a}}", "{{ a }}", "{{#a}}", "{{/a}}", "{{{a}}}", "{{=<% %>=}}", "<%a%>", "{{.}}", "{{a.b}}"),
    *("1", "9", ".", "1.", "e", "+", "-", "e1", "LIMIT", "LIMIT1", " LIMIT 1", "0x", "_1", "2024-01-01", "T00:00"),
    *('"a":', "[[", "{}", "[],", '{"a":', "null,", '"\\u0000"', "\\u", "NaN", "1,", '"a",', "\ud800"),
    *("&", "=", "p_a=", "%", "%41", "%ff", "/", "/.", "//", "/api", "/queries", "?", "=1;q=", "gzip,", "q=0.1,"),
    *("api_key=", "authorization:", "authorization ", "bearer ", "rg_", "a" * 39 + " ", "A1" * 20, "key "),
    *(",wait=", "wait =", "wait", "_2024_01_01.csv", "\u0301", "\u0323\u0301", "é", "\u2028", "\x00", "<", "|"),
)
"""What means something to one of them. A unit is one or a few of these, repeated."""

KNOWN: Final = (
    ("number", "", "9", "x"),
    ("squeezed", "", "/*a", ""),
    ("collision text of a value", "", "/*a", ""),
    ("section with this value", "", "a ", ""),
    ("section with these values", "", "a ", ""),
    ("section with these values", "", "abc/*d ", " /*"),
    ("name of a file", "", "\u0323\u0301", ""),
    *((name, "", "a", "") for name in ("tags and parameters", "tags of one list", "tags and options")),
    *((name, "", "a", "") for name in ("values and options", "lists in lists")),
)
"""What has been slow: work, begin, unit, end."""


def _grows(name: str, begin: str, unit: str, end: str) -> bool:
    work = WORK[name]

    def quietly(text: str) -> None:
        with contextlib.suppress(GatewayError, UnicodeError):  # a refusal must not take long either
            work(text)

    return grows_linearly(lambda size: begin + unit * max(1, size // len(unit)) + end, quietly)


@pytest.mark.parametrize(("name", "begin", "unit", "end"), KNOWN)
def test_what_has_been_slow_once_is_linear(name: str, begin: str, unit: str, end: str) -> None:
    assert _grows(name, begin, unit, end)


def _adversarial(seed: int) -> tuple[str, str, str]:
    choose = random.Random(seed)
    unit = "".join(choose.choices(PIECES, k=choose.choice((1, 1, 2, 3))))
    begin = choose.choice(("", "", choose.choice(PIECES)))
    return begin, unit, choose.choice(("", "x", choose.choice(PIECES)))


@pytest.mark.parametrize("name", [name for name in WORK if not name.startswith(("tags ", "values ", "lists "))])
def test_adversarial_text_is_looked_at_in_linear_time(name: str) -> None:
    for seed in range(8):
        text = _adversarial(hash_of(name) + seed)
        assert _grows(name, *text), f"{name}: {text!r}"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WORK)
def test_much_adversarial_text_is_looked_at_in_linear_time(name: str) -> None:
    for seed in range(12 * TIMES):
        text = _adversarial(1_000_000 + hash_of(name) + seed)
        assert _grows(name, *text), f"{name}: {text!r}"


def hash_of(name: str) -> int:
    """Return a number that is the same in every process."""
    return sum(name.encode()) * 1_000
