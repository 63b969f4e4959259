"""What `check --online` says of a Redis: what would stop gateways or lose what they store, and the remedy."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from store_helpers import MB, FakeClock, job, make_memory, opened
from support.redis_server import Sentinel, free_port, server
from support.waiting import until

from gateway.config.redis_url import redis_address
from gateway.errors import StoreError
from gateway.model import SystemClock
from gateway.store.redis.examine import examine
from gateway.store.redis.ledger import RedisLedger
from gateway.store.redis.link import Link
from gateway.store.redis.rights import COMMANDS
from gateway.store.redis.server import RedisOptions
from gateway.store.redis.store import RedisStore

SOURCE = Path(__file__).parents[2] / "gateway" / "store" / "redis"
DISK = 80 * 10**6


@pytest.fixture(autouse=True)
def _redis(needs: Callable[[str], None]) -> None:
    needs("redis-server")


async def examined(url: str) -> tuple[list[str], list[str]]:
    return await examine(RedisOptions(address=redis_address(url)), DISK)


async def test_a_good_one(tmp_path: Path) -> None:
    async with server(tmp_path, "--maxmemory", "100mb") as redis:
        notes, mistakes = await examined(redis.url)
    assert mistakes == []
    note = notes[0]  # a busy machine adds that a round trip takes long
    assert re.fullmatch(rf"redis://127\.0\.0\.1:{redis.port}/0 is Redis 7[\d.]+; a round trip takes [\d.]+ ms", note)


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with server(tmp_path) as redis:
        await examined(redis.url)
        assert await redis.ask("DBSIZE") == 0


async def test_without_a_limit_it_says_how_much_room_is_needed(tmp_path: Path) -> None:
    async with server(tmp_path) as redis:
        notes, mistakes = await examined(redis.url)
    assert mistakes == []
    assert notes[1] == "it has no maxmemory; see that its machine has room for cache.disk and a quarter more"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["--maxmemory-policy", "allkeys-lru"], "its maxmemory-policy is allkeys-lru: it would remove jobs and leases"),
        (["--maxmemory", "99mb"], None),
        (["--maxmemory", "3mb"], "MB for Redis itself; raise it, or set cache.disk to 1MB"),
        (["--maxmemory", "2mb"], "MB for Redis itself; raise it"),
        (
            ["--maxmemory", "90mb"],
            "its maxmemory is 94 MB, too little for cache.disk = 80 MB, a quarter more, and 2 MB for Redis itself; ",
        ),
        (["--cluster-enabled", "yes"], " is a Redis Cluster; name a single server, or Sentinels"),
        (["--requirepass", "right"], "Authentication required"),
        (["--replicaof", "127.0.0.1 1"], " is a replica just now"),
    ],
)
async def test_what_must_be_changed(tmp_path: Path, settings: list[str], told: str | None) -> None:
    async with server(tmp_path, *settings) as redis:
        _, mistakes = await examined(redis.url)
    assert [mistake for mistake in mistakes if told is None or told not in mistake] == []
    assert len(mistakes) == (0 if told is None else 1)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("+@all ~other:* &*", r".* refuses: .*one of the keys used as arguments; as an administrator: ACL SETUSER u"),
        ("+@all -set ~* &*", r"its user may not use SET on redash-gateway:\*; as an administrator: ACL SETUSER u"),
        ("+@all ~* &other", r"its user may not use PUBLISH, SUBSCRIBE on redash-gateway:\*; as an administrator"),
        ("+@all -info ~* &*", r".* cannot be used: .*no permissions.*; as an administrator: ACL SETUSER u"),
        ("+@all -eval ~* &*", r".*no permissions to run the 'eval' command; as an administrator: ACL SETUSER u"),
    ],
)
async def test_a_user_without_the_rights(tmp_path: Path, rules: str, told: str) -> None:
    async with server(tmp_path) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word", *rules.split())
        _, mistakes = await examined(f"redis://u:secret-word@127.0.0.1:{redis.port}")
        (mistake,) = mistakes
        assert re.match(told, mistake)
        assert "secret-word" not in mistake


async def test_the_rights_that_it_names_are_enough(tmp_path: Path) -> None:
    async with server(tmp_path) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word")
        _, mistakes = await examined(f"redis://u:secret-word@127.0.0.1:{redis.port}")
        rules = mistakes[0].partition("ACL SETUSER u ")[2]
        await redis.ask("ACL", "SETUSER", "u", *shlex.split(rules))
        url = f"redis://u:secret-word@127.0.0.1:{redis.port}"
        assert (await examined(url))[1] == []
        link = Link(RedisOptions(address=redis_address(url)), SystemClock())
        await link.open()
        await until(lambda: link.up)
        await until(lambda: link.peers() != [])  # it goes on after its first heartbeat
        await link.close()


@pytest.mark.parametrize("right", ["hget", "pexpire", "zadd", "eval", "info"])
async def test_a_right_that_is_taken_away_is_an_outage_until_it_is_back(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, patience: None, right: str
) -> None:
    """Else what could not be read would look as if it were not there, and what was not written as if it were."""
    async with server(tmp_path) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word", "~*", "&*", "+@all")
        address = redis_address(f"redis://u:secret-word@127.0.0.1:{redis.port}")
        async with AsyncExitStack() as stack:
            link = Link(RedisOptions(address=address), clock)
            store = RedisStore(link, make_memory(Path(), clock), disk_bytes=MB, max_entry_bytes=MB, clock=clock)
            ledger = RedisLedger(link, clock, limit_bytes=MB)
            await stack.enter_async_context(opened(store))
            await ledger.record_job(job())
            await redis.ask("ACL", "SETUSER", "u", f"-{right}")
            await asyncio.gather(ledger.record_job(job()), ledger.job("j2"), ledger.sweep(), store.delete(query_id=1))
            await until(lambda: "may not use" in link.health().reason or right in link.health().reason)
            for _ in range(5):
                link._wake.set()
                await asyncio.sleep(0.02)
                assert not link.up
            lines = [record.getMessage() for record in caplog.records if "is not usable" in record.getMessage()]
            assert len(lines) <= 2, lines
            assert right in lines[-1].lower()
            assert len(set(lines)) == len(lines)
            await redis.ask("ACL", "SETUSER", "u", f"+{right}")
            await until(lambda: link.up)
            assert await ledger.job("j1") == job()


async def test_a_user_without_a_right_stops_the_start(tmp_path: Path, clock: FakeClock) -> None:
    async with server(tmp_path) as redis:
        await redis.ask("ACL", "SETUSER", "u", "on", ">secret-word", "~*", "&*", "+@all", "-pexpire")
        link = Link(RedisOptions(address=redis_address(f"redis://u:secret-word@127.0.0.1:{redis.port}")), clock)
        with pytest.raises(StoreError, match=r"its user may not use PEXPIRE on .* ACL SETUSER u"):
            await link.open()
        await link.close()


async def test_a_wrong_password_is_said_without_it(tmp_path: Path) -> None:
    async with server(tmp_path, "--requirepass", "right") as redis:
        _, mistakes = await examined(f"redis://:wrong-word@127.0.0.1:{redis.port}")
    assert len(mistakes) == 1
    assert "wrong-word" not in mistakes[0]
    assert "password" in mistakes[0]


async def test_one_that_is_not_there() -> None:
    _, mistakes = await examined(f"redis://127.0.0.1:{free_port()}")
    assert len(mistakes) == 1
    assert " cannot be used: " in mistakes[0]


async def test_one_that_hangs(tmp_path: Path) -> None:
    async with server(tmp_path) as redis:
        redis.pause()
        _, mistakes = await examined(redis.url)
        redis.resume()
    assert len(mistakes) == 1
    assert " cannot be used: " in mistakes[0]


async def test_sentinels_are_asked_for_the_master(tmp_path: Path) -> None:
    async with server(tmp_path) as redis:
        sentinel = Sentinel(tmp_path / "sentinel", redis, patience=1.0)
        await sentinel.start()
        assert (await examined(sentinel.url))[1] == []
        _, mistakes = await examined(f"redis+sentinel://127.0.0.1:{sentinel.port}/another")
        await sentinel.kill()
    assert len(mistakes) == 1
    assert mistakes[0].endswith("no Sentinel knows the master; the last one: it does not know another")


class LockedSentinel(Sentinel):
    """It wants the password that the server wants."""

    def command(self) -> list[str]:
        made = super().command()
        with Path(made[1]).open("a") as file:
            file.write("requirepass secret-word\nsentinel auth-pass gateways secret-word\n")
        return made


async def test_sentinels_may_want_the_password_of_the_server(tmp_path: Path) -> None:
    async with server(tmp_path, "--requirepass", "secret-word") as redis:
        sentinel = LockedSentinel(tmp_path / "sentinel", redis, patience=1.0)
        await sentinel.start()
        right = sentinel.url.replace("://", "://:secret-word@")
        assert (await examined(right))[1] == []
        _, mistakes = await examined(sentinel.url)
        await sentinel.kill()
    assert mistakes[0].endswith("no Sentinel knows the master; the last one: Authentication required.")


def test_every_command_that_gateways_use_is_tried() -> None:
    texts = [path.read_text() for path in SOURCE.glob("*.py")]
    called = {name for text in texts for name in re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", text)}
    sent = {name for text in texts for name in re.findall(r"""(?:command|ask|send_command)\(\(?\s*"([A-Z]+)\"""", text)}
    of_the_server = {"CONFIG", "EVAL", "EVALSHA", "INFO", "SENTINEL"}
    assert (called | sent) - of_the_server <= {command.split()[0] for command in COMMANDS}
