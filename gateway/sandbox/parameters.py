"""Parameter values of a request against the definitions of a query, and the resulting SQL text (CONTRACT 6).
The exceptions defined here are 400 in Redash; any other exception is 500.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from numbers import Number
from typing import Any

from .sqltext import names_in, render
from .versions import Version

Schema = Sequence[Mapping[str, Any]]
"""The definitions of a query's parameters."""
Dropdown = Callable[[Any], Sequence[str]]
"""Maps the id of a dropdown query to the values that it allows now."""

_WORD_LIST = (
    "jan january feb february mar march apr april may jun june jul july aug august sep sept september oct october nov"
    " november dec december mon monday tue tuesday wed wednesday thu thursday fri friday sat saturday sun sunday"
    " am pm a p t z utc gmt at on and of st nd rd th m h s"
)
_WORDS = frozenset(_WORD_LIST.split())


class InvalidParametersError(Exception):
    """400: values that do not match their definitions."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"The following parameter values are incompatible with their definitions: {', '.join(names)}")


class DetachedError(Exception):
    """400: the dropdown query of a parameter has no data source."""

    def __init__(self, query_id: Any) -> None:
        super().__init__(
            f"This query is detached from any data source. Please select a different query. (query id: {query_id})"
        )


def applied(template: str, schema: Schema, values: Mapping[str, Any], dropdown: Dropdown, version: Version) -> str:
    """The SQL text for these values. No defaults are filled in."""
    invalid = [name for name, value in values.items() if not _accepted(schema, name, value, dropdown, version)]
    if invalid:
        raise InvalidParametersError(invalid)
    return render(template, _joined(values, schema))


def missing(template: str, values: Mapping[str, Any]) -> list[str]:
    """Names in the template without a value. Redash has no fixed order; here it is alphabetical."""
    given: set[str] = set()
    for name, value in values.items():
        given |= {f"{name}.{inner}" for inner in value} if isinstance(value, Mapping) else {name}
    return sorted(names_in(template) - given)


def _joined(values: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    definitions = {definition["name"]: definition for definition in schema}
    return {
        name: _list_text(value, definitions.get(name, {})) if isinstance(value, list) else value
        for name, value in values.items()
    }


def _list_text(values: list[Any], definition: Mapping[str, Any]) -> str:
    multi = definition.get("multiValuesOptions") or {}
    prefix, suffix = str(multi.get("prefix", "")), str(multi.get("suffix", ""))
    return str(multi.get("separator", ",")).join([prefix + value + suffix for value in values])


def _accepted(schema: Schema, name: str, value: Any, dropdown: Dropdown, version: Version) -> bool:
    try:
        return _valid(schema, name, value, dropdown, version)
    except DetachedError:
        raise
    except Exception:  # a value that cannot be checked, whatever the reason is
        if version.broken_check_is_400:
            return False
        raise


def _valid(schema: Schema, name: str, value: Any, dropdown: Dropdown, version: Version) -> bool:
    if not schema:
        return True
    definition = next((d for d in schema if d["name"] == name), None)
    if definition is None:
        return False
    kind = definition.get("type")
    if kind in ("enum", "query"):
        return _within(value, _options(definition, dropdown), isinstance(definition.get("multiValuesOptions"), dict))
    if kind == "text-pattern" and version.text_pattern:
        return _matches(value, str(definition.get("regex", "")))
    check = _CHECKS.get(str(kind))
    return check is not None and check(value)


def _options(definition: Mapping[str, Any], dropdown: Dropdown) -> Sequence[str]:
    if definition["type"] == "query":
        return dropdown(definition.get("queryId"))
    options = definition.get("enumOptions") or ""
    return options.split("\n") if isinstance(options, str) else list(options)


def _within(value: Any, options: Sequence[str], several: bool) -> bool:
    if isinstance(value, list):
        return several and set(map(str, value)) <= set(options)
    return str(value) in options


def _matches(value: Any, regex: str) -> bool:
    try:
        return re.fullmatch(regex, value) is not None
    except re.error:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """Everything that float() accepts: "nan", "1_000", " 5 ", true."""
    if isinstance(value, Number):
        return True
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_range(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_date(value.get(end)) for end in ("start", "end"))


def _is_date(value: Any) -> bool:
    """Close to what dateutil reads: its words, and numbers that make a date; punctuation and quotes are skipped."""
    if not isinstance(value, str):
        return False
    tokens = re.findall(r"[a-z]+|\d+", value.lower())
    words = [token for token in tokens if not token.isdigit()]
    if not tokens or not _WORDS.issuperset(words):
        return False
    day = re.match(r"\W*(\d{4})-(\d{1,2})-(\d{1,2})", value)
    return day is None or _is_day(*map(int, day.groups()))


def _is_day(year: int, month: int, day: int) -> bool:
    for first, second in ((month, day), (day, month)):
        try:
            datetime(year, first, second)
        except ValueError:
            continue
        return True
    return False


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "text": _is_text,
    "number": _is_number,
    "date": _is_date,
    "datetime-local": _is_date,
    "datetime-with-seconds": _is_date,
    "date-range": _is_range,
    "datetime-range": _is_range,
    "datetime-range-with-seconds": _is_range,
}
