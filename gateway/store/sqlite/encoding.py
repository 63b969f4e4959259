"""Entries to rows and back. Times are monotonic in memory and wall clock in the file; they are converted here."""

from __future__ import annotations

import hashlib

import msgspec

from gateway.model import Clock, Entry
from gateway.store.body_files import BodyFiles, sync_and_hash
from gateway.store.sqlite import rows
from gateway.store.sqlite.write_buffer import PendingPut

BLOB_BYTES = 256 * 1024
"""Above this size a file is faster than a BLOB (measured: equal between 200 and 256 KB)."""


def encode_row(put: PendingPut, files: BodyFiles, clock: Clock) -> rows.NewRow | None:
    """Sync the bytes of `put` and return the row; None if its file has the wrong size. Blocks on the disk."""
    data = put.body.data
    if put.body.path is not None:
        digest = sync_and_hash(put.body.path)
        if files.size(put.body.path.name) != put.body.size:
            return None
    else:
        data = data or b""
        digest = hashlib.sha256(data).digest()
        if len(data) > BLOB_BYTES:
            put.file = files.write(put.entry.body_id, data)
    return _row(put, digest, data, clock)


def _row(put: PendingPut, digest: bytes, data: bytes | None, clock: Clock) -> rows.NewRow:
    entry = _shifted(put.entry, clock.wall() - clock.monotonic())
    return rows.NewRow(
        scope=entry.scope,
        query_id=entry.query_id,
        confirmed=entry.confirmed,
        packed=msgspec.msgpack.encode(entry),
        body_id=entry.body_id,
        size=put.body.size,
        digest=digest,
        file=None if put.file is None else put.file.name,
        data=data if put.file is None else None,
    )


def decode_entry(row: rows.EntryRow, clock: Clock) -> Entry | None:
    """Return the entry of a row; None if it cannot be decoded."""
    try:
        entry = msgspec.msgpack.decode(row.packed, type=Entry)
    except msgspec.MsgspecError:
        return None
    return _shifted(msgspec.structs.replace(entry, confirmed=row.confirmed), clock.monotonic() - clock.wall())


def _shifted(entry: Entry, by: float) -> Entry:
    return msgspec.structs.replace(entry, born=entry.born + by, confirmed=entry.confirmed + by)
