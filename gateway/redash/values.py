"""Do the values of a request fit their definitions? Those of typed parameters must not be able to become SQL.

Redash itself is more lenient: it pastes any date that dateutil can read, `2024-06-01' --` too (CONTRACT 6, 25.8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from gateway.errors import BadRequest
from gateway.model import Definition, Parameter
from gateway.redash import dates, template

_FLOAT = re.compile(r" *[0-9A-Za-z_.+-]+ *")
_LONGEST_NUMBER = 400
"""Characters: longer than any number of a double."""

_SHOWN = 20  # options named in an error

_JUDGED = dates.ALL | {"text", "number", "enum"}
CHECKED = dates.ALL | {"number", "enum", "query", "text-pattern"}
"""Types whose values are checked, here or by Redash. The value of every other type, known or not, is the caller's text.
"""


def checked_values(definition: Definition, values: Mapping[str, object]) -> dict[str, object]:
    """Return the values that Redash will use: without those that it ignores, as no tag of the query shows them.

    Raises:
        BadRequest: a name is unknown, or a value does not fit its definition.
    """
    declared = by_name(definition)
    used = template.names(definition.text)
    roots = {name.partition(".")[0] for name in used}
    kept: dict[str, object] = {}
    for name, value in values.items():
        parameter = declared.get(name)
        if parameter is not None:
            kept[name] = _checked(parameter, value, used)
        elif declared:  # Redash refuses it, too
            raise unknown(name, declared)
        elif name in roots:
            kept[name] = value
    return kept


def by_name(definition: Definition) -> dict[str, Parameter]:
    """Return the parameters of a query by name; of several with one name, Redash uses the first."""
    return {parameter.name: parameter for parameter in reversed(definition.parameters)}


def can_be_judged(definition: Definition) -> bool:
    """Whether all values can be judged here. Only Redash knows a dropdown's options and runs regular expressions."""
    return all(parameter.type in _JUDGED for parameter in definition.parameters)


def unknown(name: str, known: Mapping[str, object] | frozenset[str]) -> BadRequest:
    """Return the error for a name that the query does not have."""
    return BadRequest(f"Unknown parameter '{name}'. This query has: {', '.join(sorted(known)) or 'none'}.")


def _checked(parameter: Parameter, value: object, used: frozenset[str]) -> object:
    if parameter.type in dates.RANGES:
        return _range(parameter, value, used)
    if parameter.type in dates.DATES:
        if not isinstance(value, str) or not dates.is_date(value):
            raise not_a_date(parameter)
    elif parameter.type == "number":
        if not is_number(value):
            raise not_a_number(parameter)
    elif parameter.type in ("enum", "query"):
        _check_choice(parameter, value)
    elif parameter.type in ("text", "text-pattern") and not isinstance(value, str):
        raise BadRequest(f"Parameter '{parameter.name}' must be a text.")
    return value


def _range(parameter: Parameter, value: object, used: frozenset[str]) -> object:
    """Check both ends. Redash ignores other members when it checks, but renders them where a tag names one."""
    ends = value if isinstance(value, Mapping) else {}
    if not all(isinstance(ends.get(end), str) and dates.is_date(str(ends[end])) for end in ("start", "end")):
        raise BadRequest(
            f"Parameter '{parameter.name}' must be an object with the dates 'start' and 'end', like 2024-12-31."
        )
    kept = {inner: v for inner, v in ends.items() if inner in ("start", "end") or f"{parameter.name}.{inner}" in used}
    return value if len(kept) == len(ends) else kept


def _check_choice(parameter: Parameter, value: object) -> None:
    several = parameter.multiValuesOptions is not None and isinstance(value, list)
    chosen = value if several and isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in chosen):
        raise BadRequest(f"Parameter '{parameter.name}' takes {'texts' if several else 'one text'}.")
    if parameter.type == "enum":
        check_options(parameter, [str(item) for item in chosen])


def check_options(parameter: Parameter, texts: Sequence[str]) -> None:
    """Check that all texts are options.

    Raises:
        BadRequest: one is not.
    """
    choices = parameter.enumOptions
    if not choices:
        raise BadRequest(f"Parameter '{parameter.name}' has no options in its definition, so it takes no value.")
    if not set(texts) <= set(choices):
        more = " …" if len(choices) > _SHOWN else ""
        raise BadRequest(f"Parameter '{parameter.name}' must be one of: {', '.join(choices[:_SHOWN])}{more}.")


def is_number(value: object) -> bool:
    """Whether Redash takes it for a number: a JSON number, true or false, or a text for Python's `float()`."""
    if isinstance(value, str):
        if len(value) > _LONGEST_NUMBER or not _FLOAT.fullmatch(value):
            return False
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def not_a_number(parameter: Parameter) -> BadRequest:
    """Return the error for a value that is no number."""
    return BadRequest(f"Parameter '{parameter.name}' must be a number, like 10 or -2.5.")


def not_a_date(parameter: Parameter) -> BadRequest:
    """Return the error for a value that is no date."""
    return BadRequest(f"Parameter '{parameter.name}' must be a date, like 2024-12-31, or an ISO 8601 date and time.")
