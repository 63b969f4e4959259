"""What one run has seen: findings, figures, and what is judged from them."""

from __future__ import annotations

import collections
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .texts_drawing import Attack

MB: Final = 10**6
MOST_FINDINGS: Final = 200
SHOWN_BYTES: Final = 300
SUSPECTS: Final = 12
SHOWN_STARVED: Final = 5
GROWING_SECONDS: Final = 600
"""Shorter runs say nothing about growth: the caches fill."""


@dataclass
class Underway:
    """An attack and when it was made; what was under way during a slow ping is suspect."""

    name: str
    attack: Attack
    began: float
    ended: float = float("inf")


@dataclass
class Ping:
    """One request of the polite caller, in seconds; `began` and `ended` are monotonic."""

    seconds: float
    began: float
    ended: float
    ran: float
    """CPU time of the gateway meanwhile."""
    loop: float
    """CPU time of its event loop meanwhile."""
    waited: float
    """For how long a thread of the gateway, or the polite caller, was ready but had no CPU."""

    @property
    def own(self) -> float:
        """For how long the gateway made the caller wait: what the loop computed, or what the want of a CPU leaves."""
        return max(min(self.loop, self.seconds), self.seconds - self.waited)

    def __str__(self) -> str:
        loop = f"CPU time: {self.ran:.2f} s, {self.loop:.2f} s of it on the loop"
        return f"{self.seconds:.2f} s, {min(self.waited, self.seconds):.2f} s of them without a CPU. {loop}"


@dataclass
class Run:
    """One run: what was found, and its figures."""

    seed: int
    directory: Path
    slow_seconds: float
    findings: list[str] = field(default_factory=list)
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    recent: collections.deque[Underway] = field(default_factory=lambda: collections.deque(maxlen=200))
    slowest: dict[str, Ping] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)
    starved: list[Ping] = field(default_factory=list)
    """Those that were slow only because the machine had no CPU for the gateway or its caller."""
    asked: dict[str, int] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    """Resident bytes, one for each second."""
    began: float = field(default_factory=time.monotonic)

    def find(self, what: str, where: str, sent: bytes = b"") -> None:
        """Note a finding and print it, with its bytes in a file."""
        if len(self.findings) >= MOST_FINDINGS:
            return
        self.findings.append(f"{where}: {what}")
        after = time.monotonic() - self.began
        print(f"FINDING {len(self.findings)} after {after:.1f} s, seed {self.seed}, {where}: {what[:2_000]}")
        if sent:
            file = self.directory / f"finding-{len(self.findings)}.bin"
            file.write_bytes(sent)
            print(f"  {len(sent)} bytes in {file}: {sent[:SHOWN_BYTES]!r}")
        sys.stdout.flush()

    def note_ping(self, name: str, ping: Ping) -> None:
        """Judge the slowest ping of a second: was it the gateway, or had the machine no CPU for it?"""
        if name not in self.slowest or ping.seconds > self.slowest[name].seconds:
            self.slowest[name] = ping
        self.own[name] = max(self.own.get(name, 0.0), ping.own)
        # A cached result may have to wait for Redash, which says whether it is still allowed.
        if ping.seconds < self.slow_seconds or name not in ("ping", "livez"):
            return
        if ping.own < self.slow_seconds:
            self.starved.append(ping)
            return
        suspects = [u for u in self.recent if u.began < ping.ended and u.ended > ping.began - 0.05]
        suspects.sort(key=lambda u: -len(u.attack.sent))
        listed = "; ".join(f"{u.name} {len(u.attack.sent)} bytes" for u in suspects[:SUSPECTS])
        self.find(f"{name} took {ping}. Under way: {listed}", "polite caller", b"".join(_sent(suspects)))

    def judge_log(self, log: Path, secrets: Iterable[str]) -> None:
        """Look for errors, tracebacks, keys and tokens in what the gateway has logged."""
        wrong = ('"level": "error"', '"level": "critical"', "Traceback")
        with log.open(errors="replace") as lines:
            for line in lines:
                if any(secret in line for secret in secrets):
                    self.find(f"a key or token: {line[:1_000]}", "log")
                if any(sign in line for sign in wrong):
                    self.find(f"an error: {line[:3_000]}", "log")

    def judge_memory(self, limit: float) -> None:
        """Compare the memory with its bound in MB, and the last quarter of the run with the one before."""
        quarter = max(1, len(self.memory) // 4)
        last = statistics.median(self.memory[-quarter:]) / MB
        before = statistics.median(self.memory[-2 * quarter : -quarter] or self.memory) / MB
        if last > limit:
            self.find(f"{last:.1f} MB at the end; the bound is {limit:.1f} MB", "memory")
        if len(self.memory) >= GROWING_SECONDS and last > before * 1.05 + 2:
            self.find(f"still growing: {before:.1f} MB in the third quarter, {last:.1f} MB in the last", "memory")

    def figures(self) -> str:
        """Return what is worth a line every minute."""
        pings = (f"{n} {p.seconds * 1000:.0f} ms (own {self.own[n] * 1000:.0f})" for n, p in self.slowest.items())
        memory = f"{self.memory[-1] / MB:.1f} MB" if self.memory else "-"
        return f"{time.monotonic() - self.began:6.0f} s  {memory}  {self.requests} requests  {', '.join(pings)}"

    def report(self, limits: dict[str, float], peak: int) -> None:
        """Print all figures."""
        print(f"\n{self.figures()}\nkinds: {dict(self.labels.most_common())}")
        print(f"responses: {dict(self.statuses.most_common())}")
        print(f"polite caller: {self.asked}; slow only for want of a CPU: {len(self.starved)}")
        for ping in sorted(self.starved, key=lambda ping: -ping.seconds)[:SHOWN_STARVED]:
            print(f"  {ping}")
        eighths = [self.memory[len(self.memory) * n // 8] / MB for n in range(8)] if self.memory else []
        print(f"memory in MB: peak {peak / MB:.1f}; by eighths {', '.join(f'{size:.0f}' for size in eighths)}")
        parts = " + ".join(f"{size:.0f} ({what})" for what, size in limits.items())
        print(f"bound: {sum(limits.values()):.0f} MB = {parts}\n{len(self.findings)} findings", flush=True)


def _sent(suspects: list[Underway]) -> list[bytes]:
    return [b"=== %s\n%s\n" % (u.name.encode(), u.attack.sent) for u in suspects[:SUSPECTS]]
