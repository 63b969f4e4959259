"""Parameter values of the GET form, `?p_<name>=<value>`: types, defaults, dynamic dates; and which are raw SQL.

Redash checks values itself. Here is only what it leaves to its front end, and checks of values that it would
misunderstand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from gateway.errors import BadRequest
from gateway.model import Definition, Parameter
from gateway.redash import dates, template
from gateway.redash.json_text import load_json
from gateway.redash.values import CHECKED, by_name, check_options, not_a_date, not_a_number, unknown

_NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_UNDECLARED = "undeclared"


def undeclared(definition_text: str, parameters: Sequence[Parameter]) -> frozenset[str]:
    """Return names that the template uses without a definition: their values become SQL (CONTRACT 2, 20.10).

    Of a range only start and end are checked; `{{ d.foo }}` shows what the caller adds to it.
    """
    declared = {parameter.name for parameter in parameters}
    declared |= {f"{p.name}.{end}" for p in parameters if p.type in dates.RANGES for end in ("start", "end")}
    return template.names(definition_text) - declared


def is_raw_sql(definition: Definition) -> bool:
    """Whether a caller's values can become SQL: of type `text` or an unknown type, or of an undeclared `{{x}}`."""
    if any(parameter.type not in CHECKED for parameter in definition.parameters):
        return True
    return bool(undeclared(definition.text, definition.parameters))


def parse_parameters(definition: Definition, arguments: list[tuple[str, str]], now: datetime) -> dict[str, object]:
    """Return the values of the `p_…` arguments, and the query's defaults for all others.

    `now` is in the configured time zone.

    Raises:
        BadRequest: a name is unknown, a value does not fit its definition, or a parameter has no value and no default.
    """
    given = _by_parameter(definition, arguments)
    values = defaults(definition, now)
    declared = by_name(definition)
    for name, parts in given.items():
        values[name] = _value(declared.get(name) or Parameter(name=name, type=_UNDECLARED), parts, now)
    missing = sorted({name.partition(".")[0] for name in template.names(definition.text)} - values.keys() - {""})
    if missing:
        raise BadRequest(f"Parameter '{missing[0]}' has no default: give p_{missing[0]}=<value>.")
    return values


def defaults(definition: Definition, now: datetime) -> dict[str, object]:
    """Return the query's default values, with dynamic dates resolved; parameters without a default are left out."""
    found = {parameter.name: _default(parameter, now) for parameter in definition.parameters}
    return {name: value for name, value in found.items() if value is not None}


def names_of(definition: Definition) -> frozenset[str]:
    """Return the names of a query's parameters, declared or not."""
    loose = {name.partition(".")[0] for name in undeclared(definition.text, definition.parameters)}
    return frozenset(loose | by_name(definition).keys()) - {""}


def check_others(definition: Definition, others: Sequence[str]) -> None:
    """Refuse arguments whose name means a parameter of the query; Redash ignores all others, and so does the gateway.

    Raises:
        BadRequest: `country`, `P_country` or `Country` where the query has `country`.
    """
    known = {_plain(name): name for name in names_of(definition)}
    for given in others:
        name, dot, end = given.partition(".") if _plain(given) not in known else (given, "", "")
        meant = known.get(_plain(name))
        if meant is not None:
            raise BadRequest(f"Unknown argument '{given}'; the parameter's is called p_{meant}{dot}{end.lower()}.")


def _plain(name: str) -> str:
    """Return a name as it is compared to guess what was meant: case, `-` for `_` and a prefix `p_` do not count."""
    return name.lower().replace("-", "_").removeprefix("p_")


def _by_parameter(definition: Definition, arguments: list[tuple[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Group the values by parameter name, then by `""`, `"start"` or `"end"`."""
    known = names_of(definition)
    given: dict[str, dict[str, list[str]]] = {}
    for argument, value in arguments:
        if not argument.startswith("p_"):
            continue
        name, part = argument[2:], ""
        if name not in known and name.endswith((".start", ".end")):
            name, _, part = name.rpartition(".")
        if name not in known:
            check_others(definition, [argument[2:]])
            raise unknown(argument[2:], known)
        given.setdefault(name, {}).setdefault(part, []).append(value)
    return given


def _default(parameter: Parameter, now: datetime) -> object:
    value = parameter.value
    if parameter.type == "enum":
        return _enum_default(parameter)
    if parameter.type == "number" and isinstance(value, str):
        return _number(value)
    if isinstance(value, str) and parameter.type in dates.RANGES:
        return dates.resolve_range(value, parameter.type, now)
    if isinstance(value, str) and parameter.type in dates.DATES:
        return dates.resolve_date(value, parameter.type, now) or value
    return value


def _enum_default(parameter: Parameter) -> object:
    """Choose as Redash's page does: ignore values that are not (or no longer) options, always set one option."""
    choices = parameter.enumOptions
    if parameter.multiValuesOptions is None:
        return parameter.value if parameter.value in choices else next(iter(choices), None)
    chosen = parameter.value if isinstance(parameter.value, list) else [parameter.value]
    known = set(choices)
    return [choice for choice in chosen if isinstance(choice, str) and choice in known] or None


def _value(parameter: Parameter, parts: dict[str, list[str]], now: datetime) -> object:
    if parameter.type in dates.RANGES or "" not in parts:
        return _range(parameter, {part: _one(parameter, texts) for part, texts in parts.items()}, now)
    if len(parts) > 1:
        raise BadRequest(f"Parameter '{parameter.name}' is no range: give p_{parameter.name} alone.")
    if parameter.multiValuesOptions is not None and parameter.type in ("enum", "query"):
        return _several(parameter, parts[""])
    return _single(parameter, _one(parameter, parts[""]), now)


def _one(parameter: Parameter, texts: list[str]) -> str:
    if len(texts) > 1:
        raise BadRequest(f"Parameter '{parameter.name}' takes one value, not {len(texts)}.")
    return texts[0]


def _single(parameter: Parameter, text: str, now: datetime) -> object:
    if parameter.type == "number":
        number = _number(text)
        if number is None:
            raise not_a_number(parameter)
        return number
    if parameter.type == "enum":
        check_options(parameter, [text])
    return _date(parameter, text, now) if parameter.type in dates.DATES else text


def _several(parameter: Parameter, texts: list[str]) -> list[str]:
    items = _json(texts[0]) if len(texts) == 1 else None
    if isinstance(items, list) and any(isinstance(item, list | dict) for item in items):
        raise BadRequest(f"Parameter '{parameter.name}' takes a list of texts.")
    chosen = [str(item) for item in items] if isinstance(items, list) else texts
    if parameter.type == "enum":
        check_options(parameter, chosen)
    return chosen


def _number(text: str) -> int | float | str | None:
    """Return a JSON number if it prints as it was written, else the text itself: Redash accepts both.

    So 1, 1.0 and 1.50 stay three different values, and no digit is lost. None if it is not a number.
    """
    text = text.strip()  # a plus sign in a URL is decoded as a space
    if not _NUMBER.fullmatch(text):
        return None
    whole = text.lstrip("-").isdigit()
    number = int(text) if whole and len(text) < 100 else float(text)
    return number if str(number) == text else text


def _date(parameter: Parameter, text: str, now: datetime) -> str:
    if not text.strip():
        raise BadRequest(
            f"Parameter '{parameter.name}' must be a date, like 2024-12-31, or {_names(dates.date_names())}."
        )
    if not text.startswith("d_"):
        if not dates.is_date(text):
            raise not_a_date(parameter)
        return text
    resolved = dates.resolve_date(text, parameter.type, now)
    if resolved is None:
        raise BadRequest(f"Parameter '{parameter.name}': '{text}' is none of {_names(dates.date_names())}.")
    return resolved


def _range(parameter: Parameter, parts: dict[str, str], now: datetime) -> dict[str, str]:
    if parameter.type not in (*dates.RANGES, _UNDECLARED):
        raise _no_range(parameter)
    whole = parts.pop("", None)
    if whole is not None and not parts:
        return _whole_range(parameter, whole, now)
    if whole is None and parts.keys() == {"start", "end"}:
        return {end: _end(parameter, parts[end], now) for end in ("start", "end")}
    raise _no_range(parameter)


def _whole_range(parameter: Parameter, text: str, now: datetime) -> dict[str, str]:
    """Parse a dynamic range, a JSON object, or `start--end` as in the URLs of Redash's own pages."""
    resolved = dates.resolve_range(text, parameter.type, now)
    if resolved is not None:
        return resolved
    ends = _json(text)
    if not isinstance(ends, dict):
        ends = dict(zip(("start", "end"), text.split("--"), strict=False)) if text.count("--") == 1 else {}
    if not all(isinstance(ends.get(end), str) for end in ("start", "end")):
        raise _no_range(parameter)
    return {end: _end(parameter, ends[end], now) for end in ("start", "end")}


def _end(parameter: Parameter, text: str, now: datetime) -> str:
    return _date(parameter, text, now) if parameter.type in dates.ALL else text


def _no_range(parameter: Parameter) -> BadRequest:
    name = parameter.name
    if parameter.type not in (*dates.RANGES, _UNDECLARED):
        return BadRequest(f"Parameter '{name}' is no range: give p_{name} alone.")
    names = _names(dates.range_names())
    return BadRequest(f"Parameter '{name}' is a range: give p_{name}.start and p_{name}.end, or p_{name}={names}.")


def _names(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]


def _json(text: str) -> object:
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return load_json(text)
    except ValueError:
        return None
