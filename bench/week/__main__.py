"""Simulates the week in each configuration, and prints the table; with `--docs`, writes it into docs/freshness.md."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from bench.week.simulation import Figures, Week
from bench.week.team import Team
from gateway import config

PAGE = Path(__file__).parents[2] / "docs" / "freshness.md"
BEGIN, END = "<!-- simulated: begin -->", "<!-- simulated: end -->"
SEED = 19

FLOORS = """
floor = { runtimes = 10, at_least = "30s", at_most = "1h" }
follow_schedule = true
"""
AHEAD = """
[[warm]]
popular = 100
within = "1d"
budget = "30m/h"
credential = "team"
"""
WAYS = {"plain caching": ("", ""), "floors": (FLOORS, ""), "refresh ahead": ("", AHEAD), "both": (FLOORS, AHEAD)}
_BASE = """
[upstream]
url = "http://redash.example.com"
[credentials.team]
kind = "user"
key_env = "KEY"
[clients.team]
token_sha256 = ["{token}"]
credentials = ["team"]
[cache]
"""


def simulated(days: int, seed: int = SEED) -> dict[str, Figures]:
    """Return the figures of each way to configure it; all have the same week."""
    return {name: Week(Team(seed, days), settings(*texts)).run() for name, texts in WAYS.items()}


def settings(cache: str, warm: str) -> config.Config:
    """Parse a configuration as an operator writes it."""
    text = _BASE.format(token=config.token_hash("rg_team")) + cache + warm
    return config.parse(text, Path(), {"KEY": "k" * 40})


def table(found: dict[str, Figures]) -> str:
    """Return the figures as Markdown."""
    rows = [
        "| | answered without a wait | requests that waited | time waited | runs | by schedule | ahead of demand "
        "| work in Redash | age served: median, 90 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {name} | {one.share:.1%} | {one.waits:,} | {one.waited / 3600:.1f} h | {one.runs:,} | {one.scheduled:,} "
        f"| {one.ahead:,} | {one.seconds / 3600:.1f} h | {one.age(0.5):.0f} s, {one.age(0.9):.0f} s |"
        for name, one in found.items()
    ]
    return "\n".join(rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.week", description=__doc__)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/freshness.md")
    given = parser.parse_args()
    made = table(simulated(given.days, given.seed))
    print(made)
    if given.docs:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(
            re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n\n{made}\n\n{END}", text, flags=re.DOTALL), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
