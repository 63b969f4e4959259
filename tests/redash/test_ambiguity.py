"""Where answers carry no SQL, requests that Redash could mix up are known from the definition (CONTRACT 7)."""

from __future__ import annotations

import pytest

from gateway.model import Parameter
from gateway.redash.ambiguity import is_ambiguous

NUMBER = Parameter(name="n", type="number")
DAY = Parameter(name="day", type="date")
STATUS = Parameter(name="status", type="enum", enumOptions=("new", "paid", "shipped"))
CITY = Parameter(name="city", type="enum", enumOptions=("New York", "NewYork", "Paris"))
PATTERN = Parameter(name="code", type="text-pattern")
PERIOD = Parameter(name="period", type="datetime-range")
QUOTED = {"prefix": "'", "suffix": "'", "separator": ", "}


@pytest.mark.parametrize(
    ("text", "parameters", "values"),
    [
        ("select 1", (), {}),
        ("select {{ n }}", (NUMBER,), {"n": 5}),
        ("select '{{ status }}'", (STATUS,), {"status": "paid"}),
        ("select '{{ city }}'", (CITY,), {"city": "Paris"}),
        ("select '{{ day }}'", (DAY,), {"day": "2024-06-01"}),
        (
            "where d between '{{ period.start }}' and '{{ period.end }}' and n > {{ n }} and s = '{{ status }}'",
            (PERIOD, NUMBER, STATUS),
            {"period": {"start": "2024-01-01 00:00", "end": "2024-01-02 00:00"}, "n": 1, "status": "new"},
        ),
        ("select 1", (PATTERN,), {"code": "A B"}),
    ],
)
def test_what_has_one_reading_is_not_ambiguous(
    text: str, parameters: tuple[Parameter, ...], values: dict[str, object]
) -> None:
    assert not is_ambiguous(text, parameters, values)


@pytest.mark.parametrize(
    ("text", "parameters", "values"),
    [
        ("select '{{ city }}'", (CITY,), {"city": "New York"}),
        ("select '{{ city }}'", (CITY,), {"city": "NewYork"}),
        ("select '{{ code }}'", (PATTERN,), {"code": "AB"}),
        ("select '{{ x }}'", (), {"x": "AB"}),
        ("select {{ n }}", (NUMBER,), {"n": " 5 "}),
        ("select '{{ day }}'", (DAY,), {"day": "1 12 2024"}),  # "11 2 2024" has the same hash
        ("select {{ n }} {{ m }}", (NUMBER, Parameter(name="m", type="number")), {"n": 1, "m": 23}),
        ("select {{#n}}{{n}}{{/n}}", (NUMBER,), {"n": 5}),
    ],
)
def test_what_may_be_mixed_up_is_ambiguous(
    text: str, parameters: tuple[Parameter, ...], values: dict[str, object]
) -> None:
    assert is_ambiguous(text, parameters, values)


@pytest.mark.parametrize(
    ("options", "joining", "expected"),
    [
        ("new\npaid", QUOTED, False),
        ("New York\nParis", QUOTED, False),
        ("New York\nNewYork", QUOTED, True),
        ("a\nb\nab", {"separator": " "}, True),  # "a b" and "ab"
        ("a b\nc\na\nb c", {"separator": ""}, True),  # "a b" + "c" and "a" + "b c"
        ("a', 'b\na\nb", QUOTED, True),
        ("a\nb", {}, False),
    ],
)
def test_lists_are_ambiguous_where_their_items_run_together(
    options: str, joining: dict[str, object], expected: bool
) -> None:
    several = Parameter(name="s", type="enum", enumOptions=tuple(options.split("\n")), multiValuesOptions=joining)
    assert is_ambiguous("in ({{ s }})", (several,), {"s": options.split("\n")[:1]}) is expected


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("select '/*{{ x }}*/'", "DE\nFR", True),  # the hash of both is that of ''
        ("select 1 /* for {{ x }} */", "DE\nFR", True),
        ("select '{{ x }}' /* a comment */", "DE\nFR", False),
        ("select '/*'\n, '{{ x }}', '*/'", "DE\nFR", False),  # of one line only
        ("select '/{{ x }}'", "*a*/\n*b*/", True),
        ("select '{{ x }}*/'", "/*a\n/*b", True),
        ("select '{{ x }}{{ y }}'", "/*\n*/", True),
        ("select 2 * 3, '{{ x }}'", "a\nb", False),
        ("select * from t where x = '{{ x }}'", "/a/b/\n/c/d/", False),
        ("select 2*{{ x }}", "/*\nb", True),
    ],
)
def test_values_that_a_comment_may_hide_are_ambiguous(text: str, options: str, expected: bool) -> None:
    """Redash removes comments before it hashes, also within quotes (CONTRACT 7)."""
    shown = tuple(Parameter(name=name, type="enum", enumOptions=tuple(options.split("\n"))) for name in "xy")
    values = dict.fromkeys("xy", options.split("\n", maxsplit=1)[0])
    assert is_ambiguous(text, shown, values) is expected
