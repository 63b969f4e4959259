"""From the plain values that TOML gives to structs. Goes on after a mistake, so that all of them are found at once.

A value that cannot be read is replaced by its default, or by None where there is none: the mistake is noted, so the
result is never handed out, and `checks` can still look at the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from gateway.config import schema, texts
from gateway.config.report import Report, did_you_mean, dotted, nearest, shown
from gateway.config.schema import NotEmpty, Reads
from gateway.model import Secret

T = TypeVar("T", bound=msgspec.Struct)

_KEYS_ELSEWHERE = "keys do not stand in this file; name an environment variable in key_env, or a file in key_file"
_HASHES_ONLY = "tokens do not stand in this file; put the SHA-256 into token_sha256 (`redash-gateway token`)"
_MISPLACED = {
    (schema.Credential, "key"): _KEYS_ELSEWHERE,
    (schema.Client, "token"): _HASHES_ONLY,
    (schema.Admin, "token"): _HASHES_ONLY,
}


class Reader:
    """Reads tables for one file; relative paths in it are relative to `directory`."""

    def __init__(self, report: Report, directory: Path) -> None:
        self._report = report
        self._directory = directory

    def table(self, cls: type[T], raw: object, path: str) -> T:
        """Return the struct for the table at the dotted key `path`."""
        written = raw if isinstance(raw, dict) else {}
        known = {field.name: field for field in fields(cls) if field.type is not Secret}
        guessed = {self._unknown(cls, name, known, path) for name in written if name not in known}
        if written is not raw:
            self._report.add(path, _not_a_table(raw, path))
        values: dict[str, Any] = {"key": Secret("")} if cls is schema.Credential else {}
        for name, field in known.items():
            if name in written:
                values[name] = self._value(field.type, written[name], dotted(path, name), _default(field))
            elif field.required:
                values[name] = self._missing(field.type, dotted(path, name), told=name in guessed or written is not raw)
        return cls(**values)

    def _missing(self, kind: Any, path: str, *, told: bool) -> Any:
        """Note a missing key, a missing table through the keys that it needs."""
        if isinstance(kind, type) and issubclass(kind, schema.Table):
            return self.table(kind, {}, path)
        if not told:
            self._report.add(path, "is missing and has no default")
        return None

    def _unknown(self, cls: type[msgspec.Struct], name: str, known: dict[str, FieldInfo], path: str) -> str | None:
        """Note an unknown key; return the known one that was probably meant."""
        guess = nearest(name, known)
        hint = _MISPLACED.get((cls, name)) or _elsewhere(name, guess) or did_you_mean(name, known)
        self._report.add(dotted(path, name), f"unknown key; {hint}")
        return guess

    def _value(self, kind: Any, raw: object, path: str, default: object) -> Any:
        notes: tuple[object, ...] = ()
        origin = get_origin(kind)
        if origin is Annotated:
            kind, *rest = get_args(kind)
            notes, origin = tuple(rest), get_origin(kind)
        if origin in (Union, UnionType):  # only `X | None`; TOML has no null
            return self._value(get_args(kind)[0], raw, path, default)
        for note in notes:
            if isinstance(note, Reads):
                return self._parsed(note.parse, raw, path, default, quiet=note.quiet)
        if origin in (tuple, frozenset):
            return self._items(kind, raw, path, not_empty=any(isinstance(note, NotEmpty) for note in notes))
        return self._plain(kind, origin, raw, path, default)

    def _plain(self, kind: Any, origin: Any, raw: object, path: str, default: object) -> Any:
        if origin is dict:
            return self._tables(get_args(kind)[1], raw, path)
        if origin is Literal:
            return self._parsed(_Choice(get_args(kind)), raw, path, default)
        if kind is bool:
            return self._parsed(_switch, raw, path, default)
        if kind is Path:
            return self._parsed(lambda value: self._directory / texts.text(value), raw, path, default)
        return self.table(kind, raw, path)

    def _parsed(
        self, parse: Callable[[Any], object], raw: object, path: str, default: object, *, quiet: bool = False
    ) -> object:
        try:
            return parse(raw)
        except ValueError as error:
            self._report.add(path, f"{'the value' if quiet else shown(raw)} {error}")
            return default

    def _items(self, kind: Any, raw: object, path: str, *, not_empty: bool) -> Any:
        origin, item = get_origin(kind), get_args(kind)[0]
        if not isinstance(raw, list):
            self._report.add(path, _not_a_list(item, raw, path))
            return origin()
        if not raw and not_empty:
            text = "the list is empty, which could be taken for none or for all; name some, or leave the key out"
            self._report.add(path, text)
        return origin(self._value(item, value, f"{path}[{number}]", None) for number, value in enumerate(raw))

    def _tables(self, kind: Any, raw: object, path: str) -> Any:
        if not isinstance(raw, dict):
            self._report.add(path, f"{shown(raw)} is not a table; write [{path}.NAME]")
            return {}
        return {name: self.table(kind, value, dotted(path, name)) for name, value in raw.items()}


class _Choice:
    def __init__(self, choices: tuple[str, ...]) -> None:
        self._choices = choices

    def __call__(self, value: object) -> object:
        if value in self._choices:
            return value
        guess = did_you_mean(value, self._choices) if isinstance(value, str) else did_you_mean("", self._choices)
        raise ValueError(f"is none of the choices; {guess}")


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false; write one of the two without quotes")
    return value


def _default(field: FieldInfo) -> object:
    return None if field.default is msgspec.NODEFAULT else field.default


def _elsewhere(name: str, guess: str | None) -> str | None:
    """Name the table that has a key of exactly this name, where nothing in the right table comes near."""
    tables = {field.name: field.type for field in fields(schema.Config) if isinstance(field.type, type)}
    homes = [f"[{table}]" for table, cls in tables.items() if name in (f.name for f in fields(cls))]
    return f"it belongs into {' or '.join(homes)}" if homes and guess is None else None


def _not_a_table(raw: object, path: str) -> str:
    hint = f"write [{path}], not [[{path}]]" if isinstance(raw, list) else f"write [{path}] and its keys below"
    return f"{shown(raw)} is not a table; {hint}"


def _not_a_list(item: Any, raw: object, path: str) -> str:
    if isinstance(item, type) and issubclass(item, schema.Table):
        return f"{shown(raw)} is not a list of tables; write [[{path}]] and its keys below"
    return "is not a list; write it in square brackets"
