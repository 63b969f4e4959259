"""What Compose and Kubernetes have in common: configurations are valid and agree with limits, times and Redis."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from support.deployed import (
    COMPOSE,
    KEY_OR_PASSWORD,
    SEVERAL,
    SINGLE,
    container,
    loaded,
    pod,
    redis_conf,
    services,
    size,
)
from support.redis_server import free_port
from support.waiting import until

from gateway import config
from gateway.config.redis_url import redis_address
from gateway.store.redis.examine import examine
from gateway.store.redis.server import RedisOptions

BOTH: Final = pytest.mark.parametrize("place", [COMPOSE, SEVERAL], ids=["compose", "kubernetes"])
ALL: Final = pytest.mark.parametrize("place", [COMPOSE, SEVERAL, SINGLE], ids=["compose", "several", "single"])

PROCESS_BYTES: Final = 120 * 10**6
"""What a gateway takes besides four times `cache.memory` (docs/operation.md, "Memory")."""


@BOTH
def test_the_configuration_is_valid_and_shares_a_store(place: Path, tmp_path: Path) -> None:
    settings = loaded(place, tmp_path)
    assert config.is_redis(settings.cache.store)
    assert settings.redis_address.password.reveal() == KEY_OR_PASSWORD
    assert settings.redis.name is None, "all gateways there have one file, so the name must be that of the machine"


@BOTH
def test_redis_does_not_evict_and_has_room_for_what_the_gateways_store(place: Path, tmp_path: Path) -> None:
    written = redis_conf(place)
    assert written["maxmemory-policy"] == "noeviction"
    assert size(written["maxmemory"]) * 4 >= loaded(place, tmp_path).cache.disk * 5


@ALL
def test_limits_of_memory_are_above_what_is_taken(place: Path, tmp_path: Path) -> None:
    settings = loaded(place, tmp_path)
    limit, files = memory_of_a_gateway(place)
    assert limit >= PROCESS_BYTES + 4 * settings.cache.memory + files
    assert files >= 2 * settings.cache.memory


def memory_of_a_gateway(place: Path) -> tuple[int, int]:
    """Its limit, and the part of it that temporary files may take."""
    if place == COMPOSE:
        gateway = services["gateway-1"]
        (files,) = re.findall(r"size=(\w+)", gateway["tmpfs"][0])
        return size(gateway["mem_limit"]), size(files)
    (temporary,) = [one["emptyDir"] for one in pod(place, "redash-gateway")["volumes"] if one["name"] == "tmp"]
    limit = container(place, "redash-gateway")["resources"]["limits"]["memory"]
    return size(limit), size(temporary["sizeLimit"])


@BOTH
def test_the_limit_of_redis_is_above_what_it_may_store(place: Path) -> None:
    if place == COMPOSE:
        limit = services["redis"]["mem_limit"]
    else:
        limit = container(place, "redash-gateway-redis")["resources"]["limits"]["memory"]
    assert size(limit) > 1.2 * size(redis_conf(place)["maxmemory"])


@ALL
def test_there_is_time_to_stop(place: Path, tmp_path: Path) -> None:
    if place == COMPOSE:
        grace = min(int(services[name]["stop_grace_period"].removesuffix("s")) for name in ("gateway-1", "gateway-2"))
    else:
        slept = int(container(place, "redash-gateway")["lifecycle"]["preStop"]["exec"]["command"][1])
        grace = pod(place, "redash-gateway")["terminationGracePeriodSeconds"] - slept
    assert grace > loaded(place, tmp_path).server.drain_timeout


@BOTH
async def test_redis_starts_as_it_is_written_there(place: Path, tmp_path: Path, needs: Callable[[str], str]) -> None:
    """With the password of the secret, which no list of processes shows, and as gateways need it."""
    needs("redis-server")
    command = (
        services["redis"]["command"] if place == COMPOSE else container(SEVERAL, "redash-gateway-redis")["command"]
    )
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


def _listens(port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()
