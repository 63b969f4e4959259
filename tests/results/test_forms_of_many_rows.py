"""Forms of a result of many rows, through a gateway in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.libraries import library

ROOT = Path(__file__).parent.parent.parent
TOOLS = ("pyarrow", "polars", "pandas", "duckdb")


@pytest.mark.long
@pytest.mark.timeout(120)
def test_every_tool_finds_every_row_of_the_json_in_every_form_in_bounded_memory(tmp_path: Path) -> None:
    """The command compares each row with that of the JSON, and memory with 64 MB: what it does with a million rows
    (docs/performance.md), it does here with a few."""
    for name in TOOLS:
        library(name)
    command = [sys.executable, "-m", "bench.forms", "--rows", "10000"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    read = {line.split(" | ")[0]: line for line in done.stdout.splitlines()}
    for form in ("| Parquet", "| Arrow", "| NDJSON, `columns=`", "| CSV, `csv=excel`, commas, `columns=`"):
        assert all(name in read[form] for name in TOOLS)
