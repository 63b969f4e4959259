"""The SQLite file: tables and versions, opening and checking. Plain functions for the connection's own thread."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import msgspec

VERSIONS = {"schema": "2", "key": "1", "entry": "2"}
"""Increase `key` if the encoding of cache keys changes, `entry` if fields of `Entry` or of a ledger record change."""

BODY_ROW_BYTES = 1024
ENTRY_ROW_BYTES = 512
"""What a row and its index entries take in addition to the bytes of the body, rounded up."""

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


class UnknownFormatError(Exception):
    """The file was written by another version."""


class Contents(msgspec.Struct):
    """The totals of a file, and whether it was closed properly the last time (`clean`)."""

    entries: int
    bytes: int
    clean: bool


def connect(path: Path) -> tuple[sqlite3.Connection, Contents]:
    """Open the file, or create it. Raises sqlite3.Error, OSError, UnknownFormatError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # nobody else may read results
    db = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False, cached_statements=200)
    try:
        _settings(db)
        return db, _prepare(db)
    except BaseException:
        db.close()
        raise


def _settings(db: sqlite3.Connection) -> None:
    # Exclusive: SQLite before 3.51.3 can damage a WAL file that two connections use.
    for setting in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "mmap_size = 0",
        "journal_size_limit = 67108864",
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
    entries = db.execute("SELECT count(*) FROM entries").fetchone()[0]
    bodies, size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM bodies").fetchone()
    return Contents(entries, size + bodies * BODY_ROW_BYTES + entries * ENTRY_ROW_BYTES, clean)


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


def check(db: sqlite3.Connection, table: str) -> str:
    """Return "ok", or what is wrong with that table."""
    return str(db.execute(f"PRAGMA quick_check('{table}')").fetchone()[0])


def is_damage(error: BaseException) -> bool:
    """Whether the file itself is damaged, rather than the disk full or the file locked."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return type(error) is sqlite3.DatabaseError
