"""Entries as rows and back. Times in memory are monotonic, in the file wall-clock: they are converted here."""

from __future__ import annotations

import hashlib

import msgspec

from gateway.model import Clock, Entry
from gateway.store.body_files import BodyFiles, seal
from gateway.store.sqlite import rows
from gateway.store.sqlite.write_buffer import PendingPut

BLOB_BYTES = 256 * 1024
"""Above, a file is faster than a BLOB (measured: equal between 200 and 256 KB)."""


def encode_row(put: PendingPut, files: BodyFiles, clock: Clock) -> rows.NewRow | None:
    """Make bytes complete and the row that leads to them; None where they are not what was said. Waits for the disk."""
    data = put.body.data
    if put.body.path is not None:
        digest = seal(put.body.path)
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


def decode_entry(found: rows.EntryRow, clock: Clock) -> Entry | None:
    """Turn what was found into an entry; None where it cannot be read."""
    try:
        entry = msgspec.msgpack.decode(found.packed, type=Entry)
    except msgspec.MsgspecError:
        return None
    return _shifted(msgspec.structs.replace(entry, confirmed=found.confirmed), clock.monotonic() - clock.wall())


def _shifted(entry: Entry, by: float) -> Entry:
    return msgspec.structs.replace(entry, born=entry.born + by, confirmed=entry.confirmed + by)
