"""SQL as text: Mustache rendering, the automatic LIMIT and the hash that is Redash's cache key. No database here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

# All of them take linear time: whoever edits a query must not be able to stop the sandbox.
_COMMENT = re.compile(r"/\*.*?\*/")
_PLAIN = re.compile(r"[^'\"/;\s-]++|\s++|--[^\n]*+|;")
_LITERAL = re.compile(r"'(?:[^']++|'')*+")
_MARK = re.compile(r"\{\{(?P<sign>[#^/])(?P<name>[^{}]++)\}\}")
_TAG = re.compile(r"\{\{\{(?P<raw>[^{}]++)\}\}\}|\{\{(?P<sign>[&!]?)(?P<name>[^{}]*+)\}\}")


def query_hash(text: str, *, fold_case: bool = False) -> str:
    """md5 of the normalised text. White space is removed *inside literals, too*, so 'New York' and 'NewYork' collide
    (CONTRACT 7), and so is letter case in old versions; a multi-line comment stays because the pattern does not cross
    lines."""
    normal = "".join("\n".join(map(_without_comments, text.split("\n"))).split())
    return hashlib.md5((normal.lower() if fold_case else normal).encode(), usedforsecurity=False).hexdigest()


def _without_comments(line: str) -> str:
    before, end, rest = line.rpartition("*/")  # behind the last end there is no comment to search for
    return _COMMENT.sub("", before + end) + rest


def _tokens(text: str) -> Iterator[str]:
    """Literals, names in quotes, comments, semicolons and what is between them."""
    at, ends = 0, {'"': text.rfind('"'), "*/": text.rfind("*/")}
    while at < len(text):
        plain = _PLAIN.match(text, at)
        end = plain.end() if plain else _end(text, at, ends)
        yield text[at:end]
        at = end


def _end(text: str, at: int, ends: Mapping[str, int]) -> int:
    """The end of what begins here with a quote, a slash or a dash; one character where nothing ends it."""
    if text[at] == "'" and (literal := _LITERAL.match(text, at)):
        if literal.end() < len(text):
            return literal.end() + 1
        return max(at + 1, text.rfind("'", at + 1))  # unclosed: the last pair of quotes closes it and begins another
    if text[at] == '"' and ends['"'] > at:
        return text.index('"', at + 1) + 1
    if text.startswith("/*", at) and ends["*/"] >= at + 2:
        return text.index("*/", at + 2) + 2
    return at + 1


def statements(text: str) -> list[str]:
    """The statements of `text` without trailing comments, semicolons and blanks; one empty string if there are none."""
    found: list[list[str]] = [[]]
    for token in _tokens(text):
        if token == ";":
            found.append([])
        else:
            found[-1].append(token)
    stripped = ["".join(_without_tail(tokens)).strip() for tokens in found]
    return [statement for statement in stripped if statement] or [""]


def _without_tail(tokens: list[str]) -> list[str]:
    end = len(tokens)
    while end and (tokens[end - 1].isspace() or tokens[end - 1].startswith(("--", "/*"))):
        end -= 1
    return tokens[:end]


def with_auto_limit(text: str, wanted: bool) -> str:
    """The text as executed: without trailing comments and semicolons; LIMIT 1000 after a last SELECT without limit."""
    parts = statements(text)
    if wanted and _is_select_without_limit(parts[-1]):
        parts[-1] += " LIMIT 1000"
    return ";\n".join(parts)


def _is_select_without_limit(statement: str) -> bool:
    bare = "".join(t for t in _tokens(statement) if not t.startswith(("'", '"', "--", "/*"))).lower()
    return bare.lstrip("( \n\t").startswith(("select", "with")) and not re.search(r"\b(limit|offset|fetch)\b", bare)


def render(template: str, values: Mapping[str, Any]) -> str:
    """Mustache without escaping; a missing name becomes an empty text. Plain tags, sections and dotted names."""
    pieces, at = [], 0
    for opening, closing in _sections(template):
        pieces.append(template[at : opening.start()])
        if bool(_look_up(opening["name"].strip(), values)) == (opening["sign"] == "#"):
            pieces.append(render(template[opening.end() : closing.start()], values))
        at = closing.end()
    return _TAG.sub(lambda tag: _tag(tag, values), "".join([*pieces, template[at:]]))


def _sections(template: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    """The outermost sections: opening and closing tag, which is the next one with its name."""
    marks = list(_MARK.finditer(template))
    closing: dict[str, list[re.Match[str]]] = {}
    for mark in reversed(marks):
        if mark["sign"] == "/":
            closing.setdefault(mark["name"].strip(), []).append(mark)
    at = 0
    for mark in marks:
        if mark["sign"] == "/" or mark.start() < at:
            continue
        later = closing.get(mark["name"].strip(), [])
        while later and later[-1].start() < mark.end():
            later.pop()
        if later:
            at = later[-1].end()
            yield mark, later[-1]


def _tag(tag: re.Match[str], values: Mapping[str, Any]) -> str:
    if tag["sign"] == "!":
        return ""
    found = _look_up((tag["raw"] or tag["name"]).strip(), values)
    return "" if found is None else str(found)


def _look_up(name: str, values: Mapping[str, Any]) -> Any:
    found: Any = values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def names_in(template: str) -> set[str]:
    """All parameter names in the template."""
    sections = {opening["name"].strip() for opening, _ in _sections(template)}
    tags = {(tag["raw"] or tag["name"]).strip() for tag in _TAG.finditer(template) if tag["sign"] != "!"}
    return {name for name in sections | tags if name and name[0] not in "#^/"}
