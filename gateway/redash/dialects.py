"""Splits SQL text into tokens, by each syntax of quotes and comments that a data source may have.

What a difference between tokens means is decided in `sqltext`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Token = tuple[str, str, str]
"""The white space and block comments before a token, the token, and `HELD` if that white space belongs to a value."""

HELD = "held"


class Dialect:
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

    def tokens(self, text: str) -> list[Token]:
        """Split `text` into tokens; after a quote that never ends, the rest is one token."""
        # In steps, not with `findall`: in a thread, other threads can run in between.
        found: list[Token] = [(m["gap"], m["token"], "") for m in self._lexer.finditer(text)]
        while found and not found[-1][1]:
            found.pop()
        return found

    def reads(self, tokens: Sequence[Token]) -> bool:
        """Whether all quotes end, so that the text can belong to this dialect."""
        last = tokens[-1][1] if tokens else ""
        return last[:1] not in ("'", '"', "`") or self._closed.fullmatch(last) is not None


def _quoted(mark: str, body: str, end: str) -> str:
    if len(mark) == 3:
        return rf"{mark}(?s:\\.|(?!{mark})[^\\])*+{end}"
    return rf"{mark}(?:{body.format(mark=mark)})*+{end}"


STANDARD = Dialect(r"[^{mark}]|{mark}{mark}")
BACKSLASH = Dialect(r"[^{mark}\\]|{mark}{mark}|\\(?s:.)")  # MySQL, ClickHouse, Hive …
TRIPLE = Dialect(r"[^{mark}\\]|\\(?s:.)", triple=True)  # BigQuery
MARKS = Dialect(r"[^{mark}\\]|{mark}{mark}|\\(?s:.)", marks_comments=True)  # MySQL's #note, Snowflake's //
