"""The SQLite file: tables and versions, opening and checking. Plain functions for the connection's own thread."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import msgspec

from gateway.store.sqlite import ownership

VERSIONS = {"schema": "2", "key": "1", "entry": "6"}
"""Increase `key` if the encoding of cache keys changes, `entry` if fields of `Entry` or of a ledger record change."""

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    key BLOB PRIMARY KEY, scope TEXT NOT NULL, query_id INTEGER NOT NULL, body_id BLOB NOT NULL,
    stored_at REAL NOT NULL, confirmed REAL NOT NULL, packed BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX entries_scope ON entries (scope, query_id);
CREATE INDEX entries_query ON entries (query_id);
CREATE INDEX entries_body ON entries (body_id);
CREATE TABLE bodies (
    id INTEGER PRIMARY KEY, body_id BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, digest BLOB NOT NULL,
    last_used REAL NOT NULL, file TEXT, data BLOB
);
CREATE INDEX bodies_used ON bodies (last_used, size);
CREATE INDEX bodies_file ON bodies (file) WHERE file IS NOT NULL;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, execution_id TEXT NOT NULL, noted_at REAL NOT NULL, packed BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_execution ON jobs (execution_id);
CREATE INDEX jobs_noted ON jobs (noted_at);
CREATE TABLE executions (
    id TEXT PRIMARY KEY, started_at REAL NOT NULL, status INTEGER NOT NULL, packed BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX executions_started ON executions (started_at);
CREATE INDEX executions_open ON executions (status) WHERE status < 3;
CREATE TABLE result_ids (
    seq INTEGER PRIMARY KEY, scope BLOB NOT NULL, result_id INTEGER NOT NULL, query_id INTEGER NOT NULL,
    identity BLOB NOT NULL, UNIQUE (scope, result_id, query_id)
);
"""

CHECKED_TABLES = ("meta", "entries", "jobs", "executions", "result_ids")
"""Not `bodies`: checking gigabytes would delay every look-up, and each body is checked against its digest when read."""


PAGE_BYTES = 4096

VACUUM_PAGES = 500
"""How many free pages are given back to the disk in one step: less than 10 ms."""


class UnknownFormatError(Exception):
    """The file was written by another version."""


class Contents(msgspec.Struct):
    """How many entries a file has, and whether it was closed properly the last time (`clean`)."""

    entries: int
    clean: bool


def connect(path: Path, wal_bytes: int) -> tuple[sqlite3.Connection, Contents]:
    """Open the file, or create it; at rest, its WAL takes about `wal_bytes`.

    Raises:
        ConfigurationError: it is not ours.
        sqlite3.Error, OSError, UnknownFormatError: it cannot be used.
    """
    ownership.refuse_foreign(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # nobody else may read results
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # another user's file, which we may use
            path.with_name(path.name + suffix).chmod(0o600)
    db = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False, cached_statements=200)
    try:
        if not path.stat().st_size:
            _mark(db)
        _settings(db, wal_bytes)
        return db, _prepare(db)
    except BaseException:
        db.close()
        raise


def _mark(db: sqlite3.Connection) -> None:
    """Make an empty file ours. Before WAL: otherwise the mark would be only in the WAL until the first checkpoint.

    Without a journal on disk: after a kill, one beside an empty file would not be known as ours.
    """
    for setting in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = MEMORY",
        f"page_size = {PAGE_BYTES}",
        "auto_vacuum = INCREMENTAL",
        f"application_id = {ownership.APPLICATION_ID}",
    ):
        db.execute(f"PRAGMA {setting}").fetchall()


def _settings(db: sqlite3.Connection, wal_bytes: int) -> None:
    # Exclusive: SQLite before 3.51.3 can damage a WAL file that two connections use.
    for setting in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "mmap_size = 0",
        f"wal_autocheckpoint = {wal_bytes // PAGE_BYTES}",
        f"journal_size_limit = {wal_bytes}",
        "cache_size = -16384",
        "temp_store = MEMORY",
    ):
        db.execute(f"PRAGMA {setting}").fetchall()


def _prepare(db: sqlite3.Connection) -> Contents:
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        db.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT;")
        found = {"clean": "1"}
        db.executemany("INSERT INTO meta VALUES (?, ?)", VERSIONS.items())
    else:
        found = _meta(db)
    clean = found.get("clean") == "1"
    mark_clean(db, clean=False)
    return Contents(db.execute("SELECT count(*) FROM entries").fetchone()[0], clean)


def _meta(db: sqlite3.Connection) -> dict[str, str]:
    try:
        found = dict(db.execute("SELECT name, value FROM meta").fetchall())
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # that one is "no such table"
            raise
        raise UnknownFormatError(str(error)) from error
    if {name: found.get(name) for name in VERSIONS} != VERSIONS:
        raise UnknownFormatError(", ".join(f"{name} {found.get(name)}" for name in VERSIONS))
    return found


def mark_clean(db: sqlite3.Connection, *, clean: bool) -> None:
    """Record whether the file was closed properly; this is also a test whether the file can be written."""
    db.execute("INSERT OR REPLACE INTO meta VALUES ('clean', ?)", (str(int(clean)),))


def size(db: sqlite3.Connection, path: Path) -> tuple[int, int, int]:
    """Return the bytes of the file, of its WAL, and of the pages in the file that are free for new rows."""
    try:
        wal = path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        wal = 0
    page = _pragma(db, "page_size")
    return _pragma(db, "page_count") * page, wal, _pragma(db, "freelist_count") * page


def give_back(db: sqlite3.Connection) -> bool:
    """Make the file shorter by some free pages; return whether there are more to give back."""
    if not _pragma(db, "auto_vacuum"):  # files of before
        return False
    db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    return _pragma(db, "freelist_count") > 0


def empty_wal(db: sqlite3.Connection) -> None:
    """Write the WAL into the file and give its room back to the disk."""
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def check(db: sqlite3.Connection, table: str) -> str:
    """Return "ok", or what is wrong with that table."""
    return str(db.execute(f"PRAGMA quick_check('{table}')").fetchone()[0])
