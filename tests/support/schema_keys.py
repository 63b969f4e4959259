"""Every key of the configuration file by its dotted name, as the schema has it: `clients.rate`, `cache.rules.floor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from gateway.config import Config
from gateway.config.schema import Table
from gateway.secret import Secret


def tables() -> dict[str, type[Table]]:
    """Every table of the file by its dotted name; those in lists and those with names of the operator's, too."""
    return dict(_tables(Config, ""))


def keys() -> dict[str, FieldInfo]:
    """Every key of every table."""
    return {
        f"{name}.{field.name}": field
        for name, table in tables().items()
        for field in fields(table)
        if field.type is not Secret and table_in(field.type) is None
    }


def table_in(kind: Any) -> type[Table] | None:
    """Return the table that a type holds: itself, or within `X | None`, a list or a dictionary."""
    if isinstance(kind, type) and issubclass(kind, Table):
        return kind
    parts = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return next((found for part in parts if (found := table_in(part)) is not None), None)


def _tables(struct: type[msgspec.Struct], above: str) -> Iterator[tuple[str, type[Table]]]:
    for field in fields(struct):
        if (table := table_in(field.type)) is not None:
            yield above + field.name, table
            yield from _tables(table, f"{above}{field.name}.")
