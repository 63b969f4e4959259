"""The SQL for entries and bodies. Plain functions for the connection's own thread; `writer` makes the transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from gateway.model import Key

ROW_BYTES = 1024
"""What a body's row takes in addition to its bytes, with its entry and the places of both in the indexes."""


class Change(msgspec.Struct):
    """How some work changed the number of entries, which bodies it deleted, and which files have no row any more."""

    entries: int = 0
    evicted: int = 0
    bodies: list[bytes] = msgspec.field(default_factory=list)
    files: list[str] = msgspec.field(default_factory=list)


class NewRow(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with its body, ready to be inserted: bytes in `data`, or the name of a complete file in `file`."""

    scope: str
    query_id: int
    confirmed: float
    packed: bytes
    body_id: bytes
    size: int
    digest: bytes
    file: str | None = None
    data: bytes | None = None


class EntryRow(msgspec.Struct, frozen=True):
    """An entry as stored, and what is stored of its body; times are wall-clock seconds."""

    packed: bytes
    confirmed: float
    body_id: bytes
    size: int
    file: str | None
    data_size: int | None


class BodyRow(msgspec.Struct, frozen=True):
    """A body as stored."""

    size: int
    digest: bytes
    file: str | None
    data: bytes | None


def put(db: sqlite3.Connection, keys: Sequence[Key], row: NewRow, now: float, change: Change) -> None:
    """Insert an entry under its keys, and its body once. `now` is wall-clock seconds."""
    _put_body(db, row, now, change)
    for key in keys:
        _put_entry(db, key, row, now, change)


def _put_body(db: sqlite3.Connection, row: NewRow, now: float, change: Change) -> None:
    old = db.execute("SELECT size, digest, file FROM bodies WHERE body_id = ?", (row.body_id,)).fetchone()
    if old is not None and old[1] != row.digest:  # other bytes under the same id: no older entry may return them
        delete_bodies(db, [row.body_id], change)
        old = None
    if old is not None and old[2] == row.file:
        db.execute("UPDATE bodies SET last_used = ? WHERE body_id = ?", (now, row.body_id))
        return
    if old is not None and old[2] is not None:
        change.files.append(old[2])
    db.execute(
        "INSERT OR REPLACE INTO bodies (body_id, size, digest, last_used, file, data) VALUES (?, ?, ?, ?, ?, ?)",
        (row.body_id, row.size, row.digest, now, row.file, row.data),
    )


def _put_entry(db: sqlite3.Connection, key: Key, row: NewRow, now: float, change: Change) -> None:
    old = db.execute("SELECT body_id FROM entries WHERE key = ?", (key,)).fetchone()
    db.execute(
        "INSERT OR REPLACE INTO entries (key, scope, query_id, body_id, stored_at, confirmed, packed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key, row.scope, row.query_id, row.body_id, now, row.confirmed, row.packed),
    )
    if old is None:
        change.entries += 1
    elif old[0] != row.body_id:
        _delete_unused(db, [old[0]], change)


def find(db: sqlite3.Connection, key: Key, now: float) -> EntryRow | None:
    """Return the entry under a key, unless it was stored after `now` (the wall clock was set back)."""
    row = db.execute(
        "SELECT e.packed, e.confirmed, e.body_id, b.size, b.file, length(b.data)"
        " FROM entries e JOIN bodies b ON b.body_id = e.body_id WHERE e.key = ? AND e.stored_at <= ?",
        (key, now),
    ).fetchone()
    return None if row is None else EntryRow(*row)


def keys_after(db: sqlite3.Connection, key: Key, count: int) -> list[Key]:
    """Return the next keys in order, at most `count`."""
    found = db.execute("SELECT key FROM entries WHERE key > ? ORDER BY key LIMIT ?", (key, count))
    return [row[0] for row in found]


def load(db: sqlite3.Connection, body_id: bytes) -> BodyRow | None:
    """Return a body as stored, unverified."""
    row = db.execute("SELECT size, digest, file, data FROM bodies WHERE body_id = ?", (body_id,)).fetchone()
    return None if row is None else BodyRow(*row)


def confirm(db: sqlite3.Connection, confirmed: Mapping[Key, float]) -> None:
    """Set when Redash last confirmed entries, wall-clock seconds."""
    db.executemany("UPDATE entries SET confirmed = ? WHERE key = ?", ((at, key) for key, at in confirmed.items()))


def touch(db: sqlite3.Connection, used: Mapping[bytes, float]) -> None:
    """Set when bodies were last used, wall-clock seconds."""
    db.executemany("UPDATE bodies SET last_used = ? WHERE body_id = ?", ((at, body) for body, at in used.items()))


def oldest(db: sqlite3.Connection, count: int) -> list[tuple[bytes, int]]:
    """Return the least recently used bodies, each with the bytes it takes."""
    rows = db.execute("SELECT body_id, size FROM bodies ORDER BY last_used LIMIT ?", (count,))
    return [(body_id, size + ROW_BYTES) for body_id, size in rows]


def files_by_use(db: sqlite3.Connection) -> Iterator[tuple[bytes, str, int]]:
    """Yield body id, name and size of all files, the least recently used first."""
    yield from db.execute("SELECT body_id, file, size FROM bodies WHERE file IS NOT NULL ORDER BY last_used")


def files_of(db: sqlite3.Connection, scope: str | None, query_id: int | None) -> dict[bytes, str]:
    """Return the files that belong only to that scope and query (None: to all), by their body id."""
    return dict(
        db.execute(
            "SELECT b.body_id, b.file FROM bodies b WHERE b.file IS NOT NULL AND NOT EXISTS (SELECT 1 FROM entries e"
            " WHERE e.body_id = b.body_id AND NOT ((?1 IS NULL OR e.scope = ?1) AND (?2 IS NULL OR e.query_id = ?2)))",
            (scope, query_id),
        )
    )


def delete(db: sqlite3.Connection, scope: str | None, query_id: int | None, change: Change) -> set[Key]:
    """Delete entries by scope and query (None: all), and bodies without an entry; return the keys."""
    if scope is None and query_id is None:
        return _delete_all(db, change)
    # The SQL is built from these literals only; values are bound.
    terms = [("scope = ?", scope), ("query_id = ?", query_id)]
    where = " AND ".join(["1", *(term for term, value in terms if value is not None)])
    values = [value for _, value in terms if value is not None]
    rows = db.execute(f"SELECT key, body_id FROM entries WHERE {where}", values).fetchall()  # noqa: S608
    db.execute(f"DELETE FROM entries WHERE {where}", values)  # noqa: S608
    change.entries -= len(rows)
    _delete_unused(db, {body_id for _, body_id in rows}, change)
    return {key for key, _ in rows}


def delete_selected(
    selection: tuple[str | None, int | None], keys: set[Key], db: sqlite3.Connection
) -> tuple[set[Key], Change]:
    """Delete as `delete` does; and older entries under the keys of puts that were cancelled."""
    change = Change()
    delete_keys(db, list(keys), change)
    return delete(db, *selection, change), change


def queries(scope: str, db: sqlite3.Connection) -> set[int]:
    """Return the queries of which there are entries in a scope."""
    return {row[0] for row in db.execute("SELECT DISTINCT query_id FROM entries WHERE scope = ?", (scope,))}


def _delete_all(db: sqlite3.Connection, change: Change) -> set[Key]:
    keys = {row[0] for row in db.execute("SELECT key FROM entries")}
    bodies = db.execute("SELECT body_id, size, file FROM bodies").fetchall()
    db.execute("DELETE FROM entries")
    db.execute("DELETE FROM bodies")
    change.entries -= len(keys)
    change.bodies += [body_id for body_id, _, _ in bodies]
    change.files += [file for _, _, file in bodies if file is not None]
    return keys


def delete_keys(db: sqlite3.Connection, keys: Sequence[Key], change: Change) -> None:
    """Delete single entries, and bodies without an entry."""
    for key in keys:
        old = db.execute("SELECT body_id FROM entries WHERE key = ?", (key,)).fetchone()
        if old is not None:
            db.execute("DELETE FROM entries WHERE key = ?", (key,))
            change.entries -= 1
            _delete_unused(db, [old[0]], change)


def delete_bodies(db: sqlite3.Connection, body_ids: Iterable[bytes], change: Change) -> None:
    """Delete bodies and all their entries."""
    for body_id in body_ids:
        deleted = db.execute("DELETE FROM entries WHERE body_id = ?", (body_id,)).rowcount
        change.entries -= deleted
        _delete_body(db, body_id, change)


def _delete_unused(db: sqlite3.Connection, body_ids: Iterable[bytes], change: Change) -> None:
    for body_id in body_ids:
        if db.execute("SELECT 1 FROM entries WHERE body_id = ? LIMIT 1", (body_id,)).fetchone() is None:
            _delete_body(db, body_id, change)


def _delete_body(db: sqlite3.Connection, body_id: bytes, change: Change) -> None:
    row = db.execute("SELECT size, file FROM bodies WHERE body_id = ?", (body_id,)).fetchone()
    if row is None:
        return
    db.execute("DELETE FROM bodies WHERE body_id = ?", (body_id,))
    change.bodies.append(body_id)
    if row[1] is not None:
        change.files.append(row[1])


def files(db: sqlite3.Connection) -> set[str]:
    """Return the names of all files that have a row."""
    return {row[0] for row in db.execute("SELECT file FROM bodies WHERE file IS NOT NULL")}
