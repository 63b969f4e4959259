"""Processes of the benchmark: start on loopback, wait, stop, and measure CPU and memory."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STOP_SECONDS = 30.0
_SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Running:
    """A process that was started here."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, url: str, *, seconds: float = 30.0, every: float = 0.05) -> float:
        """Request `url` until the response is 200; return the monotonic time of that."""
        end = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).read()
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{url}: {error}\n{self.log.read_text(errors='replace')[-2000:]}") from None
                time.sleep(every)
            else:
                return time.monotonic()

    def cpu_seconds(self) -> float:
        """CPU time of the process and all its descendants, so far."""
        return sum(_cpu(pid) for pid in family(self.pid))

    def resident_bytes(self) -> int:
        """Resident memory of the process."""
        return resident_bytes(self.pid)

    def reset_peak(self) -> None:
        """Reset the kernel's peak of resident memory (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most resident memory since `reset_peak`."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


@dataclass(frozen=True)
class Memory:
    """What a process and all its descendants have in memory, in MB."""

    own: float
    """Without files that are mapped, such as the code of libraries, which the system may drop."""
    all: float
    """With them; what several processes share counts in each."""

    def above(self, other: Memory) -> Memory:
        """Return the difference."""
        return Memory(self.own - other.own, self.all - other.all)


def memory_of(pid: int) -> Memory:
    """Return what a process and all its descendants have now."""
    command = _command(pid)
    # A child that has not begun its own program has the memory of its parent.
    children = [child for child in family(pid)[1:] if _command(child) != command]
    found = [_sizes_kb(process) for process in (pid, *children)]
    own = sum(sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0) for sizes in found)
    return Memory(own / 1024, sum(sizes.get("VmRSS", 0) for sizes in found) / 1024)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _sizes_kb(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}


class MemoryWatch:
    """The most that a process and all its descendants have, above that at the start."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._start = memory_of(pid)
        self.most = Memory(0, 0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure every few milliseconds."""
        self.most = Memory(0, 0)
        self._ended.clear()
        thread = threading.Thread(target=self._sample)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            now = memory_of(self._pid).above(self._start)
            self.most = Memory(max(self.most.own, now.own), max(self.most.all, now.all))


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], directory: Path, env: dict[str, str] | None = None) -> Iterator[Running]:
    """Run a command; stop it at the end and wait for it."""
    path = directory / f"{free_port()}.log"
    with path.open("wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=directory)
        try:
            yield Running(process, path)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
