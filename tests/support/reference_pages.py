"""The tables of `docs/configuration.md` and `docs/routes.md`, made from the schema, the example file and the routes.

`PYTHONPATH=tests python -m support.reference_pages` writes them between their marks; a test holds that they are
current.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from gateway.config import networks, stores, units, values
from gateway.config.schema import OrOne, ParsedBy, TakesRestart
from gateway.redash.routes import ROUTES, Route
from gateway.secret import Secret
from support.schema_keys import table_in, tables

ROOT: Final = Path(__file__).parents[2]
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
LISTS: Final = ("cache.rules", "warm")
NAMED: Final = ("credentials", "clients")

KINDS: Final[dict[Callable[..., object], str]] = {
    units.duration: "duration",
    units.positive_duration: "duration above 0",
    units.floor: "duration, or a table",
    units.wait: "duration up to 1h",
    units.positive_wait: "duration above 0, up to 1h",
    units.size: "size",
    units.rate: "rate",
    units.budget: "budget",
    units.quiet: "hours",
    units.expiry: "date or time",
    values.text: "text",
    values.listen: "address",
    values.sha256: "SHA-256",
    values.dashboard: "id or slug",
    networks.proxy: "network",
    values.host: "host name",
    values.origin: "origin",
    values.redash_version: "version",
    values.redis_name: "name",
    values.base_url: "URL",
    values.web_url: "URL",
    values.socket_mode: "octal digits",
    values.group: "group",
    values.path_prefix: "path of a URL",
    values.timezone: "time zone",
    values.parameters: "table",
    stores.store: "store",
}
"""What a key takes, by the function that parses it."""


def pages() -> dict[Path, str]:
    """Each generated page with its new text."""
    made = {"configuration.md": "\n\n".join(_configuration()), "routes.md": _routes()}
    return {(path := ROOT / "docs" / name): _between_marks(path, text) for name, text in made.items()}


def _between_marks(path: Path, text: str) -> str:
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{path.name} has no mark for the begin of its tables"
    assert end, f"{path.name} has no mark for the end of its tables"
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


# -- configuration -----------------------------------------------------------------------------------------------------


def heading(name: str) -> str:
    """How a table is written in the file."""
    if name in LISTS:
        return f"[[{name}]]"
    return f"[{name}.NAME]" if name in NAMED else f"[{name}]"


def _configuration() -> Iterator[str]:
    example = Example((ROOT / "config.example.toml").read_text(encoding="utf-8"))
    for name, table in tables().items():
        rows = "\n".join(_row(name, field, example) for field in fields(table) if _is_key(field))
        columns = "| key | value | default | change | meaning |\n|---|---|---|---|---|"
        yield f"### `{heading(name)}`\n\n{example.comment_of_table(name)}{columns}\n{rows}"


def _is_key(field: FieldInfo) -> bool:
    return field.type is not Secret and table_in(field.type) is None


def _row(name: str, field: FieldInfo, example: Example) -> str:
    literal, comment = example.key(name, field.name)
    cells = (f"`{field.name}`", _kind(field.type), _default(field, literal), _change(field.type), comment)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo, literal: str) -> str:
    if field.required:
        return "required"
    empty = field.default in (None, (), frozenset(), {}, msgspec.NODEFAULT)
    return "" if empty else f"`{literal}`"


def _change(kind: Any) -> str:
    marks = [note for note in get_args(kind) if isinstance(note, TakesRestart)]
    if not marks:
        return "reload"
    return "restart" if marks[0].applies("one", "other") else "reload; on or off: restart"


def _kind(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if any(isinstance(note, OrOne) for note in parts):
            return f"{_kind(get_args(parts[0])[0])}, or list of them"
        found = [note.parse for note in parts if isinstance(note, ParsedBy)]
        return _parsed(found[0]) if found else _kind(parts[0])
    if origin in (Union, UnionType):
        return _kind(parts[0])
    if origin in (tuple, frozenset):
        return f"list: {_kind(parts[0])}"
    if origin is Literal:
        return ", ".join(f'`"{part}"`' for part in parts)
    return {bool: "`true`, `false`", Path: "path"}[kind]


def _parsed(parse: Callable[[object], object]) -> str:
    if isinstance(parse, values.WholeNumber):
        most = "" if parse.most == 2**53 else f" to {parse.most}"
        return f"number from {parse.least}{most}"
    return KINDS[parse]


class Example:
    """The example file: each key's literal, and the comment above it or above the keys or the table that it follows."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._keys: dict[tuple[str, str], int] = {}
        self._tables: dict[str, int] = {}
        table = ""
        for number, line in enumerate(self._lines):
            if header := re.match(r"#?\[+([\w.-]+)\]", line):
                table = header[1] if header[1] in tables() else header[1].rpartition(".")[0]
                self._tables.setdefault(table, number)
            elif key := re.match(r"#?(\w+) = ", line):
                self._keys.setdefault((table, key[1]), number)

    def key(self, table: str, name: str) -> tuple[str, str]:
        """Return the literal and the comment of a key."""
        number = self._keys[table, name]
        return self._lines[number].partition(" = ")[2], self._comment_above(number)

    def comment_of_table(self, name: str) -> str:
        """Return the comment above the head of a table as a paragraph, if there is one."""
        number = self._tables[name]
        comment = _prose(self._comment_lines(number))
        return f"{comment}\n\n" if comment else ""

    def _comment_above(self, number: int) -> str:
        """Return the comment of a key; for a key that follows another one at once, the name of that key."""
        comment = _prose(self._comment_lines(number))
        if comment:
            return comment
        while not self._comment_lines(number):
            number -= 1
        return f"See `{self._lines[number].lstrip('#').partition(' = ')[0]}`."

    def _comment_lines(self, number: int) -> list[str]:
        first = number
        while first and self._lines[first - 1].startswith("# "):
            first -= 1
        return [line.removeprefix("# ") for line in self._lines[first:number]]


def _prose(lines: list[str]) -> str:
    """One line of Markdown: names of keys as code, and without what the column `change` says."""
    text = " ".join(lines).replace(" A change needs a restart.", "")
    text = re.sub(r"(?<![`\w.?])(\[+[a-z]+(?:\.\w+)*\]+|[a-z]+(?:\.[a-z]+)?(?:_[a-z0-9]+)+)(?![`\w])", r"`\1`", text)
    return re.sub(r'(?<!`)("[^" ]+")(?!`)', r"`\1`", text)


# -- routes ------------------------------------------------------------------------------------------------------------


def _routes() -> str:
    rows = ["| path | methods | capability | cached | query key | bound clients |", "|---|---|---|---|---|---|"]
    for template, same in groupby(ROUTES, key=lambda route: route.template):
        for row, routes in groupby(same, key=_cells):
            methods = ", ".join(route.method for route in routes)
            rows.append("| " + " | ".join((f"`{template}`", methods, *row)) + " |")
    return "\n".join(rows)


def _cells(route: Route) -> tuple[str, ...]:
    kept = dict.fromkeys(("execute", "execute_text", "latest", "result"), "yes") | {"metadata": "seconds"}
    if route.kind == "board" and route.method == "GET":
        kept["board"] = "yes"
    capability = "" if route.kind == "ping" else f"`{route.capability}`"
    return capability, kept.get(route.kind, "no"), "yes" if route.query_key else "no", "no" if route.lists else ""


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
