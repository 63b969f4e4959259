"""What a section hands back, and how it is shown: as text, as JSON, and as Markdown in README."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ORDER = ("machine", "hits", "telling", "miss", "stampede", "stream", "start", "memory")


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    turns: int
    seconds: int
    sizes: tuple[str, ...]
    requests: int
    """Of memory, after which it must be flat."""
    uvloop: bool
    """The gateway runs on uvloop; among hits it has rows for both loops anyway."""


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """One part of the bench: its figures for machines, its tables for people."""

    name: str
    figures: list[dict[str, object]]
    tables: list[Table]
    short: list[Table] = field(default_factory=list)
    """For README, where `tables` would be too many."""


def bars(title: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    """A table of what was measured and what it should be."""
    return Table(title, ("", "measured", "bar"), list(rows))


def text(table: Table) -> str:
    """The table for a terminal."""
    grid = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]
    lines = []
    for name, *cells in grid:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return "\n".join([table.title, *(f"  {line.rstrip()}" for line in lines)])


def markdown(table: Table) -> str:
    """The table for README."""
    lines = ["| " + " | ".join(row) + " |" for row in (table.columns, *table.rows)]
    lines.insert(1, "|" + "---|" * len(table.columns))
    return "\n".join([f"{table.title}:", "", *lines])


def write_json(path: Path, machine: str, sections: list[Section]) -> None:
    """Write every figure."""
    figures = {section.name: section.figures for section in sections}
    path.write_text(json.dumps({"machine": machine, **figures}, indent=1) + "\n")


def write_readme(path: Path, machine: str, sections: list[Section]) -> None:
    """Put the tables between the marks; those of sections that did not run now stay."""
    readme = path.read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path.name} has no marks for the measured tables")
    parts = re.split(r"<!-- (\w+) -->\n", old)
    blocks = dict(zip(parts[1::2], parts[2::2], strict=True))
    blocks["machine"] = f"{machine}."
    for section in sections:
        blocks[section.name] = "\n\n".join(markdown(table) for table in section.short or section.tables)
    body = "".join(f"<!-- {name} -->\n{blocks[name].strip()}\n\n" for name in ORDER if name in blocks)
    path.write_text(f"{before}{begin}\n{body}{end}{after}", encoding="utf-8")
