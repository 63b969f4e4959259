"""`deploy/kubernetes`: what kubectl makes of the files is valid, and its parts agree with each other."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from support.deployed import ROOT, SEVERAL, SINGLE, container, loaded, named, pod, rendered, secret_files, size

from gateway import __version__
from gateway.cli.admin_client import TOKEN_VARIABLE

EACH: Final = pytest.mark.parametrize("place", [SINGLE, SEVERAL], ids=["single", "several"])
AUTOSCALER: Final[dict[str, Any]] = yaml.safe_load((SEVERAL / "autoscaler.yaml").read_text())
DEPLOYMENTS: Final = {SINGLE: ["redash-gateway"], SEVERAL: ["redash-gateway", "redash-gateway-redis"]}


def test_kubernetes_accepts_every_object(tmp_path: Path, needs: Callable[[str], str]) -> None:
    needs("kubectl")
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all([*rendered(SINGLE), *rendered(SEVERAL), AUTOSCALER]))
    command = [needs("kubernetes-validate"), "--strict", "--quiet", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@EACH
def test_every_file_belongs_to_the_kustomization(place: Path) -> None:
    for directory in (place, place.parent / "base"):
        made = yaml.safe_load((directory / "kustomization.yaml").read_text())
        files = {*made["resources"], *(file for one in made.get("configMapGenerator", ()) for file in one["files"])}
        there = {path.name for path in directory.iterdir()} - {"autoscaler.yaml"}
        assert files - {"../base"} | {"kustomization.yaml"} == there
    volumes = [one for name in DEPLOYMENTS[place] for one in pod(place, name)["volumes"]]
    maps = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert maps == {one["metadata"]["name"] for one in rendered(place) if one["kind"] == "ConfigMap"}


@EACH
def test_the_image_is_that_of_this_version(place: Path) -> None:
    assert container(place, "redash-gateway")["image"].endswith(f"/redash-gateway:{__version__}")


@EACH
def test_every_selector_selects_something(place: Path) -> None:
    objects = rendered(place)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in objects if one["kind"] == "Deployment"]
    selecting = [one for one in objects if one["kind"] not in ("ConfigMap", "PersistentVolumeClaim")]
    assert len(selecting) >= 5
    for one in selecting:
        wanted = one["spec"].get("podSelector") or one["spec"]["selector"]
        wanted = wanted.get("matchLabels", wanted)
        assert any(wanted.items() <= has.items() for has in labels), one["metadata"]["name"]


def rules(place: Path, way: str) -> list[tuple[dict[str, Any], list[int]]]:
    """To or from whom the gateways may connect, and at which ports."""
    policies = [one["spec"] for one in rendered(place) if one["kind"] == "NetworkPolicy"]
    ours = [one for one in policies if one["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "redash-gateway"]
    return [(rule, [port["port"] for port in rule["ports"]]) for one in ours for rule in one.get(way, ())]


@EACH
def test_ports_are_those_that_are_listened_on(place: Path, tmp_path: Path) -> None:
    settings = loaded(place, tmp_path)
    api, admin = settings.server.listen[0].port, settings.admin.listen.port
    gateway = container(place, "redash-gateway")
    assert {port["name"]: port["containerPort"] for port in gateway["ports"]} == {"api": api, "admin": admin}
    assert [ports for _, ports in rules(place, "ingress")] == [[api], [admin]]
    assert settings.upstream.url.startswith("https:")
    assert [443] in [ports for _, ports in rules(place, "egress")]
    assert named(place, "Service", "redash-gateway")["metadata"]["name"] in settings.server.hosts


def test_gateways_and_nobody_else_reach_redis(tmp_path: Path) -> None:
    ((host, port),) = loaded(SEVERAL, tmp_path).redis_address.hosts
    assert named(SEVERAL, "Service", host)["spec"]["ports"][0]["port"] == port
    (rule,) = [rule for rule, ports in rules(SEVERAL, "egress") if ports == [port]]
    (chosen,) = rule["to"]
    assert chosen["podSelector"]["matchLabels"] == named(SEVERAL, "Service", host)["spec"]["selector"]
    assert not [rule for rule, ports in rules(SINGLE, "egress") if port in ports]


def test_a_single_gateway_has_a_volume_that_no_two_have_at_once(tmp_path: Path) -> None:
    cache = loaded(SINGLE, tmp_path).cache
    spec = named(SINGLE, "Deployment", "redash-gateway")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    (claim,) = [
        one["persistentVolumeClaim"] for one in pod(SINGLE, "redash-gateway")["volumes"] if one["name"] == "data"
    ]
    requested = named(SINGLE, "PersistentVolumeClaim", claim["claimName"])["spec"]["resources"]["requests"]["storage"]
    assert size(requested) > cache.disk
    mounts = container(SINGLE, "redash-gateway")["volumeMounts"]
    (mount,) = [one["mountPath"] for one in mounts if one["name"] == "data"]
    assert cache.store == f"sqlite:{mount}/cache.db"


def test_several_gateways_are_replaced_one_by_one_and_never_all_gone() -> None:
    spec = named(SEVERAL, "Deployment", "redash-gateway")["spec"]
    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert named(SEVERAL, "PodDisruptionBudget", "redash-gateway")["spec"]["maxUnavailable"] == 1


def test_the_autoscaler_needs_one_line_and_keeps_what_the_files_begin_with() -> None:
    assert "\n  #- autoscaler.yaml\n" in (SEVERAL / "kustomization.yaml").read_text()
    spec, deployment = AUTOSCALER["spec"], named(SEVERAL, "Deployment", "redash-gateway")
    target = spec["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    assert target["apiVersion"] == deployment["apiVersion"]
    assert spec["minReplicas"] == deployment["spec"]["replicas"] < spec["maxReplicas"]


@EACH
def test_probes_ask_what_the_admin_listener_has(place: Path) -> None:
    gateway = container(place, "redash-gateway")
    asked = {name: gateway[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert {get["port"] for get in asked.values()} == {"admin"}


@EACH
def test_secrets_are_where_the_configuration_and_the_commands_look_for_them(place: Path) -> None:
    gateway = container(place, "redash-gateway")
    (secret,) = [one["secret"] for one in pod(place, "redash-gateway")["volumes"] if "secret" in one]
    assert secret["defaultMode"] == 0o440
    (mount,) = [one["mountPath"] for one in gateway["volumeMounts"] if one["name"] == "secrets"]
    made = re.findall(r"--from-file=(\S+)", (place / "kustomization.yaml").read_text())
    (variable,) = gateway["env"]
    assert variable["name"] == TOKEN_VARIABLE
    token = variable["valueFrom"]["secretKeyRef"]
    assert token["name"] == secret["secretName"]
    assert secret_files(place) | {f"{mount}/{token['key']}"} == {f"{mount}/{name}" for name in made}


@EACH
def test_containers_have_no_rights_that_they_do_not_need(place: Path) -> None:
    for name in DEPLOYMENTS[place]:
        assert pod(place, name)["automountServiceAccountToken"] is False
        assert pod(place, name)["securityContext"]["runAsNonRoot"] is True
        rights = container(place, name)["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
    user = re.search(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert user is not None
    assert pod(place, "redash-gateway")["securityContext"]["runAsUser"] == int(user[1])
