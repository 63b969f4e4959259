"""Does work grow in proportion to its input? Measured as CPU time of this thread, so a busy machine is no matter.

Times are compared with each other, never with a limit in seconds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

MEASURABLE_SECONDS: Final = 0.01
"""Shorter times say nothing; the input is doubled until the work takes longer."""

LARGEST: Final = 1 << 18
FACTOR: Final = 4
MOST: Final = 9.0
"""Four times the input takes about four times as long if the work is linear, 16 times if it is quadratic."""


def grows_linearly(make: Callable[[int], T], work: Callable[[T], object], *, first: int = 1 << 10) -> bool:
    """Whether `work` on an input of four times the size takes about four times as long.

    `make` builds the input of a size. Doubles the size until the work can be measured; what cannot be measured at a
    quarter of a million is linear enough.
    """
    size = first
    while (seconds := _seconds(make(size), work)) < MEASURABLE_SECONDS:
        if size >= LARGEST:
            return True
        size *= 2
    larger = make(size * FACTOR)
    for _ in range(3):  # again, if something else took the caches meanwhile
        if _seconds(larger, work, runs=1) <= MOST * max(seconds, MEASURABLE_SECONDS):
            return True
        seconds = max(seconds, _seconds(make(size), work, runs=1))
    return False


def _seconds(given: T, work: Callable[[T], object], runs: int = 2) -> float:
    """Return the shortest time of a few runs, without the garbage collector, whose work depends on everything else."""
    found = float("inf")
    gc.disable()
    try:
        for _ in range(runs):
            began = time.thread_time()
            work(given)
            found = min(found, time.thread_time() - began)
    finally:
        gc.enable()
    return found
