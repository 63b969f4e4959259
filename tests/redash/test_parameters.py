"""The GET form's arguments become the values that Redash's front end would have sent."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.errors import BadRequest
from gateway.model import Definition, Parameter
from gateway.redash.parameters import defaults, is_raw_sql, parse_parameters, undeclared

NOW = datetime(2024, 2, 29, 14, 5, 59, tzinfo=ZoneInfo("Europe/Berlin"))

NUMBER = Parameter(name="n", type="number", value=10)
STATUS = Parameter(name="status", type="enum", value="paid", enumOptions=("new", "paid", "shipped"))
STATUSES = Parameter(
    name="s",
    type="enum",
    value=["paid", "new"],
    enumOptions=("new", "paid", "shipped"),
    multiValuesOptions={"prefix": "'", "suffix": "'", "separator": ","},
)
PERIOD = Parameter(name="d", type="date-range", value={"start": "2024-01-01", "end": "2024-01-31"})
DAY = Parameter(name="day", type="datetime-local", value="d_now")


def definition(*parameters: Parameter, text: str = "select 1") -> Definition:
    return Definition(
        query_id=1,
        name="q",
        text=text,
        marker="m",
        query_hash="h",
        data_source_id=1,
        latest_result_id=None,
        parameters=parameters,
        tags=(),
        auto_limit=False,
    )


def read(parameter: Parameter, *arguments: tuple[str, str]) -> object:
    return parse_parameters(definition(parameter), list(arguments), NOW)[parameter.name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("-12", -12),
        (" 5", 5),  # what becomes of +5 in a URL
        ("9007199254740993", 9007199254740993),
        ("1.0", 1.0),
        ("1.5", 1.5),
        ("1.50", "1.50"),
        ("1e3", "1e3"),
        ("007", "007"),
        ("0.1000000000000000055", "0.1000000000000000055"),
    ],
)
def test_numbers_stay_as_they_are_written(text: str, expected: object) -> None:
    value = read(NUMBER, ("p_n", text))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("text", ["", "abc", "nan", "inf", "1_000", "1 2", "1;drop", "١", "0x1"])
def test_what_is_no_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadRequest, match="'n' must be a number"):
        read(NUMBER, ("p_n", text))


def test_options_must_be_in_the_list_and_the_error_shows_it() -> None:
    assert read(STATUS, ("p_status", "new")) == "new"
    with pytest.raises(BadRequest, match="'status' must be one of: new, paid, shipped"):
        read(STATUS, ("p_status", "bogus"))
    with pytest.raises(BadRequest, match="'status' takes one value"):
        read(STATUS, ("p_status", "new"), ("p_status", "paid"))


def test_lists_are_repeated_arguments_or_json() -> None:
    # CONTRACT 6: order and repetition of list items matter, and a scalar would lose prefix and suffix.
    assert read(STATUSES, ("p_s", "paid"), ("p_s", "new"), ("p_s", "paid")) == ["paid", "new", "paid"]
    assert read(STATUSES, ("p_s", '["new", "paid"]')) == ["new", "paid"]
    assert read(STATUSES, ("p_s", "new")) == ["new"]
    assert read(STATUSES, ("p_s", "[]")) == []
    with pytest.raises(BadRequest, match="'s' must be one of"):
        read(STATUSES, ("p_s", '["new", "bogus"]'))


def test_a_dropdown_query_takes_what_it_is_given() -> None:
    assert read(Parameter(name="c", type="query", queryId=9), ("p_c", "DE")) == "DE"
    several = Parameter(name="c", type="query", queryId=9, multiValuesOptions={})
    assert read(several, ("p_c", "DE"), ("p_c", "FR")) == ["DE", "FR"]


@pytest.mark.parametrize(
    "arguments",
    [
        [("p_d.start", "2024-02-01"), ("p_d.end", "2024-02-02")],
        [("p_d", '{"end": "2024-02-02", "start": "2024-02-01"}')],
        [("p_d", "2024-02-01--2024-02-02")],
    ],
)
def test_ranges_are_two_arguments_json_or_the_form_of_redash_pages(arguments: list[tuple[str, str]]) -> None:
    assert read(PERIOD, *arguments) == {"start": "2024-02-01", "end": "2024-02-02"}


@pytest.mark.parametrize(
    "arguments",
    [
        [("p_d.start", "2024-02-01")],
        [("p_d", "2024-02-01")],
        [("p_d", '{"start": "2024-02-01"}')],
        [("p_d", '{"start": 1, "end": 2}')],
        [("p_d", "d_last_week"), ("p_d.start", "2024-02-01")],
        [("p_d", "d_bogus")],
    ],
)
def test_half_a_range_is_refused(arguments: list[tuple[str, str]]) -> None:
    with pytest.raises(BadRequest, match=r"'d' is a range: give p_d\.start and p_d\.end"):
        read(PERIOD, *arguments)


def test_dynamic_dates_are_resolved_as_values_and_as_defaults() -> None:
    assert read(DAY) == "2024-02-29 14:05"
    assert read(DAY, ("p_day", "d_yesterday")) == "2024-02-28 14:05"
    assert read(PERIOD, ("p_d", "d_last_week")) == {"start": "2024-02-18", "end": "2024-02-24"}
    assert read(PERIOD, ("p_d.start", "d_yesterday"), ("p_d.end", "d_now")) == {
        "start": "2024-02-28",
        "end": "2024-02-29",
    }
    assert defaults(definition(Parameter(name="d", type="date-range", value="d_this_month")), NOW) == {
        "d": {"start": "2024-02-01", "end": "2024-02-29"}
    }


def test_dates_are_passed_on_as_written_but_tokens_must_exist() -> None:
    assert read(DAY, ("p_day", "2024-06-01T08:00")) == "2024-06-01T08:00"
    with pytest.raises(BadRequest, match=r"'day': 'd_tomorrow' is none of d_now or d_yesterday"):
        read(DAY, ("p_day", "d_tomorrow"))
    with pytest.raises(BadRequest, match="'day' must be a date"):
        read(DAY, ("p_day", " "))


def test_unknown_names_are_refused_with_the_names_there_are() -> None:
    with pytest.raises(BadRequest, match=r"Unknown parameter 'bogus'. This query has: n, status"):
        parse_parameters(definition(NUMBER, STATUS), [("p_bogus", "1")], NOW)
    with pytest.raises(BadRequest, match="This query has: none"):
        parse_parameters(definition(), [("p_x.start", "1")], NOW)
    with pytest.raises(BadRequest, match="'n' is no range"):
        read(NUMBER, ("p_n.start", "1"))


def test_other_arguments_are_not_ours() -> None:
    assert parse_parameters(definition(NUMBER), [("max_age", "60"), ("bogus", "1")], NOW) == {"n": 10}


def test_missing_ones_take_the_defaults() -> None:
    query = definition(NUMBER, STATUS, STATUSES, PERIOD, DAY, Parameter(name="t", type="text", value=""))
    assert parse_parameters(query, [("p_n", "3")], NOW) == {
        "n": 3,
        "status": "paid",
        "s": ["paid", "new"],
        "d": {"start": "2024-01-01", "end": "2024-01-31"},
        "day": "2024-02-29 14:05",
        "t": "",
    }


def test_defaults_that_are_no_option_count_as_on_redash_pages() -> None:
    stale = Parameter(name="status", type="enum", value="gone", enumOptions=("new", "paid"))
    assert defaults(definition(stale), NOW) == {"status": "new"}
    several = Parameter(name="s", type="enum", value="paid", enumOptions=("new", "paid"), multiValuesOptions={})
    assert defaults(definition(several), NOW) == {"s": ["paid"]}
    nothing = Parameter(name="s", type="enum", value=["gone"], enumOptions=("new",), multiValuesOptions={})
    assert defaults(definition(nothing, Parameter(name="n", type="number", value="7")), NOW) == {"n": 7}


def test_a_used_parameter_without_value_and_default_is_refused() -> None:
    query = definition(Parameter(name="n", type="number"), text="select {{ n }}")
    with pytest.raises(BadRequest, match="'n' has no default: give p_n="):
        parse_parameters(query, [], NOW)
    assert parse_parameters(definition(Parameter(name="n", type="number")), [], NOW) == {}


def test_undeclared_names_are_texts() -> None:
    query = definition(text="select {{ x }}, {{ w.start }}, {{ w.end }}")
    assert parse_parameters(query, [("p_x", "5"), ("p_w.start", "a"), ("p_w.end", "b")], NOW) == {
        "x": "5",
        "w": {"start": "a", "end": "b"},
    }
    with pytest.raises(BadRequest, match="'w' has no default"):
        parse_parameters(query, [("p_x", "5")], NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select {{ n }}, {{d.start}}", set()),
        ("select {{ x }}", {"x"}),
        ("{{#x}}{{{y}}}{{/x}}{{^z}}{{&w}}{{/z}}{{! no }}", {"x", "y", "z", "w"}),
        ("{{=<% %>=}}<% x %>{{ y }}", {"x"}),
        ("{{ d.foo }}, {{ n.start }}, {{ d.start.x }}", {"d.foo", "n.start", "d.start.x"}),
        ("select '{{ x'", set()),
    ],
)
def test_undeclared_names_are_found_in_every_kind_of_tag(text: str, expected: set[str]) -> None:
    assert undeclared(text, (NUMBER, PERIOD)) == expected
    assert is_raw_sql(definition(NUMBER, PERIOD, text=text)) is bool(expected)


def test_text_parameters_are_raw_sql_and_patterns_are_not() -> None:
    # CONTRACT 2: `text-pattern` is safe.
    assert is_raw_sql(definition(Parameter(name="t", type="text")))
    assert not is_raw_sql(definition(Parameter(name="t", type="text-pattern")))
