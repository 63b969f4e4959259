"""Whoever edits a query can stop neither the sandbox nor what runs beside it: work on SQL text is linear."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.growth import grows_linearly

from gateway.sandbox.sqltext import names_in, query_hash, render, statements, with_auto_limit

WORK: dict[str, Callable[[str], object]] = {
    "hash": query_hash,
    "statements": statements,
    "limit": lambda text: with_auto_limit(text, True),
    "names": names_in,
    "render": lambda text: render(text, {"a": "x", "b": ["y"]}),
}
PIECES = [
    "/*",
    "/*a",
    "*/",
    "/*a*/",
    "'",
    "'a",
    "''a",
    '"',
    '"a',
    "--",
    "-",
    "/",
    ";",
    " ",
    "\n",
    "{{",
    "{{#a}}",
    "{{/a}}",
]
PIECES += ["{{a}}", "{{{a", "{{ ", "{{#a}}{{/a}}", "{{#a}}{{^b}}", "{{/b}}{{#a}}", "}}", "{{{a} "]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("work", WORK)
def test_twice_the_text_takes_about_twice_the_time(work: str, piece: str) -> None:
    # 300 KB of "/*" held the interpreter for minutes.
    assert grows_linearly(lambda size: piece * (size // len(piece)), WORK[work])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("select 'it''s' ; select \";\" -- ;\n", ["select 'it''s'", 'select ";"']),
        ("select '/*' /* ; */;", ["select '/*'"]),
        ("select 'a''", ["select 'a''"]),
        ("select ';'';", ["select ';''"]),
        ("/* select ;", ["/* select"]),
        ("", [""]),
    ],
)
def test_statements(text: str, parts: list[str]) -> None:
    assert statements(text) == parts


def test_sections() -> None:
    template = "1{{#a}}2{{x}}{{^b}}3{{/b}}{{/a}}{{#none}}4{{/none}}{{^none}}5{{/none}}{{#open}}6{{! no }}{{&x}}{{{x}}}"
    assert render(template, {"a": True, "x": "X"}) == "12X356XX"
    assert names_in(template) == {"a", "x", "none"}
