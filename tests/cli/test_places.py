"""Which configuration is used when no option names one, and which address a running gateway is looked for at."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from support.settings import SMALL

from gateway import cli
from gateway.cli import admin_client, places


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory; the place below /etc stands in it, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDASH_GATEWAY_CONFIG", raising=False)
    monkeypatch.setattr(places, "PLACES", (Path("config.toml"), tmp_path / "etc" / "config.toml"))
    monkeypatch.setenv("KEY", "k" * 40)
    return tmp_path


def written(path: Path, text: str = SMALL) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["check", *arguments]) == 0
    return capsys.readouterr().out.partition(": ok\n")[0]


def test_an_option_is_stronger_than_the_variable_and_that_than_the_places(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(nowhere / "etc" / "config.toml")
    assert checked(capsys) == f"{nowhere}/etc/config.toml"
    written(nowhere / "config.toml")
    assert checked(capsys) == "config.toml"
    monkeypatch.setenv("REDASH_GATEWAY_CONFIG", str(written(nowhere / "named.toml")))
    assert checked(capsys) == f"{nowhere}/named.toml"
    written(nowhere / "given.toml")
    assert checked(capsys, "-c", "given.toml") == "given.toml"


@pytest.mark.parametrize("command", ["check", "serve"])
def test_without_any_the_error_says_where_it_looked_and_what_to_do(
    command: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command]) == 2
    error = capsys.readouterr().err
    assert f"looked for config.toml, {nowhere}/etc/config.toml" in error
    assert "-c FILE" in error
    assert "REDASH_GATEWAY_CONFIG" in error


def test_a_variable_that_names_no_file_is_a_mistake_and_no_other_file_is_used(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(nowhere / "config.toml")
    monkeypatch.setenv("REDASH_GATEWAY_CONFIG", "gone.toml")
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err == "gone.toml: cannot be read: No such file or directory\n"


def where(**given: object) -> str:
    return admin_client.address(argparse.Namespace(**({"admin": None, "config": None} | given)))


def test_the_admin_listener_is_looked_for_where_the_configuration_has_it(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert where() == "http://127.0.0.1:8081"
    written(nowhere / "config.toml", '[admin]\nlisten = "127.0.0.1:1"\n')
    assert where() == "http://127.0.0.1:1"
    monkeypatch.setenv("REDASH_GATEWAY_CONFIG", str(written(nowhere / "n.toml", '[admin]\nlisten = "127.0.0.1:2"\n')))
    assert where() == "http://127.0.0.1:2"
    assert where(config=written(nowhere / "c.toml", '[admin]\nlisten = "unix:/run/a"\n')) == "unix:/run/a"
    assert where(admin="http://127.0.0.1:3") == "http://127.0.0.1:3"
