"""The example file holds every key with its real default, and nothing else."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields
from support.schema_keys import keys, tables

from gateway.config import Config, parse
from gateway.config.mistakes import Mistakes
from gateway.config.reader import Reader

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
TEXT = EXAMPLE.read_text()
LINES = TEXT.splitlines()
USABLE = TEXT.replace("0" * 64, "ab" * 32)
"""With the hash of a token in place of the one that belongs to none, which is refused."""

FULL: dict[str, Any] = tomllib.loads(re.sub(r"(?m)^#(?=[\[a-z])", "", USABLE))


def written(name: str) -> list[dict[str, Any]]:
    """Every table of the example that stands for this table of the schema."""
    found: Any = FULL
    for part in name.split("."):
        found = found.get(part, {})
    if isinstance(found, list):
        return found
    return list(found.values()) if name in ("credentials", "clients") else [found]


def test_it_loads_with_the_variables_that_it_names() -> None:
    names = re.findall(r'^key_env = "(\w+)"', TEXT, re.MULTILINE)
    config = parse(USABLE, EXAMPLE.parent, dict.fromkeys(names, "k" * 40))
    assert set(config.clients) == {"sales-dashboard"}


def test_every_key_stands_in_it_and_no_other() -> None:
    standing = {f"{name}.{key}" for name in tables() for table in written(name) for key in table}
    nested = {name for name in tables() if "." in name}
    assert sorted(keys().keys() - standing) == [], "missing in config.example.toml"
    assert sorted(standing - nested - keys().keys()) == [], "no such key"


def test_every_table_stands_in_it() -> None:
    assert set(FULL) == {field.name for field in fields(Config)}


@pytest.mark.parametrize("name", tables())
def test_written_keys_have_their_real_default_and_commented_ones_have_none(name: str) -> None:
    found = Mistakes("example")
    cls = tables()[name]
    for table in written(name):
        read = Reader(found, Path("/")).table(cls, table, name)
        for field in fields(cls):
            if field.name in table and field.name not in ("rules", "token_sha256", "credentials"):
                check_default(field, getattr(read, field.name))
    assert found.lines == []


def check_default(field: msgspec.structs.FieldInfo, value: object) -> None:
    in_force = re.search(rf"(?m)^{field.name} = ", TEXT) is not None
    if field.required or not in_force:
        return
    if field.default not in (None, frozenset(), msgspec.NODEFAULT):
        assert value == field.default, field.name


def places() -> dict[str, list[int]]:
    """The lines on which each key stands, in force or not."""
    found: dict[str, list[int]] = defaultdict(list)
    table = ""
    for number, line in enumerate(LINES):
        if header := re.match(r"#?\[+([\w.-]+)\]", line):
            table = header[1] if header[1] in tables() else header[1].rpartition(".")[0]
        elif key := re.match(r"#?(\w+) = ", line):
            found[f"{table}.{key[1]}"].append(number)
    return found


@pytest.mark.parametrize("name", keys())
def test_keys_in_force_are_those_with_a_default_to_show(name: str) -> None:
    field = keys()[name]
    if field.default not in (None, (), frozenset(), {}, msgspec.NODEFAULT):
        shown = [LINES[number] for number in places()[name] if not LINES[number].startswith("#")]
        assert shown, f"{name} has a default that config.example.toml does not show"


@pytest.mark.parametrize("name", keys())
def test_every_key_is_explained(name: str) -> None:
    assert places()[name], f"{name} is missing in config.example.toml"
    near = [line for number in places()[name] for line in LINES[max(0, number - 4) : number]]
    assert any(line.startswith("# ") for line in near), f"config.example.toml does not explain {name}"
