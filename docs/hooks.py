"""Hooks of MkDocs: files from outside docs are part of the site, and links between the two lead to the right place."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "deploy/README.md": "deploying.md",
    "deploy/prometheus/redash-gateway.alerts.yml": "redash-gateway.alerts.yml",
    "deploy/systemd/redash-gateway.service": "redash-gateway.service.txt",
    ".ci/run": "ci-run.txt",
    ".github/workflows/release.yml": "release.yml",
    "Dockerfile": "Dockerfile.txt",
    "config.example.toml": "config.example.toml",
}
"""Files of the repository and their places in the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the files from outside docs."""
    for source, place in PLACES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Let the links of a page lead to the places in the site; every page is at the top of it."""
    sources = {place: source for source, place in PLACES.items()}
    folder = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    return re.sub(r"(?<=\]\()([^)#:\s]+)", lambda found: _moved(folder, found[1]), markdown)


def _moved(folder: str, link: str) -> str:
    path = posixpath.normpath(posixpath.join(folder, link))
    return PLACES.get(path, path.removeprefix("docs/"))
