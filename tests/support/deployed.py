"""What `deploy` says: the files of Compose, and what kubectl makes of the two kustomizations."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway import config

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
COMPOSE: Final = DEPLOY / "compose"
SINGLE: Final = DEPLOY / "kubernetes" / "single"
SEVERAL: Final = DEPLOY / "kubernetes" / "several"

compose: Final[dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yml").read_text())
services: Final[dict[str, Any]] = compose["services"]

KEY_OR_PASSWORD: Final = "a-key-or-password"


@functools.cache
def rendered(place: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", place], check=True, capture_output=True, text=True, timeout=60)
    return list(yaml.safe_load_all(done.stdout))


def named(place: Path, kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = [one for one in rendered(place) if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod(place: Path, deployment: str) -> dict[str, Any]:
    """What the pods of a deployment are made of."""
    return dict(named(place, "Deployment", deployment)["spec"]["template"]["spec"])


def container(place: Path, deployment: str) -> dict[str, Any]:
    """The one container of such a pod."""
    (found,) = pod(place, deployment)["containers"]
    return dict(found)


def secret_files(place: Path) -> set[str]:
    """The files of secrets that the configuration names."""
    return set(re.findall(r'"(/run/secrets/[^"]+)"', (place / "config.toml").read_text()))


def loaded(place: Path, directory: Path) -> config.Config:
    """The configuration, as a gateway there reads it, with a token instead of the placeholder, which is refused."""
    text = (place / "config.toml").read_text().replace("0" * 64, "ab" * 32)
    for path in secret_files(place):
        file = directory / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{KEY_OR_PASSWORD}\n")
        text = text.replace(path, str(file))
    return config.parse(text, place, {}, "config.toml")


def redis_conf(place: Path) -> dict[str, str]:
    """The settings of the Redis there."""
    lines = (place / "redis.conf").read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line[:1] not in "#")


def size(text: str) -> int:
    """Sizes as Redis ("1gb"), Kubernetes ("1Gi") and Compose ("1g") write them."""
    found = re.fullmatch(r"(\d+)([a-zA-Z]+)", text)
    assert found, text
    return int(found[1]) * int(1024 ** " kmg".index(found[2][0].lower()))
