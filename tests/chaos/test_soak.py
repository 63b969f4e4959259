"""The long runs of `bench.soak`, as short as they can be: the tool works, and finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "arguments",
    [("--minutes", "0.1"), ("--kills", "5"), ("--outages", "6", "--patience", "30")],
    ids=lambda arguments: arguments[0].strip("-"),
)
def test_a_short_soak_keeps_every_promise(
    tmp_path: Path, note: Callable[[str], None], arguments: tuple[str, ...]
) -> None:
    """What takes long on a busy machine is no finding, except a response that comes after half a minute."""
    command = [sys.executable, "-m", "bench.soak", "--seed", "7", *arguments]
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| kept |" in done.stdout
    note(f"bench.soak {' '.join(arguments)}: {done.stdout.count('| kept |')} promises kept")
