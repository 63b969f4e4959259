"""Wheel and sdist: both are complete, the one is built from the other, and the wheel alone is a whole gateway."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from support.documents import ROOT

from gateway import __version__

MOST_PACKAGES: Final = 18
"""Of an installation without extras: what an operator has to trust and to update."""

NOT_SHIPPED: Final = re.compile(r"__pycache__|\.pyc$|\.DS_Store")

pytest.importorskip("hatchling", reason="hatchling is not installed")


def built(kind: str, source: Path, target: Path) -> Path:
    """Build one of the two as `pip wheel` and `python -m build` do, with the backend that is installed here."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (path,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as files:
        return {name: files.read(name) for name in files.namelist()}


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "gateway").rglob("*") if path.is_file()}
    files = {name for name in files if not NOT_SHIPPED.search(name)}
    shipped = set(content(wheel))
    assert {"gateway/py.typed", "gateway/admin/assets/page.css", "gateway/admin/assets/page.js"} <= files
    assert {name for name in shipped if not name.startswith("redash_gateway-")} == files
    assert f"redash_gateway-{__version__}.dist-info/licenses/LICENSE" in shipped


def test_the_sdist_has_every_file_of_the_repository(sdist: Path, needs: Callable[[str], str]) -> None:
    with tarfile.open(sdist) as files:
        shipped = {name.partition("/")[2] for name in files.getnames()}
    for part in ("tests/conftest.py", "docs/operation.md", "docs/images/console.png", "deploy/README.md", ".ci/run"):
        assert part in shipped
    if not (ROOT / ".git").exists():
        pytest.skip("only a checkout says what belongs to the repository")
    listed = subprocess.run([needs("git"), "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert sorted(set(listed.splitlines()) - shipped) == []
    assert not [name for name in shipped if NOT_SHIPPED.search(name)]


def test_the_wheel_from_the_sdist_is_the_wheel_from_the_checkout(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """So that who builds from the one has what who builds from the other has, byte for byte."""
    with tarfile.open(sdist) as files:
        files.extractall(tmp_path, filter="data")
    again = built("wheel", next(tmp_path.glob("redash_gateway-*")), tmp_path / "again")
    assert content(again) == content(wheel)


def test_nothing_sends_anybody_to_an_index_for_the_name() -> None:
    """It is not ours there yet: whoever takes it first would be installed by who follows our docs."""
    by_name = re.compile(r"\b(?:pip3?|pipx|uv|uvx)\b[^\n;&]*[\s'\"=]redash[-_]gateway(?!-?[\d_/.])\b")
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Dockerfile", ROOT / "mkdocs.yml", ROOT / ".ci/run"]
    texts += [path for part in ("docs", "deploy", "gateway") for path in (ROOT / part).rglob("*") if path.is_file()]
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in texts
        if path.suffix in (".md", ".py", ".toml", ".yml", ".yaml", ".service", "")
        for line in path.read_text(encoding="utf-8").splitlines()
        if by_name.search(line)
    ]
    assert found == []
    assert by_name.search("run pip install 'redash-gateway[redis]'")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_wheel_alone_is_a_whole_gateway_of_few_packages(wheel: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        arguments = [str(part) for part in command]
        done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python, program = tmp_path / "venv/bin/python", tmp_path / "venv/bin/redash-gateway"
    own = {one["name"] for one in json.loads(run(python, "-m", "pip", "list", "--format=json"))}
    run(python, "-m", "pip", "install", "-q", wheel)
    installed = {one["name"] for one in json.loads(run(python, "-m", "pip", "list", "--format=json"))} - own
    assert "redash-gateway" in installed
    assert len(installed) <= MOST_PACKAGES, sorted(installed)
    assert run(program, "--version").strip() == f"redash-gateway {__version__}"
    assert run(program, "man").startswith(".TH")
    assert "complete" in run(program, "completion", "bash")
    run(python, "-c", "import gateway.admin.layout, gateway.admin.status_routes, gateway.demo, gateway.sandbox")
