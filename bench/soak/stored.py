"""The store on the disk when no process uses it: every body must have its digest, and be one that Redash made."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from bench.soak.stage import Stage


async def check(stage: Stage) -> None:
    """Look through a copy of the store. No process has it."""
    copy = stage.directory / "copy"
    shutil.copytree(stage.store, copy, ignore=shutil.ignore_patterns("*.lock"))
    try:
        for wrong in _wrong(copy, stage):
            stage.journal.find("no corrupt entry", wrong)
    finally:
        shutil.rmtree(copy)


def _wrong(directory: Path, stage: Stage) -> list[str]:
    bodies, found = directory / "gateway.db.bodies", []
    with closing(sqlite3.connect(directory / "gateway.db")) as db:
        (state,) = db.execute("PRAGMA integrity_check").fetchone()
        if state != "ok":
            found.append(f"integrity_check: {state}")
        known = set()
        for size, digest, file, data in db.execute("SELECT size, digest, file, data FROM bodies"):
            known.add(file)
            place = bodies / file if file else None
            if place is not None and not place.exists():
                continue  # a miss: written down before its file was lost with the machine's cache
            body = place.read_bytes() if place is not None else data
            stage.journal.figures["stored bodies checked"] += 1
            if len(body) != size or hashlib.sha256(body).digest() != digest:
                found.append(f"a body of {size} bytes has {len(body)} others")
            elif b'"query_result"' in body[:20] and not _is_made(stage, body):
                found.append(f"a body that Redash did not make: {body[:200]!r}")
    return found


def _is_made(stage: Stage, body: bytes) -> bool:
    made = stage.queries.made
    return b'"run": ' not in body or any(made.shown_by(body, form) is not None for form in ("full", "reduced"))
