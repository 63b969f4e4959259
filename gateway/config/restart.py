"""What differs between two configurations, and which changes a reload cannot apply. Pure; the marks are in `schema`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from msgspec.structs import fields

from gateway.config.mistakes import dotted
from gateway.config.schema import Config, Table, TakesRestart
from gateway.secret import Secret


def changes(old: Config, new: Config) -> list[str]:
    """Return the dotted keys that differ, in the order of the schema: names only, no values."""
    return list(_different(old, new, ""))


def new_keys(before: Config, after: Config) -> list[str]:
    """Return the credentials whose key is another one, or goes to another Redash."""
    if before.upstream.url != after.upstream.url:
        return list(after.credentials)
    old = {name: credential.key.fingerprint() for name, credential in before.credentials.items()}
    return [name for name, credential in after.credentials.items() if old.get(name) != credential.key.fingerprint()]


def _different(old: Table, new: Table, path: str) -> Iterator[str]:
    for field in fields(old):
        key, before, after = dotted(path, field.name), getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, Table):
            yield from _different(before, after, key)
        elif isinstance(before, dict) and key in ("credentials", "clients"):
            yield from _different_tables(before, after, key)
        elif _plain(before) != _plain(after):
            yield key


def _different_tables(old: dict[str, Table], new: dict[str, Table], path: str) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        key, before, after = dotted(path, name), old.get(name), new.get(name)
        if before is None or after is None:
            yield f"{key} ({'new' if before is None else 'removed'})"
        else:
            yield from _different(before, after, key)


def _plain(value: object) -> object:
    return value.fingerprint() if isinstance(value, Secret) else value


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
