"""The example file holds every key with its real default, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields

from gateway.config import Admin, Cache, Client, Config, Credential, Rule, Server, Upstream, Warm, load, schema
from gateway.config.read import Reader
from gateway.config.report import Report
from gateway.model import Secret

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
TEXT = EXAMPLE.read_text()
FULL: dict[str, Any] = tomllib.loads(re.sub(r"(?m)^#(?=[\[a-z])", "", TEXT))

TABLES: list[tuple[type[msgspec.Struct], str, list[dict[str, Any]]]] = [
    (Server, "server", [FULL["server"]]),
    (Admin, "admin", [FULL["admin"]]),
    (Upstream, "upstream", [FULL["upstream"]]),
    (Credential, "credentials", list(FULL["credentials"].values())),
    (Client, "clients", list(FULL["clients"].values())),
    (Cache, "cache", [FULL["cache"]]),
    (Rule, "cache.rules", FULL["cache"]["rules"]),
    (Warm, "warm", FULL["warm"]),
    (schema.Log, "log", [FULL["log"]]),
    (schema.Metrics, "metrics", [FULL["metrics"]]),
    (schema.Tracing, "tracing", [FULL["tracing"]]),
]
KEYS = [(cls, name, tables) for cls, name, tables in TABLES]


def test_it_loads_with_the_variables_that_it_names() -> None:
    names = re.findall(r'^key_env = "(\w+)"', TEXT, re.MULTILINE)
    config = load(EXAMPLE, dict.fromkeys(names, "k" * 40))
    assert set(config.clients) == {"sales-dashboard"}


@pytest.mark.parametrize(("cls", "name", "tables"), KEYS, ids=[name for _, name, _ in KEYS])
def test_every_key_stands_in_it_and_no_other(
    cls: type[msgspec.Struct], name: str, tables: list[dict[str, Any]]
) -> None:
    known = {field.name for field in fields(cls) if field.type is not Secret}
    assert {key for table in tables for key in table} == known


def test_every_table_stands_in_it() -> None:
    assert set(FULL) == {field.name for field in fields(Config)}


@pytest.mark.parametrize(("cls", "name", "tables"), KEYS, ids=[name for _, name, _ in KEYS])
def test_written_keys_have_their_real_default_and_commented_ones_have_none(
    cls: type[msgspec.Struct], name: str, tables: list[dict[str, Any]]
) -> None:
    report = Report("example")
    for table in tables:
        read = Reader(report, Path("/")).table(cls, table, name)
        for field in fields(cls):
            if field.name in table and field.name not in ("rules", "token_sha256", "credentials"):
                check_default(field, getattr(read, field.name))
    assert report.lines == []


def check_default(field: msgspec.structs.FieldInfo, value: object) -> None:
    in_force = re.search(rf"(?m)^{field.name} = ", TEXT) is not None
    if field.required or not in_force:
        return
    if field.default not in (None, frozenset(), msgspec.NODEFAULT):
        assert value == field.default, field.name


def test_keys_in_force_are_those_with_a_default_to_show() -> None:
    for cls, _, _ in TABLES:
        for field in fields(cls):
            if field.default not in (None, (), frozenset(), msgspec.NODEFAULT):
                assert re.search(rf"(?m)^{field.name} = ", TEXT), field.name


def test_every_key_is_explained() -> None:
    lines = TEXT.splitlines()
    for cls, name, _ in TABLES:
        for field in fields(cls):
            if field.type is Secret:
                continue
            first = next(i for i, line in enumerate(lines) if re.match(rf"#?{field.name} = |#?\[+cache.rules", line))
            near = lines[max(0, first - 4) : first]
            assert any(line.startswith("# ") for line in near), f"{name}.{field.name}"
