"""What the checker found in a history, and the table of verdicts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Findings:
    """What the checker found, by rule."""

    rules: tuple[str, ...]
    judged: Counter[str] = field(default_factory=Counter)
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    excused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By rule: what it does not forbid, because of a trouble that no gateway can make up for."""

    @property
    def texts(self) -> list[str]:
        return [f"{rule}: {text}" for rule, texts in self.found.items() for text in texts]

    def table(self) -> str:
        """One line for each rule."""
        lines = [f"{'rule':<44} {'judged':>8} {'excused':>8} {'found':>6}"]
        for rule in self.rules:
            excuses = self.excused[rule]
            lines.append(f"{rule:<44} {self.judged[rule]:>8} {excuses.total():>8} {len(self.found[rule]):>6}")
            lines += [f"    excused: {count} × {reason}" for reason, count in sorted(excuses.items())]
        return "\n".join(lines)
