"""SQL as text: Mustache rendering, the automatic LIMIT and the hash that is Redash's cache key. No database here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

_COMMENT = re.compile(r"/\*.*?\*/")
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|;|\s+|.", re.S)
_SECTION = re.compile(r"\{\{([#^])\s*([^}]+?)\s*\}\}(.*?)\{\{/\s*\2\s*\}\}", re.S)
_TAG = re.compile(r"\{\{\{\s*(?P<raw>[^}]+?)\s*\}\}\}|\{\{(?P<sign>[&!]?)\s*(?P<name>[^}]*?)\s*\}\}", re.S)


def query_hash(text: str, *, fold_case: bool = False) -> str:
    """md5 of the normalised text. White space is removed *inside literals, too*, so 'New York' and 'NewYork' collide
    (CONTRACT 7), and so is letter case in old versions; a multi-line comment stays because the pattern does not cross
    lines."""
    normal = "".join(_COMMENT.sub("", text).split())
    return hashlib.md5((normal.lower() if fold_case else normal).encode(), usedforsecurity=False).hexdigest()


def statements(text: str) -> list[str]:
    """The statements of `text` without trailing comments, semicolons and blanks; one empty string if there are none."""
    found: list[list[str]] = [[]]
    for token in _TOKEN.findall(text):
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
    bare = "".join(t for t in _TOKEN.findall(statement) if not t.startswith(("'", '"', "--", "/*"))).lower()
    return bare.lstrip("( \n\t").startswith(("select", "with")) and not re.search(r"\b(limit|offset|fetch)\b", bare)


def render(template: str, values: Mapping[str, Any]) -> str:
    """Mustache without escaping; a missing name becomes an empty text. Plain tags, sections and dotted names."""
    return _TAG.sub(lambda tag: _tag(tag, values), _SECTION.sub(lambda section: _section(section, values), template))


def _section(section: re.Match[str], values: Mapping[str, Any]) -> str:
    sign, name, body = section.groups()
    return render(body, values) if bool(_look_up(name, values)) == (sign == "#") else ""


def _tag(tag: re.Match[str], values: Mapping[str, Any]) -> str:
    if tag["sign"] == "!":
        return ""
    found = _look_up(tag["raw"] or tag["name"], values)
    return "" if found is None else str(found)


def _look_up(name: str, values: Mapping[str, Any]) -> Any:
    found: Any = values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def names_in(template: str) -> set[str]:
    """All parameter names in the template."""
    sections = {name for _, name, _ in _SECTION.findall(template)}
    tags = {tag["raw"] or tag["name"] for tag in _TAG.finditer(template) if tag["sign"] != "!"}
    return {name for name in sections | tags if name and name[0] not in "#^/"}
