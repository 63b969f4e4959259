"""The outline of a document: equal to what Python's parser reads, whatever the order, the spelling and the pieces."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.redash.outline import OUTER_LEVELS, TooManyStepsError, before_inner, outline

MOST = 1 << 20

odd_texts = st.sampled_from(['"', "\\", '{"a":', "}, {", "\ud800", "é\n"])
texts = st.text(st.characters(codec="utf-8"), max_size=8) | odd_texts
numbers = st.integers() | st.floats() | st.sampled_from([1e400, -0.0, 5e-324, 2**64])
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
rows = st.lists(st.fixed_dictionaries({"a": values, "b": scalars}), max_size=12)
data = st.fixed_dictionaries({"rows": rows | values, "columns": values})
others = {"id": scalars, "query": texts, "retrieved_at": texts}
members = st.fixed_dictionaries({"data": data | values}, optional=others)
shuffled = members.flatmap(lambda made: st.permutations(list(made.items()))).map(dict)
results = st.fixed_dictionaries({"query_result": shuffled})
documents = results | st.fixed_dictionaries({"query_result": shuffled, "job": values, "": scalars}) | values


@st.composite
def spelled(draw: st.DrawFn, documents: st.SearchStrategy[Any] = documents) -> bytes:
    """A document as some program may write it: escapes or UTF-8, white space anywhere outside strings."""
    document = draw(documents)
    space = st.sampled_from(["", "", "", " ", "\n\t\r "])
    before, after = draw(space), draw(space)
    separators = (f"{draw(space)},{draw(space)}", f"{draw(space)}:{draw(space)}")
    indent = draw(st.none() | st.just(1))
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), separators=separators, indent=indent)
    return f"{before}{text}{after}".encode("utf-8", "surrogatepass")


@st.composite
def pieces(draw: st.DrawFn, text: bytes) -> list[bytes]:
    """The text in pieces, cut at any byte."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def emptied(value: Any, level: int = 1) -> Any:
    """The value without the contents of its inner values."""
    if not isinstance(value, dict | list):
        return value
    if level > OUTER_LEVELS:
        return type(value)()
    if isinstance(value, list):
        return [emptied(item, level + 1) for item in value]
    return {key: emptied(item, level + 1) for key, item in value.items()}


def parsed(text: bytes) -> Any:
    return json.loads(text.decode("utf-8", "surrogatepass"))


def outlined(parts: list[bytes]) -> Any:
    return parsed(outline(parts, MOST))


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: NaN is NaN, 1 is not true."""
    return json.dumps(one) == json.dumps(other)


@given(st.data(), spelled())
def test_the_outline_has_all_that_is_not_inside(draws: st.DataObject, text: bytes) -> None:
    parts = draws.draw(pieces(text))
    assert same(outlined(parts), emptied(parsed(text)))


@given(spelled())
def test_any_single_byte_may_be_a_piece(text: bytes) -> None:
    assert same(outlined([bytes([byte]) for byte in text]), emptied(parsed(text)))


odd_bytes = st.sampled_from([*b'{}[]:,"\\ \n\x00\x1f\x7f-+.eE019NaInfulrst', 0xC3, 0xFF])
changes = st.tuples(st.integers(0, 10_000), st.integers(0, 3), odd_bytes)


@given(st.data(), spelled(), st.lists(changes, min_size=1, max_size=2))
@example(None, b'{"query_result": {"data": {"rows": [{"a": "\\NaN"}, {"a": 1}, {"a": 2}]}}}', [])
@example(None, b'{"query_result": {"data": {"rows": [{"a": 1NaN}, {"a": 1}, {"a": 2}]}}}', [])
@example(None, b'{"query_result": {"data": {"rows": [{"a": NaN}, {"a": -Infinity}, {"a": 2},]}}}', [])
@example(None, b'{"query_result": {"data": {"rows": [{"a": -NaN}, {"a": 1}, {"a": 2}]}}}', [])
@example(None, b'{"query_result": {"data": {"rows": [{"a": 1}, {"a": 1}, {"a": 2}}}}', [])
@example(None, b'{"query_result": {"data": {"rows": [{"a": 1}  {"a": 1}, {"a": 2}]}}}', [])
@example(None, b'{"query_result": {"data": {"rows": [{"a": [{"a": 1}, {"a": 1}]}, {"a": 2}]}}}', [])
@example(None, b'{"query_result": {"data": {"rows": [{"a": "\xff"}, {"a": 1}]}}}', [])
def test_what_is_no_json_is_refused(draws: Any, text: bytes, changed: list[tuple[int, int, int]]) -> None:
    # As by Python's parser, also where only the rows are concerned. That of msgspec accepts bytes that are no UTF-8.
    for anywhere, removed, byte in changed:
        at = anywhere % (len(text) + 1)
        text = text[:at] + bytes([byte]) + text[at + removed :]
    parts = [text] if draws is None else draws.draw(pieces(text))
    try:
        expected = emptied(parsed(text))
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - any kind of it
            outlined(parts)
    else:
        assert same(outlined(parts), expected)


INCOMPLETE = ("", " ", "{", '{"a": 1', '"a', "1 2", "[1,]", "{1: 2}", "nul", "-", '"\\u12', "]", '{"a"}')
LONG = (b'"' + b"x" * 10**6 + b'"', b'"' + b"\\u00e9" * 10**5 + b'"', b"[" + b"1," * 40_000 + b"1]")


@pytest.mark.parametrize("text", INCOMPLETE)
def test_incomplete_documents_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        outlined([text.encode()])


@pytest.mark.parametrize("inner", LONG, ids=["text", "escapes", "numbers"])
def test_inner_values_may_be_of_any_length(inner: bytes) -> None:
    text = b'{"query_result": {"data": {"rows": [{"a": ' + inner + b'}, {"a": 1}]}, "id": 7}}'
    parts = [text[at : at + 999] for at in range(0, len(text), 999)]
    assert outline(parts, 100) == b'{"query_result":{"data":{},"id":7}}'


def test_what_takes_too_many_steps_is_given_up() -> None:
    # Each value that is no usual row is a step of Python: 100 MB took minutes.
    text = b'{"query_result": {"data": {"rows": [' + b"1," * 10**5 + b"1]}}}"
    with pytest.raises(TooManyStepsError):
        outline([text[at : at + 9_999] for at in range(0, len(text), 9_999)], MOST)


def test_the_outline_is_bounded() -> None:
    query = b'{"query_result": {"data": {}, "query": "' + b"x" * 1000 + b'"}}'
    assert len(outline([query], 1100)) > 1000
    for part in (query, query[:900]):
        with pytest.raises(ValueError, match="too long"):
            outline([part], 800)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(RecursionError, match="deep"):
        outline([opening * 100_000], MOST)


@pytest.mark.parametrize("number", [b"1" * 10_000, b"1." + b"0" * 10_000])
def test_what_never_ends_is_refused(number: bytes) -> None:
    with pytest.raises(ValueError, match="long"):
        outline([number[at : at + 10] for at in range(0, len(number), 10)], MOST)


@given(spelled(results))
def test_what_stands_before_the_first_inner_value(text: bytes) -> None:
    # It is read from the first bytes of a result, so that callers may have it while it arrives.
    try:
        before: Any = before_inner(text)
    except ValueError:  # it has no inner value
        return
    whole = emptied(parsed(text))["query_result"]
    assert same(before["query_result"], {name: whole[name] for name in before["query_result"]})


def test_before_the_rows() -> None:
    text = b'{"query_result": {"retrieved_at": "t", "query": "select 1", "data": {"rows": [{"a": 1}]}, "id": 7}}'
    expected = {"query_result": {"retrieved_at": "t", "query": "select 1", "data": {}}}
    shortest = text.index(b'{"rows') + 1
    for length in range(shortest, len(text)):
        assert before_inner(text[:length]) == expected
    for length in range(shortest - 1):
        with pytest.raises(ValueError):  # noqa: PT011
            before_inner(text[:length])


def test_nan_is_read_as_python_reads_it() -> None:
    rows = b'[{"a": NaN}, {"a": -Infinity}, {"a": 1}]'
    found = outlined([b'{"query_result": {"runtime": NaN, "data": {"rows": ' + rows + b"}}}"])
    assert math.isnan(found["query_result"]["runtime"])
