"""Compares SQL texts: was the SQL in a response made from the request? Redash's cache ignores white space.

Redash finds results, and joins executions, by a hash of the SQL without white space and comments, even inside
literals, so 'New York' and 'NewYork' share rows (CONTRACT 7); up to version 10 so do 'de' and 'DE'. Other modules
decide what follows from a mismatch.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from gateway.errors import BadRequest
from gateway.model import Parameter
from gateway.redash import template
from gateway.redash.dialects import BACKSLASH, HELD, MARKS, STANDARD, TRIPLE, Token
from gateway.redash.template import Rendered

_BLOCK_COMMENT = re.compile(r"/\*.*?\*/")  # within one line only, like Redash's own pattern
_TAIL = re.compile(r"(?:[\s;]|/\*(?s:.*?)\*/|--[^\r\n]*|# [^\r\n]*)*+")
_LIMIT = re.compile(r"\s+(?:LIMIT [0-9]+|FETCH NEXT [0-9]+ ROWS ONLY)\Z")

# White space next to these never changes the meaning; elsewhere it matters whether there is any.
_SEPARATORS = frozenset("(),;")
_OPERATORS = frozenset("=<>+-*/%|:")
_QUOTES = frozenset("'\"`_")


MOST_COMPARED: Final = 256 * 1024
"""Characters of SQL that are compared token by token: a token takes 200 bytes of memory, and some microseconds."""

MOST_SEARCHED: Final = 64 * 1024 * 1024
"""Characters that are searched for the values of one request: a list of many values times the length of the SQL."""


def matches(
    definition_text: str,
    parameters: Sequence[Parameter],
    values: Mapping[str, object],
    returned_sql: str,
    *,
    folds_case: bool = False,
) -> bool:
    """Whether `returned_sql` is what Redash makes of this template with these values.

    Outside quotes and values, it ignores white space, block comments, the end of statements (comments, `;`) and an
    automatic LIMIT; inside them each character counts. False if uncertain: another run costs time, wrong rows are
    worse. Linear in the length of the texts; of texts over `MOST_COMPARED` only the ends may differ. `folds_case`: this
    Redash may respond with SQL that differs in letter case.

    Raises:
        BadRequest: as `check_size`.
    """
    rendered = template.render(definition_text, parameters, values)
    if rendered is None:
        return _values_occur(definition_text, values, returned_sql, folds_case=folds_case)
    if _differs_at_end_only(rendered.text, returned_sql):
        return True
    if max(len(rendered.text), len(returned_sql)) > MOST_COMPARED:
        return False
    without_limit = returned_sql[: _limit_start(returned_sql)]
    return any(_aligned(rendered, returned) for returned in {returned_sql, without_limit})


def same_text(
    sent: str, returned: str, values: Mapping[str, object] | None = None, *, folds_case: bool = False
) -> bool:
    """Compare like `matches`, for ad-hoc SQL; Redash renders `{{x}}` there too, without definitions (CONTRACT 6)."""
    return matches(sent, (), values or {}, returned, folds_case=folds_case)


def squeezed(text: str, *, folds_case: bool = False) -> str:
    """Return the text as Redash hashes it: without one-line block comments and without white space (CONTRACT 7).

    `folds_case`: and without letter case, as up to version 10.
    """
    if "/*" in text:
        text = "\n".join(map(_without_comments, text.split("\n")))
    text = "".join(text.split())
    return text.casefold() if folds_case else text


def _without_comments(line: str) -> str:
    """Remove block comments; each `/*` of the part that is searched has its end, or the search would be quadratic."""
    head, end, rest = line.rpartition("*/")
    return _BLOCK_COMMENT.sub("", head + end) + rest


def collision_text(
    text: str,
    parameters: Sequence[Parameter] = (),
    values: Mapping[str, object] | None = None,
    *,
    folds_case: bool = False,
) -> bytes:
    """Return a text that is equal for all requests on one data source that Redash may confuse (and for some others).

    Executions with equal texts must not run in Redash at the same time: Redash would join them.
    """
    sql = template.render_sections(text, parameters, values or {})
    if sql is None:
        shown = sorted(squeezed(value, folds_case=folds_case) for value in _strings(values or {}))
        return "\0".join([squeezed(text, folds_case=folds_case), *shown]).encode("utf-8", "replace")
    if len(sql) <= MOST_COMPARED and (";" in sql or "--" in sql or "# " in sql):
        sql = " ".join(text for _, text, _ in _statements(STANDARD.tokens(sql)))
    bare = re.sub(r"(?:LIMIT[0-9]+)?\Z", "", squeezed(sql), count=1)
    return (bare.casefold() if folds_case else bare).encode("utf-8", "replace")


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
    dialects = [STANDARD]
    if "\\" in rendered.text:
        dialects.append(BACKSLASH)
    if "'''" in rendered.text or '"""' in rendered.text:
        dialects.append(TRIPLE)
    if "#" in rendered.text or "//" in rendered.text:
        dialects.append(MARKS)
    read = [(dialect, dialect.tokens(rendered.text)) for dialect in dialects]
    fitting = [pair for pair in read if pair[0].reads(pair[1])] or read
    return all(_agree(_hold(tokens, rendered.spans), dialect.tokens(returned)) for dialect, tokens in fitting)


def _hold(tokens: list[Token], spans: list[tuple[int, int]]) -> list[Token]:
    """Mark the gaps inside a value or next to white space of one: there each character counts."""
    if not spans:
        return tokens
    starts = list(accumulate((len(gap) + len(text) for gap, text, _ in tokens), initial=0))
    held = list(tokens)
    for start, end in spans:
        for index in range(bisect_right(starts, start) - 1, bisect_left(starts, end)):
            if index < len(held) and start < starts[index] + len(held[index][0]):
                held[index] = (held[index][0], held[index][1], HELD)
    return held


def _agree(expected: list[Token], returned: list[Token]) -> bool:
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


def _may_differ(before: str, ours: Token, theirs: str) -> bool:
    gap, text, held = ours
    if ";" in (before, text):  # Redash joins statements with ";\n", whatever was between them
        return True
    return held is not HELD and (bool(gap) == bool(theirs) or _is_loose(before[-1], text[0]))


def _is_loose(left: str, right: str) -> bool:
    if left in _SEPARATORS or right in _SEPARATORS:
        return True
    if left in _OPERATORS:
        return right.isalnum() or right in _QUOTES
    return right in _OPERATORS and (left.isalnum() or left in _QUOTES)


def _statements(tokens: list[Token]) -> list[Token]:
    """Remove what Redash strips: comments at the ends of statements, empty statements, the last `;`."""
    kept: list[Token] = []
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


def _drop_comments(tokens: list[Token]) -> None:
    while tokens and _is_comment(tokens[-1][1]):
        tokens.pop()


def _is_comment(text: str) -> bool:
    return text.startswith(("--", "# ")) or (text.startswith("/*") and text.endswith("*/") and len(text) > 3)


def _without_top(expected: list[Token], returned: list[Token]) -> list[Token]:
    """Remove SQL Server's automatic limit: TOP n after the last SELECT."""
    if len(returned) != len(expected) + 2:
        return returned
    at = next((i for i, token in enumerate(expected) if token[1] != returned[i][1]), len(expected))
    is_top = at > 0 and (returned[at - 1][1].upper(), returned[at][1]) == ("SELECT", "TOP")
    return returned[:at] + returned[at + 2 :] if is_top else returned


def check_size(definition_text: str, parameters: Sequence[Parameter], values: Mapping[str, object]) -> None:
    """Refuse what would take too long to compare, before anything is sent.

    Raises:
        BadRequest: the SQL would be longer than `template.LONGEST_TEXT`, or its template has sections and is given
            more values than can be searched for in SQL of the template's length.
    """
    if template.render(definition_text, parameters, values) is not None:
        return
    if len(_used(definition_text, values)) * len(definition_text) > MOST_SEARCHED:
        raise BadRequest("The parameters have too many values for a query whose template has sections.")


def _values_occur(text: str, values: Mapping[str, object], returned: str, *, folds_case: bool) -> bool:
    """For templates with sections and the like: every value that occurs in the SQL must occur exactly."""
    used = _used(text, values)
    if len(used) * len(returned) > MOST_SEARCHED:
        return False
    bare = squeezed(returned, folds_case=folds_case)
    if not all(value in returned or squeezed(value, folds_case=folds_case) not in bare for value in used):
        return False
    loose = _stands_beside_blanks(text)
    return loose or all(_occurs_alone(value, returned) for value in used if value in returned)


def _used(text: str, values: Mapping[str, object]) -> set[str]:
    """Return the text values that the template can show."""
    roots = {name.partition(".")[0] for name in template.names(text)}
    return set(_strings([value for name, value in values.items() if name in roots or "" in roots]))


def _stands_beside_blanks(text: str) -> bool:
    """Whether a tag of the template has white space beside it: then a value may have some too."""
    pieces, at = [], 0
    for tag in template.tags(text):
        pieces += [text[at : tag.start], "\0"]
        at = tag.end
    return re.search(r"\s\0|\0\s", "".join([*pieces, text[at:]])) is not None


def _occurs_alone(value: str, returned: str) -> bool:
    """Whether `value` occurs somewhere without white space beside it; with white space it could be another value.

    Looks at the first occurrence of those that overlap: to find each of them would take quadratic time.
    """
    at = returned.find(value)
    while at >= 0:
        beside = returned[max(0, at - 1) : at] + returned[at + len(value) : at + len(value) + 1]
        if not beside or not re.search(r"\s", beside):
            return True
        at = returned.find(value, at + len(value))
    return False


def _strings(value: object) -> Iterator[str]:
    """Yield every text in a value, however deep it stands."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, Mapping):
            rest += item.values()
        elif isinstance(item, list):
            rest += item
        elif isinstance(item, str) and item:
            yield item
