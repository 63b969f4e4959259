"""Turns the plain values of TOML into structs. Continues after a mistake, so that all mistakes are found at once.

A value that cannot be parsed is replaced by its default, or by None if it has none. `checks` can then look at the
rest; the configuration is never used, because there is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo
from msgspec.structs import fields as evaluated_fields

from gateway.config import schema, values
from gateway.config.mistakes import Mistakes, did_you_mean, dotted, nearest, shown
from gateway.config.schema import NotEmpty, OrOne, ParsedBy
from gateway.secret import Secret

T = TypeVar("T", bound=msgspec.Struct)

_KEYS_ELSEWHERE = "keys are not written in this file; name an environment variable in key_env, or a file in key_file"
_PASSWORDS_ELSEWHERE = (
    "passwords are not written in this table; name an environment variable in password_env, or a file in password_file"
)
_HASHES_ONLY = "tokens are not written in this file; put the SHA-256 into token_sha256 (`redash-gateway token`)"
_MISPLACED = {
    (schema.Credential, "key"): _KEYS_ELSEWHERE,
    (schema.Credential, "api_key"): _KEYS_ELSEWHERE,
    (schema.Redis, "password"): _PASSWORDS_ELSEWHERE,
    (schema.Client, "token"): _HASHES_ONLY,
    (schema.Admin, "token"): _HASHES_ONLY,
}


@cache
def fields(cls: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    """Return the fields of a table; msgspec evaluates their annotations each time, which takes most of a large file."""
    return evaluated_fields(cls)


class Reader:
    """Reads the tables of one file; its relative paths start at `directory`."""

    def __init__(self, mistakes: Mistakes, directory: Path) -> None:
        self._mistakes = mistakes
        self._directory = directory

    def table(self, cls: type[T], raw: object, path: str) -> T:
        """Return the struct for the table at the dotted key `path`."""
        written = raw if isinstance(raw, dict) else {}
        known = {field.name: field for field in fields(cls) if field.type is not Secret}
        guessed = {self._unknown(cls, name, known, path) for name in written if name not in known}
        if written is not raw:
            self._mistakes.add(path, _not_a_table(raw, path))
        found: dict[str, Any] = {"key": Secret("")} if cls is schema.Credential else {}
        for name, field in known.items():
            if name in written:
                found[name] = self._value(field.type, written[name], dotted(path, name), _default(field))
            elif field.required:
                found[name] = self._missing(field.type, dotted(path, name), noted=name in guessed or written is not raw)
        return cls(**found)

    def _missing(self, kind: Any, path: str, *, noted: bool) -> Any:
        """Add a mistake for a missing key; for a missing table, one for each key that it requires."""
        if isinstance(kind, type) and issubclass(kind, schema.Table):
            return self.table(kind, {}, path)
        if not noted:
            self._mistakes.add(path, "is missing and has no default")
        return None

    def _unknown(self, cls: type[msgspec.Struct], name: str, known: dict[str, FieldInfo], path: str) -> str | None:
        """Add a mistake for an unknown key; return the known key that was probably meant."""
        guess = nearest(name, known)
        hint = _MISPLACED.get((cls, name)) or _elsewhere(name, guess) or did_you_mean(name, known)
        self._mistakes.add(dotted(path, name), f"unknown key; {hint}")
        return guess

    def _value(self, kind: Any, raw: object, path: str, default: object) -> Any:
        notes: tuple[object, ...] = ()
        origin = get_origin(kind)
        if origin is Annotated:
            kind, *rest = get_args(kind)
            notes, origin = tuple(rest), get_origin(kind)
        for note in notes:
            if isinstance(note, ParsedBy):
                return self._parsed(note.parse, raw, path, default, quiet=note.quiet)
        if origin in (Union, UnionType):  # only `X | None`; TOML has no null
            return self._value(get_args(kind)[0], raw, path, default)
        if origin in (tuple, frozenset):
            if not isinstance(raw, list) and any(isinstance(note, OrOne) for note in notes):
                return origin([self._value(get_args(kind)[0], raw, path, None)])
            return self._items(kind, raw, path, not_empty=any(isinstance(note, NotEmpty) for note in notes))
        return self._plain(kind, origin, raw, path, default)

    def _plain(self, kind: Any, origin: Any, raw: object, path: str, default: object) -> Any:
        if origin is dict:
            return self._tables(get_args(kind)[1], raw, path)
        if origin is Literal:
            return self._parsed(_Choice(get_args(kind)), raw, path, default)
        if kind is bool:
            return self._parsed(_boolean, raw, path, default)
        if kind is Path:
            return self._parsed(lambda value: self._directory / values.text(value), raw, path, default)
        return self.table(kind, raw, path)

    def _parsed(
        self, parse: Callable[[Any], object], raw: object, path: str, default: object, *, quiet: bool = False
    ) -> object:
        try:
            return parse(raw)
        except ValueError as error:
            self._mistakes.add(path, f"{'the value' if quiet else shown(raw)} {error}")
            return default

    def _items(self, kind: Any, raw: object, path: str, *, not_empty: bool) -> Any:
        origin, item = get_origin(kind), get_args(kind)[0]
        if not isinstance(raw, list):
            self._mistakes.add(path, _not_a_list(item, raw, path))
            return origin([self._value(item, raw, path, None)] if isinstance(raw, str) else [])
        if not raw and not_empty:
            text = "the list is empty, which could mean none or all; name some, or leave the key out"
            self._mistakes.add(path, text)
        return origin(self._value(item, value, f"{path}[{number}]", None) for number, value in enumerate(raw))

    def _tables(self, kind: Any, raw: object, path: str) -> Any:
        if not isinstance(raw, dict):
            self._mistakes.add(path, f"{shown(raw)} is not a table; write [{path}.NAME]")
            return {}
        return {name: self.table(kind, value, dotted(path, name)) for name, value in raw.items()}


class _Choice:
    def __init__(self, choices: tuple[str, ...]) -> None:
        self._choices = choices

    def __call__(self, value: object) -> object:
        if value in self._choices:
            return value
        guess = did_you_mean(value, self._choices) if isinstance(value, str) else did_you_mean("", self._choices)
        raise ValueError(f"is not one of the choices; {guess}")


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false; write one of the two without quotes")
    return value


def _default(field: FieldInfo) -> object:
    return None if field.default is msgspec.NODEFAULT else field.default


def _elsewhere(name: str, guess: str | None) -> str | None:
    """Name the table that has this key, if no key of the right table has a similar name."""
    tables = {field.name: field.type for field in fields(schema.Config) if isinstance(field.type, type)}
    homes = [f"[{table}]" for table, cls in tables.items() if name in (f.name for f in fields(cls))]
    return f"it belongs in {' or '.join(homes)}" if homes and guess is None else None


def _not_a_table(raw: object, path: str) -> str:
    hint = f"write [{path}], not [[{path}]]" if isinstance(raw, list) else f"write [{path}] and its keys below"
    return f"{shown(raw)} is not a table; {hint}"


def _not_a_list(item: Any, raw: object, path: str) -> str:
    if isinstance(item, type) and issubclass(item, schema.Table):
        return f"{shown(raw)} is not a list of tables; write [[{path}]] and its keys below"
    return "is not a list; write it in square brackets"
