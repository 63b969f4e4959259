"""`check` says where each wrong configuration is wrong, and what to do; `serve` says the same and does nothing else."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.process import certificate
from support.settings import SMALL
from wrong_configurations import WRONG, Case

from gateway import cli
from gateway.app import serve as serving


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What openssl made, and what it would refuse."""
    directory = tmp_path_factory.mktemp("pem")
    (first, first_key), (_, second_key) = certificate(directory, "first"), certificate(directory, "second")
    locked = ["openssl", "pkey", "-in", first_key, "-aes128", "-passout", "pass:secret"]
    text = first.read_text()
    return {
        "first": text,
        "first key": first_key.read_text(),
        "second key": second_key.read_text(),
        "locked key": subprocess.run(locked, check=True, capture_output=True, text=True).stdout,
        "garbage": "MIIB garbage\n",
        "broken": text.replace("M", "m"),
    }


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither extra is installed, no name server is asked, and no gateway is ever made."""

    def made(*_: object, **__: object) -> None:
        raise AssertionError("serve went on to make the gateway")

    def without_network(host: str, *more: Any, **options: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *more, **options)

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", without_network)
    monkeypatch.setattr(serving, "Runtime", made)
    for known in [name for name in sys.modules if name.startswith("opentelemetry.")]:
        monkeypatch.delitem(sys.modules, known)  # of another test
    for missing in ("uvloop", "opentelemetry", "opentelemetry.exporter"):
        monkeypatch.setitem(sys.modules, missing, None)


def write(directory: Path, case: Case, pem: dict[str, str]) -> Path:
    text = SMALL.strip("\n") + "\n"
    for old, new in case.replace.items():
        assert old.strip() in text, f"the small configuration has no {old!r}"
        text = text.replace(old.strip(), new)
    file = directory / "config.toml"
    file.write_text((text + case.add).replace("DIR", str(directory)), errors="surrogateescape")
    for name, content in case.files.items():
        (directory / name).write_text(pem.get(content, content))
    for name, mode in case.modes.items():
        (directory / name).chmod(mode)
    return file


def test_there_are_eighty() -> None:
    assert len(WRONG) >= 80


@pytest.mark.parametrize("name", WRONG)
def test_check_says_where_and_what_to_do_and_serve_does_not_start(
    name: str,
    pem: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    needs: Callable[[str], str],
) -> None:
    case = WRONG[name]
    needs("openssl")
    monkeypatch.setenv("KEY", case.key_value)
    file = write(tmp_path, case, pem)
    assert cli.main(["check", "-c", str(file)]) == 2
    said = capsys.readouterr()
    place = f"{file}: {case.key}: " if case.key else f"{file}: "
    lines = [line for line in said.err.splitlines() if line.startswith(place)]
    assert any(re.search(case.remedy, line) for line in lines), said.err
    assert said.out == ""
    assert case.key_value not in said.err or len(case.key_value) < 10
    assert cli.main(["serve", "-c", str(file)]) == 2
    assert capsys.readouterr().err == said.err


def test_the_small_configuration_itself_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So each case is wrong by its change alone."""
    monkeypatch.setenv("KEY", "k" * 40)
    file = tmp_path / "config.toml"
    file.write_text(SMALL)
    assert cli.main(["check", "-c", str(file)]) == 0
