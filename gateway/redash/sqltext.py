"""Compares SQL texts: was the SQL in a response made from the request? Redash's cache ignores white space.

Redash finds results, and joins executions, by a hash of the SQL without white space and comments, even inside
literals, so 'New York' and 'NewYork' share rows (CONTRACT 7). Other modules decide what follows from a mismatch.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from gateway.model import Parameter
from gateway.redash import template
from gateway.redash.template import Rendered

_BLOCK_COMMENT = re.compile(r"/\*.*?\*/")  # within one line only, like Redash's own pattern
_TAIL = re.compile(r"(?:[\s;]|/\*(?s:.*?)\*/|--[^\r\n]*|# [^\r\n]*)*+")
_LIMIT = re.compile(r"\s+(?:LIMIT [0-9]+|FETCH NEXT [0-9]+ ROWS ONLY)\Z")

# White space next to these never changes the meaning; elsewhere it matters whether there is any.
_SEPARATORS = frozenset("(),;")
_OPERATORS = frozenset("=<>+-*/%|:")
_QUOTES = frozenset("'\"`_")


_Token = tuple[str, str, str]
"""The white space and block comments before a token, the token, and `_HELD` if that white space belongs to a value."""

_HELD = "held"


class _Dialect:
    """One syntax of quotes. The data source's own is not known, so all that fit the text must agree."""

    def __init__(self, body: str, *, triple: bool = False, marks_comments: bool = False) -> None:
        marks = ("'''", '"""', "'", '"', "`") if triple else ("'", '"', "`")
        self._closed = re.compile("|".join(_quoted(mark, body, mark) for mark in marks))
        quoted = "|".join(_quoted(mark, body, rf"(?:{mark}|\\?\Z)") for mark in marks)
        comment = r"(?:--|\#|//)" if marks_comments else r"(?:--|\#\ )"
        self._lexer = re.compile(
            r"(?P<gap>(?:\s|/\*(?![!+])(?s:.*?)\*/)*+)"
            rf"(?P<token>{quoted}"
            r"|\$(?P<tag>(?:[^\W\d]\w*)?)\$(?s:.*?)(?:\$(?P=tag)\$|\Z)"  # PostgreSQL's dollar quotes
            r"|/\*[!+](?s:.*?)(?:\*/|\Z)|/\*(?s:.*)"  # hints and MySQL's executable comments are not comments
            # Exact, because these are operators in some dialects; without a last `;`, because Redash may append one.
            rf"|{comment}(?:[^\r\n;]|;(?![;\t ]{{0,9}}(?:[\r\n]|\Z)))*+"
            r"|\w++|\[[^]['\"`\n]*+\]|\S|\Z)"  # [my column] of SQL Server
        )

    def tokens(self, text: str) -> list[_Token]:
        """Split `text` into tokens; after a quote that never ends, the rest is one token."""
        found: list[_Token] = self._lexer.findall(text)
        while found and not found[-1][1]:
            found.pop()
        return found

    def reads(self, tokens: Sequence[_Token]) -> bool:
        """Whether all quotes end, so that the text can belong to this dialect."""
        last = tokens[-1][1] if tokens else ""
        return last[:1] not in ("'", '"', "`") or self._closed.fullmatch(last) is not None


def _quoted(mark: str, body: str, end: str) -> str:
    if len(mark) == 3:
        return rf"{mark}(?s:\\.|(?!{mark})[^\\])*+{end}"
    return rf"{mark}(?:{body.format(mark=mark)})*+{end}"


_STANDARD = _Dialect(r"[^{mark}]|{mark}{mark}")
_BACKSLASH = _Dialect(r"[^{mark}\\]|{mark}{mark}|\\(?s:.)")  # MySQL, ClickHouse, Hive …
_TRIPLE = _Dialect(r"[^{mark}\\]|\\(?s:.)", triple=True)  # BigQuery
_MARKS = _Dialect(r"[^{mark}\\]|{mark}{mark}|\\(?s:.)", marks_comments=True)  # MySQL's #note, Snowflake's //


def matches(
    definition_text: str, parameters: Sequence[Parameter], values: Mapping[str, object], returned_sql: str
) -> bool:
    """Whether `returned_sql` is what Redash makes of this template with these values.

    Outside quotes and values, it ignores white space, block comments, the end of statements (comments, `;`) and an
    automatic LIMIT; inside them each character counts. False if uncertain: another run costs time, wrong rows are
    worse. Linear in the length of the texts.
    """
    rendered = template.render(definition_text, parameters, values)
    if rendered is None:
        return _values_occur(definition_text, values, returned_sql)
    if _differs_at_end_only(rendered.text, returned_sql):
        return True
    without_limit = returned_sql[: _limit_start(returned_sql)]
    return any(_aligned(rendered, returned) for returned in {returned_sql, without_limit})


def same_text(sent: str, returned: str, values: Mapping[str, object] | None = None) -> bool:
    """Compare like `matches`, for ad-hoc SQL; Redash renders `{{x}}` there too, without definitions (CONTRACT 6)."""
    return matches(sent, (), values or {}, returned)


def squeezed(text: str) -> str:
    """Return the text as Redash hashes it: without one-line block comments and without white space (CONTRACT 7)."""
    return "".join(_BLOCK_COMMENT.sub("", text).split())


def collision_text(
    text: str, parameters: Sequence[Parameter] = (), values: Mapping[str, object] | None = None
) -> bytes:
    """Return a text that is equal for all requests on one data source that Redash may confuse (and for some others).

    Executions with equal texts must not run in Redash at the same time: Redash would join them.
    """
    rendered = template.render(text, parameters, values or {})
    if rendered is None:
        shown = sorted(squeezed(value) for value in _strings(values or {}))
        return "\0".join([squeezed(text), *shown]).encode("utf-8", "replace")
    sql = rendered.text
    if ";" in sql or "--" in sql or "# " in sql:
        sql = " ".join(text for _, text, _ in _statements(_STANDARD.tokens(sql)))
    return re.sub(r"(?:LIMIT[0-9]+)?\Z", "", squeezed(sql), count=1).encode("utf-8", "replace")


def _differs_at_end_only(expected: str, returned: str) -> bool:
    """Check the usual case cheaply: Redash cuts the end of the SQL and may add a LIMIT (CONTRACT 6, 7)."""
    expected, returned = expected.strip(), returned.strip()
    if expected == returned:
        return True
    ends = (len(returned), _limit_start(returned))
    return any(expected.startswith(returned[:end]) and _TAIL.fullmatch(expected, end) is not None for end in ends)


def _limit_start(sql: str) -> int:
    limit = _LIMIT.search(sql, max(0, len(sql) - 64))
    return limit.start() if limit else len(sql)


def _aligned(rendered: Rendered, returned: str) -> bool:
    dialects = [_STANDARD]
    if "\\" in rendered.text:
        dialects.append(_BACKSLASH)
    if "'''" in rendered.text or '"""' in rendered.text:
        dialects.append(_TRIPLE)
    if "#" in rendered.text or "//" in rendered.text:
        dialects.append(_MARKS)
    read = [(dialect, dialect.tokens(rendered.text)) for dialect in dialects]
    fitting = [pair for pair in read if pair[0].reads(pair[1])] or read
    return all(_agree(_hold(tokens, rendered.spans), dialect.tokens(returned)) for dialect, tokens in fitting)


def _hold(tokens: list[_Token], spans: list[tuple[int, int]]) -> list[_Token]:
    """Mark the gaps inside a value or next to white space of one: there each character counts."""
    if not spans:
        return tokens
    starts = list(accumulate((len(gap) + len(text) for gap, text, _ in tokens), initial=0))
    held = list(tokens)
    for start, end in spans:
        for index in range(bisect_right(starts, start) - 1, bisect_left(starts, end)):
            if index < len(held) and start < starts[index] + len(held[index][0]):
                held[index] = (held[index][0], held[index][1], _HELD)
    return held


def _agree(expected: list[_Token], returned: list[_Token]) -> bool:
    expected = _statements(expected)
    returned = _without_top(expected, _statements(returned))
    if [text for _, text, _ in expected] != [text for _, text, _ in returned]:
        return False
    before = ";"
    for ours, theirs in zip(expected, returned, strict=True):
        if ours[0] != theirs[0] and not _may_differ(before, ours, theirs[0]):
            return False
        before = ours[1]
    return True


def _may_differ(before: str, ours: _Token, theirs: str) -> bool:
    gap, text, held = ours
    if ";" in (before, text):  # Redash joins statements with ";\n", whatever was between them
        return True
    return held is not _HELD and (bool(gap) == bool(theirs) or _is_loose(before[-1], text[0]))


def _is_loose(left: str, right: str) -> bool:
    if left in _SEPARATORS or right in _SEPARATORS:
        return True
    if left in _OPERATORS:
        return right.isalnum() or right in _QUOTES
    return right in _OPERATORS and (left.isalnum() or left in _QUOTES)


def _statements(tokens: list[_Token]) -> list[_Token]:
    """Remove what Redash strips: comments at the ends of statements, empty statements, the last `;`."""
    kept: list[_Token] = []
    after = ""
    for token in tokens:
        text = token[1]
        if text == ";":
            _drop_comments(kept)
            if not kept or kept[-1][1] == ";":
                continue
        elif after == ";" and _is_comment(text):
            continue
        kept.append(token)
        after = text
    _drop_comments(kept)
    if kept and kept[-1][1] == ";":
        kept.pop()
    return kept


def _drop_comments(tokens: list[_Token]) -> None:
    while tokens and _is_comment(tokens[-1][1]):
        tokens.pop()


def _is_comment(text: str) -> bool:
    return text.startswith(("--", "# ")) or (text.startswith("/*") and text.endswith("*/") and len(text) > 3)


def _without_top(expected: list[_Token], returned: list[_Token]) -> list[_Token]:
    """Remove SQL Server's automatic limit: TOP n after the last SELECT."""
    if len(returned) != len(expected) + 2:
        return returned
    at = next((i for i, token in enumerate(expected) if token[1] != returned[i][1]), len(expected))
    is_top = at > 0 and (returned[at - 1][1].upper(), returned[at][1]) == ("SELECT", "TOP")
    return returned[:at] + returned[at + 2 :] if is_top else returned


def _values_occur(text: str, values: Mapping[str, object], returned: str) -> bool:
    """For templates with sections and the like: every value that occurs in the SQL must occur exactly."""
    roots = {name.partition(".")[0] for name in template.names(text)}
    bare = squeezed(returned)
    used = {name: value for name, value in values.items() if name in roots or "" in roots}
    if not all(value in returned or squeezed(value) not in bare for value in _strings(used)):
        return False
    loose = _stands_beside_blanks(text)
    return all(loose or _occurs_alone(value, returned) for value in _strings(used) if value in returned)


def _stands_beside_blanks(text: str) -> bool:
    """Whether a tag of the template has white space beside it: then a value may have some too."""
    pieces, at = [], 0
    for tag in template.tags(text):
        pieces += [text[at : tag.start], "\0"]
        at = tag.end
    return re.search(r"\s\0|\0\s", "".join([*pieces, text[at:]])) is not None


def _occurs_alone(value: str, returned: str) -> bool:
    """Whether `value` occurs somewhere without white space beside it; with white space it could be another value."""
    at = returned.find(value)
    while at >= 0:
        beside = returned[max(0, at - 1) : at] + returned[at + len(value) : at + len(value) + 1]
        if not beside or not re.search(r"\s", beside):
            return True
        at = returned.find(value, at + 1)
    return False


def _strings(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _strings(inner)]
    return [value] if isinstance(value, str) and value else []
