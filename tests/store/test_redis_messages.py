"""What log and status say of a Redis that cannot be used as it is: the cause, the remedy, and each once."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from store_helpers import FakeClock, opened
from support.redis_server import RedisServer, free_port, server
from support.waiting import until

from gateway.config import Redis, RedisAddress
from gateway.config.redis_url import redis_address
from gateway.errors import StoreError
from gateway.secret import Secret
from gateway.store import factory
from gateway.store.redis import link as link_module
from gateway.store.redis.examine import examine
from gateway.store.redis.link import Link
from gateway.store.redis.rights import remedy
from gateway.store.redis.server import RedisOptions

RULES = "'~redash-gateway:*' '&redash-gateway:*' '+@all' '-@dangerous' '+info'"
REMEDY = f"; as an administrator: ACL SETUSER u {RULES}"
ADVICE = "is Redis running, are host and port in cache.store right, and does no firewall stand between?"
RIGHTS = {
    "eval": "+@all -eval ~* &*",
    "evalsha": "+@all -evalsha ~* &*",
    "scripting": "+@all -@scripting ~* &*",
    "info": "+@all -info ~* &*",
    "other keys": "+@all resetkeys ~other:* &*",
    "keys to read": "+@all resetkeys %R~* &*",
    "subscribe": "+@all -subscribe ~* &*",
    "channels": "+@all ~* resetchannels",
}


@pytest.fixture(autouse=True)
def _redis(needs: Callable[[str], None], patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("redis-server")
    monkeypatch.setattr(link_module, "BEAT_SECONDS", 0.01)


def link_as(user: str, redis: RedisServer, clock: FakeClock) -> Link:
    return Link(RedisOptions(address=redis_address(f"redis://{user}@127.0.0.1:{redis.port}")), clock)


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    names = "gateway.store.redis."
    return [line.getMessage() for line in caplog.records if line.name.startswith(names) and line.levelno == level]


# -- rights


@pytest.mark.parametrize("rules", RIGHTS.values(), ids=RIGHTS)
async def test_the_start_is_refused_with_the_command_that_gives_the_right(
    tmp_path: Path, clock: FakeClock, rules: str
) -> None:
    async with server(tmp_path) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word", *rules.split())
        link = link_as("u:secret-word", redis, clock)
        with pytest.raises(StoreError) as raised:
            await link.open()
        await link.close()
        assert str(raised.value).endswith(REMEDY)
        assert str(raised.value).count("ACL SETUSER") == 1


@pytest.mark.parametrize("rules", RIGHTS.values(), ids=RIGHTS)
async def test_log_and_status_have_the_command_that_gives_a_lost_right_back(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    """Also one that is not in use just now: a subscription works until the next connection."""
    caplog.set_level(logging.INFO)
    async with server(tmp_path) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word", "~*", "&*", "+@all")
        async with opened(link_as("u:secret-word", redis, clock)) as link:
            await redis.ask("ACL", "SETUSER", "u", "resetkeys", "resetchannels", *rules.split())
            await until(lambda: link.health().reason.endswith(REMEDY))
            assert logged(caplog)[-1].endswith(REMEDY)
            await asyncio.sleep(0.1)
            assert len(set(logged(caplog))) == len(logged(caplog)) <= 3
            await redis.ask("ACL", "SETUSER", "u", "resetkeys", "resetchannels", *shlex.split(RULES))
            await until(lambda: link.up)
            assert logged(caplog, logging.INFO) == [f"redis://127.0.0.1:{redis.port}/0 is usable again"]


@pytest.mark.parametrize("where", ["shell", "prompt"])
async def test_the_command_can_be_pasted(tmp_path: Path, needs: Callable[[str], str], where: str) -> None:
    needs("redis-cli")
    async with server(tmp_path) as redis:
        address = RedisAddress(hosts=(("127.0.0.1", redis.port),), tls=False, username="u")
        command = remedy(RedisOptions(address=address)).partition("administrator: ")[2]
        cli = f"redis-cli -p {redis.port}"
        shell, typed = (f"{cli} {command}", "") if where == "shell" else (cli, f"{command}\n")
        done = await asyncio.to_thread(
            subprocess.run, shell, shell=True, cwd=tmp_path, input=typed, capture_output=True, text=True, check=True
        )
        assert done.stdout == "OK\n"
        users = str(await redis.ask("ACL", "LIST"))
        assert "user u off" in users
        assert "~redash-gateway:* resetchannels &redash-gateway:* +@all -@" in users


# -- logins


async def test_the_log_says_that_the_password_is_wrong(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the gateway has tried again it knows only that the connection was closed."""
    async with server(tmp_path) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word", "~*", "&*", "+@all")
        async with opened(link_as("u:secret-word", redis, clock)) as link:
            await redis.ask("ACL", "SETUSER", "u", "resetpass", ">another-word")
            await redis.ask("CLIENT", "KILL", "USER", "u")
            cause = "invalid username-password pair or user is disabled.; see redis.username and redis.password_file"
            await until(lambda: link.health().reason == cause)
            await asyncio.sleep(0.1)
            lines = [line.partition("works alone: ")[2] for line in logged(caplog)]
            assert lines in (["Connection closed by server.", cause], [cause])


@pytest.mark.parametrize(
    ("url", "table", "keys"),
    [
        ("redis://h", Redis(username="u", password_env="P"), "redis.username and redis.password_env"),
        ("redis://h", Redis(username="u", password_file=Path("p")), "redis.username and redis.password_file"),
        ("redis://u@h", Redis(password_env="P"), "cache.store and redis.password_env"),
        ("redis://u:p@h", Redis(), "cache.store"),
        ("redis://h", Redis(), "redis.username and redis.password_env"),
    ],
)
def test_the_keys_of_a_login_are_those_that_are_configured(url: str, table: Redis, keys: str) -> None:
    assert factory._login_keys(redis_address(url), table) == keys


async def test_a_password_that_nobody_asked_for_may_lack_its_user(tmp_path: Path) -> None:
    async with server(tmp_path) as redis:
        address = RedisAddress(hosts=(("127.0.0.1", redis.port),), tls=False, password=Secret("secret-word"))
        _, (mistake,) = await examine(RedisOptions(address=address, login_keys="redis.username and K"), 1)
    assert mistake.endswith(
        " cannot be used: its user default has no password, but one was sent; is redis.username missing? "
        "See redis.username and K"
    )


# -- no connection


async def test_check_says_what_to_do_where_nobody_listens() -> None:
    url = f"redis://127.0.0.1:{(port := free_port())}"
    _, (mistake,) = await examine(RedisOptions(address=redis_address(url)), 1)
    assert mistake == f"{url}/0 cannot be used: 127.0.0.1:{port} refuses the connection; {ADVICE}"


async def test_check_says_what_to_do_where_a_name_has_several_addresses() -> None:
    url = f"redis://localhost:{(port := free_port())}"
    _, (mistake,) = await examine(RedisOptions(address=redis_address(url)), 1)
    assert mistake == f"{url}/0 cannot be used: localhost:{port} refuses the connection; {ADVICE}"


async def test_check_says_what_to_do_where_nobody_answers(tmp_path: Path) -> None:
    async with server(tmp_path) as redis:
        redis.pause()
        _, (mistake,) = await examine(RedisOptions(address=redis_address(redis.url)), 1)
        redis.resume()
    assert re.fullmatch(rf".* cannot be used: no answer in time; {re.escape(ADVICE)}", mistake)


async def test_check_says_that_a_name_is_not_known() -> None:
    _, (mistake,) = await examine(RedisOptions(address=redis_address("redis://redis.invalid")), 1)
    assert "the name redis.invalid cannot be resolved (" in mistake
    assert "Errno" not in mistake


# -- full, evicting, writing files


async def test_the_log_says_when_redis_is_full_and_when_no_more(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with server(tmp_path, "--maxmemory", "30mb") as redis, opened(link_as("", redis, clock)):
        await redis.ask("SETRANGE", "big", str(29 * 2**20), "x")
        await until(lambda: logged(caplog) != [])
        await asyncio.sleep(0.3)
        (line,) = logged(caplog)
        assert re.search(r" is full \(3\d\.\d of 31\.5 MB\): what finds no room there is not stored; raise its", line)
        await redis.ask("DEL", "big")
        await until(lambda: logged(caplog, logging.INFO) != [])
        assert logged(caplog, logging.INFO) == [f"redis://127.0.0.1:{redis.port}/0 has room again"]


async def test_the_log_says_when_redis_begins_to_evict_and_when_it_ends(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with server(tmp_path) as redis, opened(link_as("", redis, clock)):
        await redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await until(lambda: logged(caplog) != [])
        await asyncio.sleep(0.3)
        (line,) = logged(caplog)
        assert "may remove jobs and leases, because its maxmemory-policy is allkeys-lru; CONFIG SET " in line
        await redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: logged(caplog, logging.INFO) != [])
        assert "removes nothing by itself any more" in logged(caplog, logging.INFO)[0]


@pytest.mark.parametrize(
    ("settings", "user", "noted"),
    [
        ([], "", False),
        (["--save", "60 1"], "", True),
        (["--save", "60 1"], "u:secret-word@", False),  # it may not know
        (["--appendonly", "yes"], "u:secret-word@", True),
    ],
)
async def test_check_notes_a_file_on_a_disk(tmp_path: Path, settings: list[str], user: str, noted: bool) -> None:
    async with server(tmp_path, *settings) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word", *shlex.split(RULES))
        notes, mistakes = await examine(
            RedisOptions(address=redis_address(f"redis://{user}127.0.0.1:{redis.port}")), 10**6
        )
    assert mistakes == []
    assert any("writes a file on its disk" in note for note in notes) == noted
