"""Describes what the figures were measured with, without naming machine or user."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version

from bench import opponents
from bench.report import Options


def described(options: Options) -> str:
    """Return cores and versions in one line."""
    cores = len(os.sched_getaffinity(0))
    parts = [f"{cores} cores", f"Python {platform.python_version()}"]
    for package in ("aiohttp", "uvloop"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"no {package}")
    parts += [_of("nginx", "-v", r"nginx/([\d.]+)", "nginx"), _of("varnishd", "-V", r"varnish-([\d.]+)", "Varnish")]
    loop = "uvloop" if options.uvloop else "asyncio's loop"
    return f"{', '.join(parts)}; gateway on {loop}; medians of {options.turns} turn(s) of {options.seconds} s"


def _of(program: str, option: str, pattern: str, name: str) -> str:
    where = opponents.program(program)
    if where is None:
        return f"no {name}"
    done = subprocess.run([where, option], capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return f"{name} {found[1]}" if found else name
