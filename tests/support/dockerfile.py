"""A Dockerfile without Docker: its instructions, the files of its context, its steps in a directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_PLACES: Final = re.compile(r"(?<![\w./-])/(src|build|opt|etc|var|tmp)\b")
"""What an image has at its root, and a test in its own directory."""


@dataclass
class Stage:
    """One `FROM` with what follows."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, name: str) -> list[str]:
        """The arguments of all instructions of this name."""
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def only(self, name: str) -> str:
        """The arguments of the one instruction of this name."""
        (found,) = self.of(name)
        return found

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for arguments in self.of("ENV") for pair in arguments.split())

    def listed(self, name: str) -> list[str]:
        """The arguments, where they are a JSON list: of HEALTHCHECK, those of its CMD."""
        return [str(part) for part in json.loads(self.only(name).partition("[")[1] + self.only(name).partition("[")[2])]


def stages() -> list[Stage]:
    """The stages of the project's Dockerfile."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append(Stage(arguments))
        elif found and name:
            found[-1].instructions.append((name, arguments.strip()))
    return found


def context(directory: Path) -> None:
    """Copy what Docker would get: nothing but what `.dockerignore` lets in again, without what it then leaves out."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", "first nothing is let in"
    left_out = shutil.ignore_patterns(*(line.removeprefix("**/") for line in lines[1:] if line[0] != "!"))
    for name in (line[1:] for line in lines if line[0] == "!"):
        target = directory / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=left_out)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)


class Image:
    """An image whose root is a directory; its Python is the interpreter of the tests."""

    def __init__(self, directory: Path) -> None:
        self.context, self.root = directory / "context", directory / "root"
        context(self.context)
        interpreter = self.root / "bin" / "python"
        interpreter.parent.mkdir(parents=True)
        interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        interpreter.chmod(0o755)

    def here(self, text: str) -> str:
        """A text of the Dockerfile, with this root's paths."""
        return _PLACES.sub(rf"{self.root}/\1", text)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the tests' own packages, but what pip needs to find an index on this machine."""
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return {**kept, "PATH": f"{self.root}/bin:/usr/bin:/bin"}

    def build(self, stage: Stage) -> None:
        """Take each step of a stage that is built from the context."""
        place = self.root
        for name, arguments in stage.instructions:
            if name == "WORKDIR":
                place = Path(self.here(arguments))
                place.mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                *sources, target = arguments.split()
                for source in sources:
                    self._copy(self.context / source, place / target)
            else:
                assert name == "RUN", name
                # A build in Docker has no cache; here the tests need not load everything again.
                command = self.here(arguments).replace("--no-cache-dir ", "")
                subprocess.run(["/bin/sh", "-ec", command], check=True, cwd=place, env=self.environment, timeout=400)

    def _copy(self, source: Path, target: Path) -> None:
        """As COPY does: a directory's content, a file into a directory or under the name."""
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
