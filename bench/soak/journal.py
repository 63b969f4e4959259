"""What a run of the soak has found and counted. One for all callers."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

MOST_FINDINGS = 200
"""More of them say nothing new."""


@dataclass(frozen=True)
class Row:
    """One line of the table of verdicts; the first ones only say what was done."""

    promise: str
    measured: str
    verdict: str = ""


@dataclass
class Journal:
    """Findings by what they break, and figures."""

    moment: str = "start"
    """Where the run is; part of each finding, so that the seed can repeat it."""
    findings: list[str] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    """How many findings by promise."""
    figures: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def find(self, promise: str, what: str) -> None:
        """Note something that must not be."""
        self.broken[promise] += 1
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(f"{self.moment}: {promise}: {what}")
            print(self.findings[-1], file=sys.stderr, flush=True)

    def took(self, kind: str, seconds: float) -> None:
        """Note how long a response took."""
        self.longest[kind] = max(seconds, self.longest.get(kind, 0.0))

    def peak(self, name: str, value: float) -> None:
        """Note the largest value of a measurement."""
        self.peaks[name] = max(value, self.peaks.get(name, 0.0))

    def row(self, promise: str, measured: str) -> Row:
        """Return the line of a promise: it is kept if nothing was found against it."""
        count = self.broken[promise]
        return Row(promise, f"{measured}; {count} findings" if count else measured, "**broken**" if count else "kept")
