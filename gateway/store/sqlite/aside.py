"""A database that cannot be used is renamed; the new name says why and when. Only the last one is kept.

Everything here blocks on the disk.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

_SUFFIXES: Final = ("-wal", "-shm", "")


def set_aside(path: Path, label: Literal["old", "damaged"]) -> str:
    """Rename a database with what belongs to it; return its new name."""
    remove(path)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.{label}-{stamp}")
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside.name


def size(path: Path) -> int:
    """Return the bytes of what was set aside before."""
    total = 0
    for file in _found(path):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def remove(path: Path) -> None:
    """Delete what was set aside before."""
    for file in _found(path):
        with contextlib.suppress(OSError):
            file.unlink()


def _found(path: Path) -> list[Path]:
    name = re.compile(re.escape(path.name) + r"\.(?:old|damaged)-\d{8}T\d{6}\.\d{6}Z(?:-wal|-shm)?")
    try:
        return [file for file in path.parent.iterdir() if name.fullmatch(file.name)]
    except OSError:
        return []
