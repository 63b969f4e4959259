"""`deploy/compose` and `deploy/kubernetes`: files agree with each other, with the configuration and with the code, and
the real programs accept theirs.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from support.redis_server import free_port
from support.waiting import until

from gateway import config
from gateway.cli.admin_client import TOKEN_VARIABLE
from gateway.config.redis_url import redis_address
from gateway.store.redis.examine import examine
from gateway.store.redis.server import RedisOptions

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "deploy" / "compose"
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
BOTH: Final = pytest.mark.parametrize("place", [COMPOSE, KUBERNETES], ids=["compose", "kubernetes"])

PROCESS_BYTES: Final = 120 * 10**6
"""What a gateway takes besides four times `cache.memory` (README, "Memory")."""

services: Final[dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yml").read_text())["services"]
GATEWAYS: Final = ("gateway-1", "gateway-2")


def objects() -> Iterator[dict[str, Any]]:
    for name in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text())


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in objects() if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = named("Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def loaded(place: Path, tmp_path: Path) -> config.Config:
    """The configuration, as a gateway there reads it, with a token instead of the placeholder, which is refused."""
    text = (place / "config.toml").read_text().replace("0" * 64, "ab" * 32)
    for path in set(re.findall(r'"(/run/secrets/[^"]+)"', text)):
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a-key-or-password\n")
        text = text.replace(path, str(file))
    return config.parse(text, place, {}, "config.toml")


def redis_conf(place: Path) -> dict[str, str]:
    lines = (place / "redis.conf").read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line[:1] not in "#")


def size(text: str) -> int:
    """Sizes as Redis ("1gb"), Kubernetes ("1Gi") and Compose ("1g") write them."""
    number, unit = re.fullmatch(r"(\d+)([a-zA-Z]+)", text).groups()  # type: ignore[union-attr]
    return int(number) * 1024 ** " kmg".index(unit[0].lower())


@BOTH
def test_the_configuration_is_valid_and_shares_a_store(place: Path, tmp_path: Path) -> None:
    settings = loaded(place, tmp_path)
    assert config.is_redis(settings.cache.store)
    assert settings.redis_address.password.reveal() == "a-key-or-password"
    assert settings.redis.name is None, "all gateways there have one file, so the name must be that of the machine"


@BOTH
def test_redis_does_not_evict_and_has_room_for_what_the_gateways_store(place: Path, tmp_path: Path) -> None:
    written = redis_conf(place)
    assert written["maxmemory-policy"] == "noeviction"
    assert size(written["maxmemory"]) * 4 >= loaded(place, tmp_path).cache.disk * 5


def test_limits_of_memory_are_above_what_is_taken(tmp_path: Path) -> None:
    compose, gateway = loaded(COMPOSE, tmp_path), services["gateway-1"]
    files = size(re.search(r"size=(\w+)", gateway["tmpfs"][0])[1])  # type: ignore[index]
    assert size(gateway["mem_limit"]) >= PROCESS_BYTES + 4 * compose.cache.memory + files
    assert files >= 2 * compose.cache.memory
    assert size(services["redis"]["mem_limit"]) > 1.2 * size(redis_conf(COMPOSE)["maxmemory"])
    kubernetes, limits = loaded(KUBERNETES, tmp_path), container("redash-gateway")["resources"]["limits"]
    volumes = {one["name"]: one for one in named("Deployment", "redash-gateway")["spec"]["template"]["spec"]["volumes"]}
    files = size(volumes["tmp"]["emptyDir"]["sizeLimit"])
    assert size(limits["memory"]) >= PROCESS_BYTES + 4 * kubernetes.cache.memory + files
    assert files >= 2 * kubernetes.cache.memory
    limit = container("redash-gateway-redis")["resources"]["limits"]["memory"]
    assert size(limit) > 1.2 * size(redis_conf(KUBERNETES)["maxmemory"])


@BOTH
def test_there_is_time_to_stop(place: Path, tmp_path: Path) -> None:
    drain = loaded(place, tmp_path).server.drain_timeout
    pod = named("Deployment", "redash-gateway")["spec"]["template"]["spec"]
    sleep = int(container("redash-gateway")["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = {
        COMPOSE: min(int(services[name]["stop_grace_period"].removesuffix("s")) for name in GATEWAYS),
        KUBERNETES: pod["terminationGracePeriodSeconds"] - sleep,
    }
    assert grace[place] > drain


# -- compose -----------------------------------------------------------------------------------------------------------


def test_gateways_of_compose_differ_in_their_name_only() -> None:
    one, other = ({**services[name], "hostname": None} for name in GATEWAYS)
    assert one == other
    assert [services[name]["hostname"] for name in GATEWAYS] == list(GATEWAYS)


def test_files_and_secrets_that_compose_mounts_exist(tmp_path: Path) -> None:
    mounted = [volume.split(":")[0] for one in services.values() for volume in one.get("volumes", ())]
    assert [path for path in mounted if not (COMPOSE / path).is_file()] == []
    given = {f"/run/secrets/{name}" for name in services["gateway-1"]["secrets"]}
    assert set(re.findall(r'"(/run/secrets/[^"]+)"', (COMPOSE / "config.toml").read_text())) == given
    assert "secrets/" in (COMPOSE / ".gitignore").read_text().split()


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


def test_haproxy_accepts_its_configuration_and_logs_no_query_string(needs: Callable[[str], str]) -> None:
    text = (COMPOSE / "haproxy.cfg").read_text()
    assert not re.search(r"option httplog|%HU|%HQ|%r\b|%\{\+Q\}r", text), "a token may stand in the query string"
    done = asyncio.run(_run(needs("haproxy"), "-c", "-f", str(COMPOSE / "haproxy.cfg")))
    assert done[0] == 0, done[1]


def test_the_front_waits_longer_than_a_request_may_take(tmp_path: Path) -> None:
    waits = re.findall(r"(?m)^ +timeout (?:client|server) (\d+)s$", (COMPOSE / "haproxy.cfg").read_text())
    assert len(waits) == 2
    assert min(map(int, waits)) > loaded(COMPOSE, tmp_path).server.max_wait


@BOTH
async def test_redis_starts_as_it_is_written_there(place: Path, tmp_path: Path, needs: Callable[[str], str]) -> None:
    """With the password of the secret, which no list of processes shows, and as gateways need it."""
    needs("redis-server")
    command = services["redis"]["command"] if place == COMPOSE else container("redash-gateway-redis")["command"]
    port = free_port()
    script = _moved(command[2], place, tmp_path, port)
    null = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(*command[:2], script, stdin=null, stdout=null)
    try:
        await until(lambda: _listens(port))
        assert "secret-word" not in _arguments(child.pid)
        options = RedisOptions(address=redis_address(f"redis://:secret-word@127.0.0.1:{port}"))
        assert (await examine(options, 800 * 10**6))[1] == []
        assert (await examine(RedisOptions(address=redis_address(f"redis://127.0.0.1:{port}")), 1))[1] != []
    finally:
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0, "it gets signals itself: the shell is gone"


def _moved(script: str, place: Path, directory: Path, port: int) -> str:
    """The command of the container, with the paths that there are here."""
    (directory / "password").write_text("secret-word\n")
    here = f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
    (directory / "redis.conf").write_text((place / "redis.conf").read_text() + here)
    script = re.sub(r"/etc/\S*redis\.conf", f"{directory}/redis.conf", script.replace("$$", "$"))
    return re.sub(r"/run/secrets/\S+?(?=\))", f"{directory}/password", script)


def _arguments(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def test_every_file_belongs_to_the_kustomization() -> None:
    made = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {*made["resources"], *(file for one in made["configMapGenerator"] for file in one["files"])}
    assert files | {"kustomization.yaml"} == {path.name for path in KUBERNETES.iterdir()}
    volumes = [one for name in ("redash-gateway", "redash-gateway-redis") for one in _volumes(name)]
    maps = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert maps == {one["name"] for one in made["configMapGenerator"]}


def test_every_selector_selects_something() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in objects() if one["kind"] == "Deployment"]
    for one in objects():
        spec = one["spec"]
        wanted = spec.get("podSelector") or spec["selector"]
        wanted = wanted.get("matchLabels", wanted)
        assert any(wanted.items() <= has.items() for has in labels), one["metadata"]["name"]


def test_ports_are_those_that_are_listened_on(tmp_path: Path) -> None:
    settings = loaded(KUBERNETES, tmp_path)
    api, admin = settings.server.listen[0].port, settings.admin.listen.port
    gateway = container("redash-gateway")
    assert {port["name"]: port["containerPort"] for port in gateway["ports"]} == {"api": api, "admin": admin}
    policy = named("NetworkPolicy", "redash-gateway")["spec"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == [api, admin]
    (redis,) = settings.redis_address.hosts
    assert named("Service", redis[0])["spec"]["ports"][0]["port"] == redis[1]
    assert policy["egress"][0]["ports"][0]["port"] == redis[1]
    assert policy["egress"][2]["ports"][0]["port"] == 443
    assert settings.upstream.url.startswith("https:")
    hosts = settings.server.hosts
    assert named("Service", "redash-gateway")["metadata"]["name"] in hosts


def test_probes_ask_what_the_admin_listener_has() -> None:
    gateway = container("redash-gateway")
    asked = {name: gateway[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert {get["port"] for get in asked.values()} == {"admin"}


def test_secrets_are_where_the_configuration_and_the_commands_look_for_them() -> None:
    gateway, (secrets,) = (
        container("redash-gateway"),
        [v["secret"] for v in _volumes("redash-gateway") if "secret" in v],
    )
    (mount,) = [one["mountPath"] for one in gateway["volumeMounts"] if one["name"] == "secrets"]
    files = {f"{mount}/{item['path']}" for item in secrets["items"]}
    assert set(re.findall(r'"(/run/secrets/[^"]+)"', (KUBERNETES / "config.toml").read_text())) == files
    assert [one["name"] for one in gateway["env"]] == [TOKEN_VARIABLE]
    made = re.findall(r"--from-file=(\S+)", (KUBERNETES / "kustomization.yaml").read_text())
    keys = {item["key"] for item in secrets["items"]} | {gateway["env"][0]["valueFrom"]["secretKeyRef"]["key"]}
    assert set(made) == keys


def test_containers_have_no_rights_that_they_do_not_need() -> None:
    for name in ("redash-gateway", "redash-gateway-redis"):
        pod = named("Deployment", name)["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        rights = container(name)["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
    user = re.search(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert user is not None
    assert named("Deployment", "redash-gateway")["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(
        user[1]
    )


def _volumes(deployment: str) -> list[dict[str, Any]]:
    return list(named("Deployment", deployment)["spec"]["template"]["spec"]["volumes"])


def _listens(port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


async def _run(*command: str) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()
