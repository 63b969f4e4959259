"""The result of a section, and its output as text, as JSON, and as Markdown in README and docs/performance.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.schema import EventLoop

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ORDER = (
    "machine",
    "clients",
    "connections",
    "tls",
    "load",
    "idle",
    "runs",
    "hits",
    "recording",
    "miss",
    "stampede",
    "stream",
    "start",
    "memory",
    "cluster",
)


@dataclass(frozen=True)
class Options:
    """The size of the benchmark."""

    turns: int
    seconds: float
    sizes: tuple[str, ...]
    requests: int
    """Number of requests of the memory test."""
    loop: EventLoop
    """The gateway's in sections that run only one; the others have rows for each loop."""
    clients: tuple[str, ...] = ()
    """Parts of the names of recorded clients; empty: all."""
    encodings: tuple[str, ...] = ("own",)
    """What recorded clients accept: as recorded, or everything plain or as gzip."""
    long_runs: bool = False
    """Also measure runs of a minute."""


@dataclass(frozen=True)
class Table:
    """Formatted cells; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """One part of the benchmark: figures for machines, tables for people."""

    name: str
    figures: list[dict[str, object]]
    tables: list[Table]
    short: list[Table] = field(default_factory=list)
    """For docs/performance.md, if `tables` are too many."""
    brief: list[Table] = field(default_factory=list)
    """For README: a few rows."""


def targets(title: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    """Return a table of measured values and their targets."""
    return Table(title, ("", "measured", "target"), list(rows))


def text(table: Table) -> str:
    """Return the table for a terminal."""
    grid = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]
    lines = []
    for name, *cells in grid:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return "\n".join([table.title, *(f"  {line.rstrip()}" for line in lines)])


def markdown(table: Table) -> str:
    """Return the table for a page."""
    lines = ["| " + " | ".join(row) + " |" for row in (table.columns, *table.rows)]
    lines.insert(1, "|" + "---|" * len(table.columns))
    return "\n".join([f"{table.title}:", "", *lines])


def write_json(path: Path, machine: str, sections: list[Section]) -> None:
    """Write every figure."""
    figures = {section.name: section.figures for section in sections}
    path.write_text(json.dumps({"machine": machine, **figures}, indent=1) + "\n")


def write_pages(readme: Path, performance: Path, machine: str, sections: list[Section]) -> None:
    """Put the tables into the two pages."""
    _write_page(performance, machine, {section.name: section.short or section.tables for section in sections})
    _write_page(readme, machine, {section.name: section.brief for section in sections if section.brief})


def _write_page(path: Path, machine: str, tables: dict[str, list[Table]]) -> None:
    """Put the tables between the marks; tables of sections that did not run stay as they are."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path.name} has no marks for the measured tables")
    parts = re.split(r"<!-- (\w+) -->\n", old)
    blocks = dict(zip(parts[1::2], parts[2::2], strict=True))
    if tables:
        blocks["machine"] = f"{machine}."
    blocks |= {name: "\n\n".join(map(markdown, made)) for name, made in tables.items()}
    body = "".join(f"<!-- {name} -->\n{blocks[name].strip()}\n\n" for name in ORDER if name in blocks)
    path.write_text(f"{before}{begin}\n{body}{end}{after}", encoding="utf-8")
