"""Which files are ours: known by what stands in them, never by their names. Only reads, and opens nothing with SQLite.

SQLite would replay another program's journal, delete a WAL without a database, and make files beside the one it opens.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from gateway.errors import ConfigurationError
from gateway.store.body_files import NAMES

APPLICATION_ID: Final = int.from_bytes(b"RGWc")
"""The mark in the header of every database of ours (https://sqlite.org/fileformat2.html#application_id)."""

_MAGIC: Final = b"SQLite format 3\0"
_ID: Final = slice(68, 72)
_HEADER_BYTES: Final = 100
_LOCK_CONTENT: Final = re.compile(rb"[0-9]{0,20}")  # the id of the process that holds it


def refuse_foreign(path: Path) -> None:
    """Raise ConfigurationError if the database, or what belongs beside it, is there and not ours; else as `refusal`."""
    if (text := refusal(path)) is not None:
        raise ConfigurationError([f"cache.store: {text}"])


def refusal(path: Path) -> str | None:
    """Return what is there instead of our files and what to do; None if all is ours, empty or not there.

    Raises:
        OSError: something is there and cannot be read.
    """
    header = _beginning(path)
    if header is None or (header and not _is_marked(header)):
        return _foreign(path)
    lock = path.with_name(path.name + ".lock")
    content = _beginning(lock)
    if content is None or not _LOCK_CONTENT.fullmatch(content):
        return _foreign(lock)
    beside = None if header else _foreign_beside(path)
    return None if beside is None else _foreign(beside)


def _is_marked(header: bytes) -> bool:
    return header.startswith(_MAGIC) and header[_ID] == APPLICATION_ID.to_bytes(4)


def _foreign(path: Path) -> str:
    return f"{path} is there and is no file of this gateway; choose another path in cache.store, or move it elsewhere"


def _beginning(path: Path) -> bytes | None:
    """Return the first bytes of a file, none if it is not there; None if it is no file but a directory or a device."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        # not blocking: what has just become a FIFO would wait for a writer
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(file, _HEADER_BYTES)
    finally:
        os.close(file)


def _foreign_beside(path: Path) -> Path | None:
    """Return what is beside no database, or an empty one, and cannot be ours."""
    for suffix in ("-wal", "-shm", "-journal"):  # SQLite would delete them
        beside = path.with_name(path.name + suffix)
        if _beginning(beside) != b"":
            return beside
    bodies = path.with_name(path.name + ".bodies")
    try:
        with os.scandir(bodies) as found:
            return bodies if any(NAMES.fullmatch(file.name) is None for file in found) else None
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return bodies
