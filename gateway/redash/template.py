"""Mustache as Redash renders it (pystache without escaping): the tags of a query's template, and the rendered text.

Renders plain tags only; knows nothing of SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.errors import BadRequest
from gateway.model import Parameter

LONGEST_TEXT: Final = 4 * 1024 * 1024
"""Characters of a rendered text. One value may be shown many times: 1 MB of request could become gigabytes of SQL."""

MOST_TAGS: Final = 2_000
"""Of one template: they are read on the event loop, for each request."""

_LONGEST_KEPT: Final = 4_096
"""Characters of a template whose tags are kept: each run needs them several times."""

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


def tags(template: str) -> Iterable[Tag]:
    """Return all tags in order, also after `{{=<% %>=}}` has changed the delimiters.

    Raises:
        BadRequest: there are more than `MOST_TAGS`.
    """
    return _kept_tags(template) if len(template) <= _LONGEST_KEPT else _read_tags(template)


def _read_tags(template: str) -> Iterator[Tag]:
    opening, closing, at, count = "{{", "}}", 0, 0
    while (start := template.find(opening, at)) >= 0:
        inside = start + len(opening)
        end = template.find(closing, inside)
        if end < 0:
            return
        key = template[inside:end].strip()
        at = end + len(closing)
        count += 1
        if count > MOST_TAGS:
            raise BadRequest(f"The query's text has more than {MOST_TAGS} tags ({{{{…}}}}).")
        sign = key[:1] if key[:1] in _SIGNS else ""
        if sign == "{" and template.startswith("}", at):
            at += 1
        yield Tag(start, at, sign, key[len(sign) :].strip().rstrip("=}" if sign in ("=", "{") else ""))
        delimiters = key.strip("=").split()
        if sign == "=" and len(delimiters) == 2:
            opening, closing = delimiters


@lru_cache(maxsize=64)
def _kept_tags(template: str) -> tuple[Tag, ...]:
    return tuple(_read_tags(template))


def names(template: str) -> frozenset[str]:
    """Return every name whose value the template can show or test; dotted names such as `period.start` as a whole."""
    return frozenset(tag.name for tag in tags(template) if tag.name and tag.sign not in ("/", "!", ">", "="))


def required(template: str) -> frozenset[str]:
    """Return the names without whose values Redash refuses to run (CONTRACT 6): of plain tags and of sections.

    It does not look into inverted sections, nor at `{{{x}}}` and `{{& x}}`.
    """
    found: set[str] = set()
    inverted = 0  # how deep inside of one
    for tag in tags(template):
        if inverted:
            inverted += {"#": 1, "^": 1, "/": -1}.get(tag.sign, 0)
        elif tag.sign == "^":
            inverted = 1
        elif tag.name and tag.sign in ("", "#"):
            found.add(tag.name)
    return frozenset(found)


def given(values: Mapping[str, object]) -> frozenset[str]:
    """Return the names that these values fill, as Redash counts them: those of an object are `name.inner` only."""
    found: set[str] = set()
    for name, value in values.items():
        found |= {f"{name}.{inner}" for inner in value} if isinstance(value, dict) else {name}
    return frozenset(found)


def render(template: str, parameters: Sequence[Parameter], values: Mapping[str, object]) -> Rendered | None:
    """Insert the values into the plain tags; None if that takes a full Mustache engine.

    Raises:
        BadRequest: the text would be longer than `LONGEST_TEXT`; it is not made.
    """
    by_name = {parameter.name: parameter for parameter in reversed(parameters)}
    texts: dict[str, str | None] = {}  # each is made once, however often it is shown
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    at = length = 0
    for tag in tags(template):
        if tag.name not in texts:
            texts[tag.name] = value_text(tag.name, by_name, values)
        value = None if tag.sign else texts[tag.name]
        if value is None:
            return None
        fixed = template[at : tag.start]
        length += len(fixed) + len(value)
        if length > LONGEST_TEXT:
            raise _too_long()
        pieces += (fixed, value)
        if value:
            spans.append((length - len(value), length))
        at = tag.end
    pieces.append(template[at:])
    return Rendered("".join(pieces), spans)


def _too_long() -> BadRequest:
    return BadRequest(f"With these parameters the SQL is longer than {LONGEST_TEXT} characters.")


def render_sections(template: str, parameters: Sequence[Parameter], values: Mapping[str, object]) -> str | None:
    """Render sections, too, exactly but for white space; None if that takes still more (partials, objects as sections).

    Redash joins lists before it renders, so that a section is shown once or not at all.

    Raises:
        BadRequest: as `render`.
    """
    by_name = {parameter.name: parameter for parameter in reversed(parameters)}
    texts: dict[str, str] = {}
    pieces: list[str] = []
    open_sections: list[bool] = []
    at = hidden = length = 0
    for tag in tags(template):
        if tag.sign == ">" or tag.name == "." or (tag.sign in ("#", "^") and isinstance(values.get(tag.name), dict)):
            return None
        if tag.name not in texts:
            texts[tag.name] = value_text(tag.name, by_name, values) or ""
        value = texts[tag.name]
        if not hidden:
            pieces += (template[at : tag.start], value if tag.sign in ("", "{", "&") else "")
            length += len(pieces[-1])
            if length > LONGEST_TEXT:
                raise _too_long()
        if tag.sign in ("#", "^"):
            found = values.get(tag.name)
            shown = bool(value if found is None or isinstance(found, list) else found) == (tag.sign == "#")
            open_sections.append(shown)
            hidden += not shown
        elif tag.sign == "/":
            if not open_sections:
                return None
            hidden -= not open_sections.pop()
        at = tag.end
    return "".join([*pieces, template[at:]])


def value_text(name: str, parameters: Mapping[str, Parameter], values: Mapping[str, object]) -> str | None:
    """Return the text for `{{name}}`; None if there is none or it takes a full engine."""
    root, *path = name.split(".")
    if root not in values:
        return None
    found = values[root]
    if isinstance(found, list) and not path:
        return joined(found, parameters.get(root))
    for part in path:
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    if isinstance(found, dict | list):
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
