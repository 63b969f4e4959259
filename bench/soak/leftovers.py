"""What may be left over in a process at rest, and on the disk."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

from bench.soak.journal import Journal
from bench.soak.settings import DISK_MB, MB, MEMORY_MB
from bench.soak.stage import Stage

MEMORY_BOUND_MB = 120 + 4 * MEMORY_MB
"""As README has it."""

REST_SECONDS = 120.0
_LOOKS = 100
_TICK_SECONDS = 0.2
_SLACK = 3
"""Threads and files that are opened once, at some time."""

_AT_REST = ("executions_in_flight", "execution_waiters", "upstream_queue", "waiting", "breaker_open")


async def rest(stage: Stage) -> None:
    """Wait until the gateway has nothing left to do."""
    end = time.monotonic() + REST_SECONDS
    while left := {name: value for name, value in (await stage.levels()).items() if name in _AT_REST and value}:
        if time.monotonic() > end:
            stage.journal.find("nothing is left over", f"after {REST_SECONDS:g} s of rest: {left}")
            return
        await asyncio.sleep(_TICK_SECONDS)


class Leftovers:
    """Measures each process at rest, and compares it with its first rest."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.journal = stage, stage.journal
        self._first: dict[str, int] = {}
        self._of = 0

    async def check(self) -> None:
        """Measure the process, which is at rest and has no connections of callers."""
        pid = self.stage.process.child.pid
        if self._of != pid:
            self._of, self._first = pid, await self._counts()
        if more := await self._more_for_long():
            self.journal.find("nothing is left over", more)
        self.journal.figures["looked for leftovers"] += 1
        self.memory()
        if left := [path.name for path in self.stage.store.rglob("*.tmp")]:
            self.journal.find("nothing is left over", f"temporary files {left}")

    def memory(self) -> None:
        """Note the peak of the process, before it ends."""
        peak = peak_mb(self.stage.process.child.pid)
        self.journal.peak("memory", peak)
        if peak > MEMORY_BOUND_MB:
            self.journal.find("memory within its bound", f"{peak:.0f} MB")

    async def _more_for_long(self) -> str:
        for _ in range(_LOOKS):
            if not (more := self._more(await self._counts())):
                break
            await asyncio.sleep(_TICK_SECONDS)
        return more

    async def _counts(self) -> dict[str, int]:
        pid = self.stage.process.child.pid
        return {"tasks": await self.stage.tasks(), "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}

    def _more(self, counts: dict[str, int]) -> str:
        for name, count in counts.items():
            self.journal.peak(f"more {name}", count - self._first[name])
        more = {name: count for name, count in counts.items() if count > self._first[name] + _SLACK}
        return f"{more}, at first {self._first}" if more else ""


def peak_mb(pid: int) -> float:
    """The most memory that a process has had."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 / MB if found else 0.0


def disk_mb(directory: Path) -> float:
    """All bytes of the store, as they are on the disk."""
    total = 0
    for path in directory.rglob("*"):
        try:
            found = path.stat()
        except OSError:  # just deleted
            continue
        total += min(found.st_blocks * 512, found.st_size) if path.is_file() else 0
    return total / MB


async def watch_disk(stage: Stage, journal: Journal) -> None:
    """Measure the store all the time, until cancelled."""
    while True:
        used = await asyncio.to_thread(disk_mb, stage.store)
        journal.peak("disk", used)
        if used > DISK_MB:
            journal.find("disk within its bound", f"{used:.1f} MB")
        await asyncio.sleep(_TICK_SECONDS)
