"""Disks of a few megabytes: a real one, where the tests may mount it, and the errors of one, anywhere."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest

from gateway.concurrency.spool_file import SpoolFile


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes, in memory; the test is skipped where it cannot be mounted (it takes root)."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"mount: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all room that is left on a disk, as another program may; return the file that takes it."""
    taken = disk / "taken by another program"
    with taken.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            while _written(file, size):
                pass
    return taken


def _written(file: FileIO, size: int) -> int:
    try:
        return file.write(bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0


@contextmanager
def full_for_files(patch: pytest.MonkeyPatch, *, after: int = 0) -> Iterator[None]:
    """Let writing of body files fail as on a full disk, behind the first `after` bytes of each."""
    write = SpoolFile.write

    def limited(self: SpoolFile, pieces: list[bytes], start: int) -> None:
        data = b"".join(pieces)
        room = max(0, after - start)
        write(self, [data[:room]], start)  # the kernel, too, writes what it can
        if len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with patch.context() as patched:
        patched.setattr(SpoolFile, "write", limited)
        yield
