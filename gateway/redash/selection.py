"""What of a result is requested, and how its CSV is written: the arguments of a GET that are the gateway's own.

None of them reaches Redash, and none can be a parameter's: those begin with `p_`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from gateway.errors import BadRequest
from gateway.redash.json_text import canonical

_COUNT: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_WORDS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
_DELIMITERS: Final = frozenset(_WORDS.values())
_TRUTH: Final = {"1": True, "true": True, "0": False, "false": False}
_MOST_NAMES: Final = 1_000


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Columns, order and range of the rows, and how CSV is written. With its defaults it is the result as Redash has
    it.
    """

    columns: tuple[str, ...] | None = None
    order: tuple[str, ...] = ()
    """Names of columns; descending with `-` before the name."""
    offset: int = 0
    limit: int | None = None
    excel: bool = False
    """`csv=excel`: the defaults of the other two are Excel's, and dates are in ISO 8601."""
    delimiter: str | None = None
    bom: bool | None = None

    @property
    def of_rows(self) -> bool:
        """Whether it does not take all rows and columns as they are."""
        return (self.columns, self.order, self.offset, self.limit) != (None, (), 0, None)

    @property
    def of_csv(self) -> bool:
        """Whether it says how CSV is written."""
        return self.excel or self.delimiter is not None or self.bom is not None

    def query_string(self) -> str:
        """Return it as arguments, with the question mark; "" for a whole result."""
        given = {
            "columns": None if self.columns is None else _joined(self.columns),
            "order": _joined(self.order) or None,
            "offset": self.offset or None,
            "limit": self.limit,
            "csv": "excel" if self.excel else None,
            "csv_delimiter": self.delimiter,
            "csv_bom": None if self.bom is None else int(self.bom),
        }
        arguments = {name: value for name, value in given.items() if value is not None}
        return f"?{urlencode(arguments)}" if arguments else ""

    def text(self) -> str:
        """Return it as one text: equal texts mean the same selection."""
        return canonical(msgspec.to_builtins(self)).decode()


WHOLE: Final = Selection()


def parse_selection(arguments: tuple[tuple[str, str], ...], form: str) -> Selection:
    """Return what the arguments select of a result in that form.

    Raises:
        BadRequest: a value cannot be meant so, an argument is for another form, or its name is almost right.
    """
    given: dict[str, list[str]] = {}
    for name, value in arguments:
        if name in _PARSERS:
            given.setdefault(name, []).append(value)
        elif (meant := _MEANT.get(_plain(name))) is not None:
            raise BadRequest(f"Unknown argument '{name}'; it is called {meant} (a parameter's is called p_{name}).")
    if not given:
        return WHOLE
    selection = Selection(**{_FIELDS.get(name, name): _PARSERS[name](name, values) for name, values in given.items()})
    if selection.of_csv and form != "csv":
        raise BadRequest(f"csv, csv_delimiter and csv_bom are for .csv, not for .{form}.")
    return selection


def is_ours(name: str) -> bool:
    """Whether an argument of this name selects something."""
    return name in _PARSERS


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _names(argument: str, values: Sequence[str]) -> tuple[str, ...]:
    """Split at commas; a name with a comma is written in double quotes, as in CSV."""
    try:
        names = [name for value in values for line in csv.reader([value]) for name in line]
    except csv.Error:  # the end of a line outside quotes
        names = []
    if not names or "" in names or len(names) > _MOST_NAMES:
        raise BadRequest(f"'{argument}' takes names of columns with commas between them, such as {argument}=a,b.")
    return tuple(dict.fromkeys(names))


def _joined(names: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(names)  # with its own ends of lines, so that those in names are quoted
    return text.getvalue().removesuffix("\r\n")


def only_one(argument: str, values: Sequence[str]) -> str:
    """Return the value of an argument of the gateway's own.

    Raises:
        BadRequest: it is given more than once, so one of them would do nothing.
    """
    if len(values) > 1:
        raise BadRequest(f"'{argument}' is given {len(values)} times; give it once.")
    return values[0]


def _count(argument: str, values: Sequence[str]) -> int:
    text = only_one(argument, values)
    if not _COUNT.fullmatch(text):
        raise BadRequest(f"'{argument}' must be a whole number from 0 on.")
    return int(text)


def _excel(argument: str, values: Sequence[str]) -> bool:
    if only_one(argument, values) != "excel":
        raise BadRequest("'csv' takes only the value excel.")
    return True


def _delimiter(argument: str, values: Sequence[str]) -> str:
    text = only_one(argument, values)
    text = _WORDS.get(text, text)
    if text not in _DELIMITERS:
        raise BadRequest(f"'{argument}' must be one of {', '.join(_WORDS)}, or that character.")
    return text


def _truth(argument: str, values: Sequence[str]) -> bool:
    found = _TRUTH.get(only_one(argument, values).lower())
    if found is None:
        raise BadRequest(f"'{argument}' must be 1 or 0.")
    return found


_PARSERS: Final[dict[str, Callable[[str, Sequence[str]], Any]]] = {
    "columns": _names,
    "order": _names,
    "offset": _count,
    "limit": _count,
    "csv": _excel,
    "csv_delimiter": _delimiter,
    "csv_bom": _truth,
}
NAMES: Final = tuple(_PARSERS)
_FIELDS: Final = {"csv": "excel", "csv_delimiter": "delimiter", "csv_bom": "bom"}
_MEANT: Final = {_plain(name): name for name in _PARSERS}
