"""What an error of the medium means: damage, a full disk, a file that is gone, or something for the operator."""

from __future__ import annotations

import errno
import sqlite3

PERMANENT_ERRNOS = (errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS)
PERMANENT_SQLITE_CODES = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


class UnusableError(Exception):
    """The file cannot be used now."""


class GoneError(OSError):
    """The file was removed, or another one has taken its place; what is open has no name any more."""


def is_damage(error: BaseException) -> bool:
    """Whether the file itself is damaged, rather than the disk full or the file locked."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return type(error) is sqlite3.DatabaseError


def is_full(error: BaseException) -> bool:
    """Whether there is no room on the disk."""
    if isinstance(error, OSError):
        return error.errno in FULL_ERRNOS
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def operator_must_act(error: BaseException) -> bool:
    """Whether waiting cannot help (wrong path, no permission), as it could with a full or failing disk."""
    if isinstance(error, OSError):
        return error.errno in PERMANENT_ERRNOS
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in PERMANENT_SQLITE_CODES
