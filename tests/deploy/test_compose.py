"""`deploy/compose`: the file is what the specification allows, and its parts agree with each other."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from support.deployed import COMPOSE, compose, loaded, secret_files, services

GATEWAYS: Final = ("gateway-1", "gateway-2")


def test_the_compose_specification_allows_the_file() -> None:
    library = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    library.PyCompose.from_json(json.dumps(compose)).validate()
    with pytest.raises(ValueError, match="memlimit"):
        library.PyCompose.from_json(json.dumps({"services": {"a": {"image": "b", "memlimit": "1g"}}})).validate()


def test_every_service_that_is_waited_for_exists_and_every_image_has_a_version() -> None:
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        assert re.fullmatch(r"redash-gateway|[\w./-]+:v?\d[\w.-]*", service["image"]), name


def test_gateways_of_compose_differ_in_their_name_only() -> None:
    one, other = ({**services[name], "hostname": None} for name in GATEWAYS)
    assert one == other
    assert [services[name]["hostname"] for name in GATEWAYS] == list(GATEWAYS)


def test_files_and_secrets_that_compose_mounts_exist() -> None:
    mounted = [volume.split(":")[0] for one in services.values() for volume in one.get("volumes", ())]
    assert [path for path in mounted if not (COMPOSE / path).exists()] == []
    assert secret_files(COMPOSE) == {f"/run/secrets/{name}" for name in services["gateway-1"]["secrets"]}
    files = {Path(one["file"]).name for one in compose["secrets"].values()}
    said = (COMPOSE / "compose.yml").read_text().partition("\nx-gateway")[0]
    assert set(re.findall(r"\bsecrets/([\w-]+)", said)) == files == set(compose["secrets"])
    assert "secrets/" in (COMPOSE / ".gitignore").read_text().split()


def test_compose_takes_no_variable_from_the_shell_that_starts_it() -> None:
    """So that nobody needs to know of one: `$$` is for a shell in a container."""
    assert not re.search(r"(?<!\$)\$[{\w]", (COMPOSE / "compose.yml").read_text())


def test_ports_are_open_to_others_at_the_front_only() -> None:
    ports = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert ports.pop("front") == ["8080:8080"]
    assert all(port.startswith("127.0.0.1:") for open_ports in ports.values() for port in open_ports)
    assert set(ports) == {"prometheus", "grafana"}


def test_addresses_in_compose_are_those_that_are_listened_on(tmp_path: Path) -> None:
    settings = loaded(COMPOSE, tmp_path)
    api, admin = settings.server.listen[0].port, settings.admin.listen.port
    front = (COMPOSE / "haproxy.cfg").read_text()
    assert re.findall(r"(?m)^ +server (\S+) (\S+)$", front) == [(name, f"{name}:{api}") for name in GATEWAYS]
    assert f"check port {admin}" in front
    scraped = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]
    assert scraped["targets"] == [f"{name}:{admin}" for name in GATEWAYS]
    assert settings.redis_address.hosts == (("redis", 6379),)
    assert settings.upstream.url == f"http://sandbox:{services['sandbox']['command'][-1]}"
    assert not any("ports" in services[name] for name in (*GATEWAYS, "redis")), "only the front is for others"


def provisioned(kind: str) -> dict[str, Any]:
    """What Grafana reads at its start."""
    volumes = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (path,) = [COMPOSE / here for here, there in volumes.items() if there == "/etc/grafana/provisioning"]
    (file,) = (path / kind).iterdir()
    return dict(yaml.safe_load(file.read_text()))


def test_grafana_starts_with_the_data_source_and_the_dashboard() -> None:
    (source,) = provisioned("datasources")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True, "the variable of the dashboard begins with the default"
    interval = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = provisioned("dashboards")["providers"]
    boards = [volume.split(":")[1] for volume in services["grafana"]["volumes"] if ".json" in volume]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert boards == [home]
    assert str(Path(home).parent) == provider["options"]["path"]


def test_promtool_accepts_what_prometheus_reads(tmp_path: Path, needs: Callable[[str], str]) -> None:
    """With the rules where the container has them: beside the configuration."""
    for volume in services["prometheus"]["volumes"]:
        here, there = volume.split(":")[:2]
        (tmp_path / Path(there).name).write_text((COMPOSE / here).read_text())
    command = [needs("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_haproxy_accepts_its_configuration_and_logs_no_query_string(needs: Callable[[str], str]) -> None:
    text = (COMPOSE / "haproxy.cfg").read_text()
    assert not re.search(r"option httplog|%HU|%HQ|%r\b|%\{\+Q\}r", text), "a token may stand in the query string"
    command = [needs("haproxy"), "-c", "-f", str(COMPOSE / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_front_waits_longer_than_a_request_may_take(tmp_path: Path) -> None:
    waits = re.findall(r"(?m)^ +timeout (?:client|server) (\d+)s$", (COMPOSE / "haproxy.cfg").read_text())
    assert len(waits) == 2
    assert min(map(int, waits)) > loaded(COMPOSE, tmp_path).server.max_wait
