"""The image: what goes into it is named with its hash, its steps work one by one in a clean directory, and what they
make runs as a container does: read-only root, no rights.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.dockerfile import ROOT, Image, context, stages
from support.process import Process
from support.world import token_table

from gateway import __version__
from gateway.sandbox import Sandbox

IMAGE: Final = ROOT / "deploy" / "image"
LOCKS: Final = sorted(IMAGE.glob("*.lock"))
RELEASE: Final = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(lock: Path) -> Iterator[tuple[Requirement, list[str]]]:
    """Each package of a lock with its hashes."""
    text = re.sub(r"(?m)^#.*\n", "", lock.read_text())
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        requirement, *hashes = line.split("--hash=")
        yield Requirement(requirement), [one.strip() for one in hashes]


def wanted(lock: Path) -> list[Requirement]:
    """What the project itself asks for."""
    extras = PROJECT["project"]["optional-dependencies"]
    if lock.stem == "build":
        return [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    if lock.stem == "sbom":
        return [Requirement(text) for text in extras["lint"] if text.startswith("cyclonedx-bom")]
    return [Requirement(text) for text in (*PROJECT["project"]["dependencies"], *extras["redis"], *extras["otel"])]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_the_lock_has_each_package_in_one_version_with_hashes_and_says_no_address(lock: Path) -> None:
    packages = list(locked(lock))
    assert packages
    assert all(re.fullmatch(r"==[^,*]+", str(package.specifier)) for package, _ in packages)
    assert all(hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes) for _, hashes in packages)
    # An index or a path of the machine that made the lock is none of anybody's business, and works nowhere else.
    assert not re.search(r"://|(?m:^-)|index|find-links|file:", lock.read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_the_lock_has_what_the_project_asks_for(lock: Path) -> None:
    """If this fails, pyproject.toml has changed: `deploy/image/lock` writes the locks again."""
    versions = {canonicalize_name(package.name): str(package.specifier)[2:] for package, _ in locked(lock)}
    missing = [
        str(one) for one in wanted(lock) if not one.specifier.contains(versions.get(canonicalize_name(one.name), "0"))
    ]
    assert missing == []


def test_hadolint_finds_nothing_in_the_dockerfile(needs: Callable[[str], str]) -> None:
    done = subprocess.run(
        [needs("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


def test_the_image_is_built_in_stages_and_runs_as_nobody() -> None:
    build, final = stages()
    assert build.base.removesuffix(" AS build") == final.base == "${PYTHON}"
    assert final.only("USER") == "10001:10001"
    assert final.only("COPY") == "--from=build /opt/redash-gateway /opt/redash-gateway"
    assert all("--require-hashes" in step or "--no-index" in step for step in build.of("RUN"))
    assert "pip" not in final.only("RUN"), "the image itself has nothing from an index but what was built"


def test_the_context_has_what_is_copied_and_nothing_else(tmp_path: Path) -> None:
    """A key or a database that lies in the checkout gets into no layer."""
    context(tmp_path)
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    copied = {source for arguments in stages()[0].of("COPY") for source in arguments.split()[:-1]}
    assert {name for name in there if not name.startswith("gateway/")} == copied - {"gateway"}
    assert all(name.endswith((".py", ".css", ".js", "py.typed")) for name in there if name.startswith("gateway/"))


SEALED: Final = """
for place in {root} {writable}; do mount --bind $place $place; done
mount -o remount,ro,bind {root}
mount -o remount,ro,bind /
if touch {root}/anything 2>/dev/null; then exit 70; fi
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""
"""A container with `--read-only --cap-drop ALL --security-opt no-new-privileges`, as far as a shell can make one."""


def sealed(needs: Callable[[str], str], root: Path, *writable: Path) -> list[str]:
    """What to put before a command so that it can write only in these directories."""
    unshare = needs("unshare")
    if subprocess.run([unshare, "-rm", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody make a namespace")
    script = SEALED.format(writable=" ".join(map(str, writable)), root=root)
    return [unshare, "-rm", needs("bash"), "-ec", script, "bash"]


def configure(image: Image, written: Path) -> Path:
    path = Path(image.here("/etc/redash-gateway/config.toml"))
    path.parent.mkdir(parents=True)
    store = image.here("sqlite:/var/lib/redash-gateway/cache.db")
    path.write_text(written.read_text().replace("sqlite:gateway.db", store))
    return path


def bill_of_materials(program: str, image: Image) -> None:
    """What a release writes about what the image runs: each package, and nothing else."""
    (command,) = re.findall(r'"(\$RUNNER_TEMP/sbom/bin/cyclonedx-py" [^|]*?) -o', RELEASE.replace("\\\n", " "))
    _, *arguments = shlex.split('"' + command.replace("$RUNNER_TEMP/image", image.here("/opt/redash-gateway")))
    written = subprocess.run([program, *arguments], check=True, capture_output=True, timeout=60).stdout
    bill = json.loads(written)
    assert bill["bomFormat"] == "CycloneDX"
    there = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    here = [
        package for package, _ in locked(IMAGE / "requirements.lock") if not package.marker or package.marker.evaluate()
    ]
    expected = {canonicalize_name(package.name): str(package.specifier)[2:] for package in here}
    assert there == {**expected, canonicalize_name("redash-gateway"): __version__}


@pytest.mark.long
@pytest.mark.timeout(500)
async def test_the_steps_of_the_image_work_one_by_one_and_what_they_make_serves_from_a_read_only_root(
    tmp_path: Path, written: Path, sandbox: Sandbox, needs: Callable[[str], str]
) -> None:
    build, final = stages()
    image = Image(tmp_path / "image")
    await asyncio.to_thread(image.build, build)
    configure(image, written)
    data, temporary = Path(image.here("/var/lib/redash-gateway")), Path(image.here("/tmp"))
    for place in (data, temporary):
        place.mkdir(parents=True)

    path = final.environment["PATH"].replace("$PATH", "/usr/bin:/bin")
    environment = {**final.environment, **token_table(sandbox), "PATH": image.here(path), "TMPDIR": str(temporary)}
    before = sealed(needs, image.root, data, temporary)

    async def start(command: list[str], **more: str) -> Process:
        child = await asyncio.create_subprocess_exec(
            *before, *map(image.here, command), cwd=data, env=environment | more,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return Process(child)

    version = await start([*final.listed("ENTRYPOINT"), "--version"])
    assert await version.ended() == 0, version.text
    assert version.text == f"redash-gateway {__version__}"

    gateway = await start(final.listed("ENTRYPOINT") + final.listed("CMD"))
    try:
        _, admin = await gateway.serving()
        healthy = await start(final.listed("HEALTHCHECK"), HEALTH_URL=f"{admin}/livez")
        assert await healthy.ended() == 0, healthy.text
        gateway.child.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0, gateway.text
    finally:
        await gateway.kill()
    assert (data / "cache.db").exists()
    bill_of_materials(needs("cyclonedx-py"), image)
    dead = await start(final.listed("HEALTHCHECK"), HEALTH_URL=f"{admin}/livez")
    assert await dead.ended() != 0
