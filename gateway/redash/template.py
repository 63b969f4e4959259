"""Mustache as Redash renders it (pystache without escaping): the tags of a query's template, and the rendered text.

Renders plain tags only; knows nothing of SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.model import Parameter

_SIGNS = "#^/!>&={"


class Tag(NamedTuple):
    """One `{{…}}`: its position, its sign (`""` for a plain one) and the name in it."""

    start: int
    end: int
    sign: str
    name: str


class Rendered(NamedTuple):
    """A rendered text and the positions of the parameter values in it: (start, end), ascending, never empty."""

    text: str
    spans: list[tuple[int, int]]


def tags(template: str) -> Iterator[Tag]:
    """Yield all tags in order, also after `{{=<% %>=}}` has changed the delimiters."""
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
    """Return every name whose value the template can show or test; dotted names such as `period.start` as a whole."""
    return frozenset(tag.name for tag in tags(template) if tag.name and tag.sign not in ("/", "!", ">", "="))


def is_plain(template: str) -> bool:
    """Whether it has no sections, partials, comments, triple mustaches or changed delimiters."""
    return not any(tag.sign for tag in tags(template))


def render(template: str, parameters: Sequence[Parameter], values: Mapping[str, object]) -> Rendered | None:
    """Insert the values into the plain tags; None if that takes a full Mustache engine."""
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
    """Return the text for `{{name}}`; None if there is none or it takes a full engine."""
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
    """Join a list of values as Redash does: each in prefix and suffix, with the separator between (CONTRACT 6)."""
    prefix, separator, suffix = wrapping(parameter)
    return separator.join(f"{prefix}{item}{suffix}" for item in items)


def wrapping(parameter: Parameter | None) -> tuple[str, str, str]:
    """Return prefix, separator and suffix of a multi-value parameter, with Redash's defaults."""
    options = (parameter.multiValuesOptions if parameter else None) or {}
    return str(options.get("prefix", "")), str(options.get("separator", ",")), str(options.get("suffix", ""))
