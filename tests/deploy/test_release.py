"""The workflow that publishes: who reads it can trust it, and it names what there is."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from support.documents import ROOT

WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE: Final[dict[str, Any]] = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_named_by_its_commit_and_says_its_version(path: Path) -> None:
    used = re.findall(r"(?m)^ *(?:- )?uses: (.+)$", path.read_text())
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", one)] == []


def test_zizmor_finds_nothing(needs: Callable[[str], str]) -> None:
    command = [needs("zizmor"), "--offline", "--no-progress", "--strict-collection", str(ROOT / ".github")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_job_that_publishes_may_and_only_what_was_attested() -> None:
    assert RELEASE["permissions"] == {}
    build, publish = RELEASE["jobs"]["build"], RELEASE["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert (publish["needs"], publish["environment"]) == ("build", "pypi")
    assert not any("run" in step for step in publish["steps"]), "nothing of ours runs with the right to publish"
    uses = [step["uses"].partition("@")[0] for step in build["steps"] if "uses" in step]
    attested = uses.index("actions/attest-build-provenance")
    assert attested < uses.index("actions/attest-sbom") < uses.index("actions/upload-artifact")


def test_each_file_that_it_installs_from_exists_and_every_package_has_a_hash() -> None:
    scripts = [step.get("run", "") for job in RELEASE["jobs"].values() for step in job["steps"]]
    installs = [line for script in scripts for line in script.splitlines() if '/pip" install' in line]
    assert len(installs) == 4
    for line in installs:
        named = re.search(r"--require-hashes .*-r (\S+)$", line)
        assert "--no-index" in line if named is None else (ROOT / named[1]).is_file(), line
