"""`check`: the mistakes of a configuration, or its summary; with `--online` also what Redash says to each key."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import places
from gateway.cli.terminal import paint, progress
from gateway.cli.text import printable

if TYPE_CHECKING:
    from gateway.config import Config


def check(arguments: argparse.Namespace) -> int:
    """Check the configuration; mistakes are raised as `ConfigurationError`."""
    from gateway import config  # noqa: PLC0415 - heavy
    from gateway.app.settings import load, refuse_obstacles, remarks  # noqa: PLC0415

    source: Path = arguments.config or places.find()
    with progress() as say:
        say(f"reading {source} and the files that it names")
        loaded = load(source)
        refuse_obstacles(source, loaded)
    verdict = "the file is ok" if arguments.online else "ok"
    print(paint(f"{source}: {verdict}", "green", sys.stdout), *config.summary(loaded), sep="\n")
    for note in (*config.notes(loaded, time.time()), *remarks(loaded)):
        print(paint(f"note: {note}", "yellow", sys.stdout))
    return _online(source, loaded) if arguments.online else 0


def _online(source: Path, loaded: Config) -> int:
    from gateway.app.online_check import check_online  # noqa: PLC0415

    with progress() as say:
        found = asyncio.run(check_online(loaded, say))
    if not found.mistakes:
        print(paint("online: Redash answers and accepts every credential", "green", sys.stdout))
    for line in found.notes:
        print(printable(line))
    for line in found.mistakes:
        print(paint(f"{source}: {printable(line)}", "red", sys.stderr), file=sys.stderr)
    return 1 if found.mistakes else 0
