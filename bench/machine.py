"""Describes what the figures were measured with, without naming machine or user."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version

from bench.nginx import program
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
    loop = "uvloop" if options.loop == "uvloop" else "asyncio's loop"
    return f"{', '.join(parts)}; gateway on {loop}; medians of {options.turns} turn(s) of {options.seconds:g} s"


def _of(name: str, option: str, pattern: str, shown: str) -> str:
    where = program(name)
    if where is None:
        return f"no {shown}"
    done = subprocess.run([where, option], capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return f"{shown} {found[1]}" if found else shown
