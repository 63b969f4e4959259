"""Mustache as Redash renders it (pystache, escaping off): the tags of a query's template, and the SQL for given values.

Only plain tags are rendered; nothing here knows SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.model import Parameter

_SIGNS = "#^/!>&={"


class Tag(NamedTuple):
    """One `{{…}}`: where it stands, its sign (`""` for a plain one) and the name in it."""

    start: int
    end: int
    sign: str
    name: str


class Rendered(NamedTuple):
    """A rendered text and where the parameter values lie in it: (start, end), ascending, never empty."""

    text: str
    spans: list[tuple[int, int]]


def tags(template: str) -> Iterator[Tag]:
    """All tags in order, also after `{{=<% %>=}}` has changed the delimiters."""
    opening, closing, at = "{{", "}}", 0
    while (start := template.find(opening, at)) >= 0:
        inside = start + len(opening)
        end = template.find(closing, inside)
        if end < 0:
            return
        key = template[inside:end].strip()
        at = end + len(closing)
        sign = key[:1] if key[:1] in _SIGNS else ""
        if sign == "{" and template.startswith("}", at):
            at += 1
        yield Tag(start, at, sign, key[len(sign) :].strip().rstrip("=}" if sign in ("=", "{") else ""))
        delimiters = key.strip("=").split()
        if sign == "=" and len(delimiters) == 2:
            opening, closing = delimiters


def names(template: str) -> frozenset[str]:
    """Every name whose value the template can show or test; of `{{period.start}}` the whole, dotted name."""
    return frozenset(tag.name for tag in tags(template) if tag.name and tag.sign not in ("/", "!", ">", "="))


def is_plain(template: str) -> bool:
    """Whether it has no sections, partials, comments, triple mustaches or other delimiters."""
    return not any(tag.sign for tag in tags(template))


def render(template: str, parameters: Sequence[Parameter], values: Mapping[str, object]) -> Rendered | None:
    """Paste the values into the plain tags; None where that cannot be done without a full Mustache engine."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    at = length = 0
    for tag in tags(template):
        value = None if tag.sign else value_text(tag.name, parameters, values)
        if value is None:
            return None
        fixed = template[at : tag.start]
        pieces += (fixed, value)
        length += len(fixed) + len(value)
        if value:
            spans.append((length - len(value), length))
        at = tag.end
    pieces.append(template[at:])
    return Rendered("".join(pieces), spans)


def value_text(name: str, parameters: Sequence[Parameter], values: Mapping[str, object]) -> str | None:
    """The text that stands for `{{name}}`; None if there is none or only a full engine could tell."""
    root, *path = name.split(".")
    if root not in values:
        return None
    found = values[root]
    if isinstance(found, list) and not path:
        return joined(found, next((p for p in parameters if p.name == root), None))
    for part in path:
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    if isinstance(found, Mapping | list):
        return None
    return str(found)


def joined(items: Sequence[object], parameter: Parameter | None) -> str:
    """A list of values as Redash joins it: each within prefix and suffix, between them the separator (CONTRACT 6)."""
    prefix, separator, suffix = wrapping(parameter)
    return separator.join(f"{prefix}{item}{suffix}" for item in items)


def wrapping(parameter: Parameter | None) -> tuple[str, str, str]:
    """Prefix, separator and suffix of a multi-value parameter, with Redash's defaults."""
    options = (parameter.multiValuesOptions if parameter else None) or {}
    return str(options.get("prefix", "")), str(options.get("separator", ",")), str(options.get("suffix", ""))
