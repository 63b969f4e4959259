"""The tables that a run prints: each promise with what was seen of it, in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from bench.soak.journal import Journal, Row
from bench.soak.kills import REST_SECONDS
from bench.soak.leftovers import MEMORY_BOUND_MB
from bench.soak.outages import KNOWN_AFTER_SECONDS, SLOWEST_SECONDS, Outages
from bench.soak.settings import DISK_MB, MAX_WAIT_SECONDS, MOST_REQUESTS


def machine() -> str:
    """The machine in words."""
    return f"{len(os.sched_getaffinity(0))} shared cores, Python {platform.python_version()}"


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
    lines.insert(1, "|" + "---|" * len(columns))
    return "\n".join(lines)


def promises(rows: list[Row]) -> str:
    """Return the table of promises."""
    cells = [(row.promise, row.measured, row.verdict) for row in rows]
    return table(("promise", "seen", "verdict"), cells)


def _responses(journal: Journal) -> list[Row]:
    figures = journal.figures
    judged = f"{figures['results judged']:,} results, {figures['bytes judged'] / 1e6:,.0f} MB"
    longest = max(((one, kind) for kind, one in journal.longest.items()), default=(0.0, ""))
    return [
        journal.row("byte for byte a result of Redash", judged),
        journal.row("rows of the query and value asked for", judged),
        journal.row("no rows older than asked for", f"{figures['hits']:,} hits, {figures['stale']:,} stale"),
        journal.row("no rows of a query as it was before an edit", f"{figures['edits']} edits"),
        journal.row("nothing that a client must not have", f"{figures['refused to foreign clients']:,} refused"),
        journal.row("every response in time", f"{figures['calls']:,} calls, longest {longest[0]:.1f} s ({longest[1]})"),
        journal.row("every other response is a problem", f"{figures['refused or unavailable']:,} refused"),
        journal.row("no connection ends before its response", f"{figures['met a kill']:,} met a kill, "
                    f"{figures['broken off with Redash']:,} broken off with Redash"),
        journal.row("with Redash well, everything succeeds", f"{figures['tried again']:,} tried again"),
        journal.row("every job ends", f"{figures['jobs finished']:,} finished, {figures['jobs failed']:,} failed"),
        journal.row("no error in the log", "all processes"),
    ]  # fmt: skip


def _jobs(journal: Journal) -> Row:
    return journal.row("every job id is good", f"{journal.figures['job ids read at the end']:,} read again at the end")


def _corrupt(journal: Journal) -> Row:
    return journal.row("no corrupt entry", f"{journal.figures['stored bodies checked']:,} bodies compared on the disk")


def of_soak(journal: Journal) -> str:
    """Return the table of a soak."""
    figures = journal.figures
    weather = ", ".join(f"{n} {k.removeprefix('rounds: ')}" for k, n in sorted(figures.items()) if "rounds: " in k)
    events = [
        ("rounds", f"{figures['rounds']} ({weather})"),
        ("kill -9", f"{figures['kills']}"),
        ("restarts", f"{figures['restarts with passed sockets']} with passed sockets, "
         f"{figures['restarts with a second process']} with a second process"),
        ("reloads, purges", f"{figures['reloads']}, {figures['purges']}"),
        ("304", f"{figures['304']:,}"),
    ]  # fmt: skip
    more = [f"{journal.peaks.get(f'more {name}', 0):.0f} more {name}" for name in ("tasks", "descriptors")]
    rows = [
        *(Row(name, value) for name, value in events),
        *_responses(journal),
        journal.row(
            "every job id is good", f"{figures['jobs finished'] + figures['jobs failed']:,} followed to their end"
        ),
        journal.row("tokens as the last reload has them", f"{figures['reloads']} reloads"),
        journal.row("Redash is not overrun", f"at most {MOST_REQUESTS} requests at once"),
        journal.row("nothing is left over", f"looked {figures['looked for leftovers']} times: {', '.join(more)}"),
        _disk(journal),
        journal.row("memory within its bound", f"{journal.peaks.get('memory', 0):.0f} of {MEMORY_BOUND_MB} MB"),
        _corrupt(journal),
    ]
    return promises(rows)


def _disk(journal: Journal) -> Row:
    return journal.row("disk within its bound", f"{journal.peaks.get('disk', 0):.1f} of {DISK_MB} MB at most")


def of_kills(journal: Journal) -> str:
    """Return the table of a run of kills."""
    figures = journal.figures
    count = f"{figures['kills']} and {figures['killed while starting']} while starting"
    rest = f"{journal.peaks.get('disk at rest', 0):.1f} of {DISK_MB} MB after {REST_SECONDS:g} s of rest, "
    rows = [
        Row("kill -9", count),
        _corrupt(journal),
        journal.row("no run twice", f"{figures['runs that must not run twice']:,} runs"),
        _jobs(journal),
        journal.row("disk within its bound", f"{rest}{journal.peaks.get('disk', 0):.1f} MB at most"),
        *_responses(journal),
        journal.row("nothing is left over", "at the end"),
    ]
    return promises(rows)


def of_outages(journal: Journal, outages: Outages) -> str:
    """Return the tables of a run of outages."""
    columns = (
        "Redash",
        "cached requests",
        f"from {KNOWN_AFTER_SECONDS:g} s on",
        "before: longest",
        "not cached: longest",
        "used again after",
        "at once when back",
    )
    rows = [
        journal.row("cached dashboards go on", f"p99 at most {SLOWEST_SECONDS * 1000:g} ms"),
        journal.row("what is not cached fails within max_wait", f"{MAX_WAIT_SECONDS:g} s"),
        journal.row("every other response is a problem", f"{journal.figures['refused or unavailable']:,} refused"),
        journal.row("Redash is not overrun", f"at most {MOST_REQUESTS} requests at once"),
        journal.row("it is used again when it is back", "each time"),
        journal.row("nothing is left over", "after each"),
    ]
    return table(columns, outages.columns()) + "\n\n" + promises(rows)
