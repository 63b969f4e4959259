"""The code blocks of README, of the pages in docs and of the other documents.

A block of TOML is a configuration. Every other block has a comment above it: `<!-- recipe: NAME -->`, then a test runs
it, or `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK: Final = re.compile(r"(?ms)^(?: *<!-- ([a-z ]+): ([^\n]+) -->\n)?( *)```(\w+)\n(.*?)^ *```$")


def name_of(path: Path) -> str:
    """The name of a document: pages in docs by their file names."""
    return path.relative_to(ROOT).as_posix().removeprefix("docs/")


@dataclass(frozen=True)
class Block:
    """One code block."""

    page: str
    language: str
    text: str
    mark: str
    """`recipe`, `not run`, or empty."""
    told: str
    """The name of the recipe, or the reason why the block is not run."""


def blocks() -> list[Block]:
    """Return every code block that has a language."""
    return [
        Block(name_of(path), language, re.sub(rf"(?m)^{indent}", "", text), mark, told)
        for path in DOCUMENTS
        for mark, told, indent, language, text in _BLOCK.findall(path.read_text(encoding="utf-8"))
    ]


def recipe(name: str) -> str:
    """Return the text of a recipe, which several pages may show. Tests call this with its name in quotes."""
    (text,) = {block.text for block in blocks() if (block.mark, block.told) == ("recipe", name)}
    return text


def configuration_with(page: str, key: str) -> str:
    """Return the only block of TOML on a page that has this key."""
    (found,) = [
        b.text for b in blocks() if (b.page, b.language) == (page, "toml") and re.search(rf"\b{key} = ", b.text)
    ]
    return found


def not_run(page: str, language: str) -> list[str]:
    """Return the texts of a page in one language that cannot be run as they are."""
    return [b.text for b in blocks() if (b.page, b.language, b.mark) == (page, language, "not run")]


def copy_of_the_checkout(directory: Path) -> None:
    """Put what the package is built from into a directory."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    shutil.copytree(ROOT / "gateway", directory / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
