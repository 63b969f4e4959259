"""What was sent in the isolation fuzz, what came back and what happened: numbers only."""

from __future__ import annotations

from collections import Counter

from support.http import Reply


class Figures:
    """Counts of one history."""

    def __init__(self) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        """By form of request and status."""
        self.cache: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()

    def count(self, kind: str, reply: Reply) -> None:
        """Count one response."""
        self.sent[kind, f"{reply.status}"] += 1
        self.cache[_cache_of(reply)] += 1

    def lines(self) -> list[str]:
        """Return all of it as text."""
        kinds: dict[str, Counter[str]] = {}
        for (kind, status), count in self.sent.items():
            kinds.setdefault(kind, Counter())[status] += count
        lines = [f"  {kind:10} {c.total():6}  {_listed(c)}" for kind, c in sorted(kinds.items())]
        shares = ", ".join(f"{name} {count / self.cache.total():.1%}" for name, count in sorted(self.cache.items()))
        return [*lines, f"cache: {shares}", f"happened: {_listed(self.happened)}"]


def _cache_of(reply: Reply) -> str:
    if reply.status in (401, 403, 404):
        return "denied"
    for name, sign in (("stale", "detail=stale-"), ("hit", "; hit"), ("collapsed", "collapsed"), ("miss", "fwd=")):
        if sign in reply.cache:
            return name
    return "errors" if reply.status >= 400 else "no cache"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
