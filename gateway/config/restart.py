"""Which changes between two configurations a reload cannot apply. Pure; the marks are in `schema`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from msgspec.structs import fields

from gateway.config.mistakes import dotted
from gateway.config.schema import Config, Table, TakesRestart


def restart_needed(old: Config, new: Config) -> list[str]:
    """Return the dotted keys whose change takes a restart, in the order of the schema."""
    return list(_changed(old, new, ""))


def _changed(old: Table, new: Table, path: str) -> Iterator[str]:
    for field in fields(old):
        key, before, after = dotted(path, field.name), getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, Table):
            yield from _changed(before, after, key)
        elif any(isinstance(note, TakesRestart) and note.applies(before, after) for note in get_args(field.type)):
            yield key
