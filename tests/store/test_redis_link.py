"""The way to Redis: who gets which reply, how long silence is borne, who is let in, and where the server is."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from store_helpers import FakeClock, make_link, opened
from support.redis_server import RedisServer, Sentinel, free_port
from support.waiting import until, within

from gateway.config import RedisAddress
from gateway.errors import StoreError
from gateway.model import SystemClock
from gateway.secret import Secret
from gateway.store.redis import silence
from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.link import Link
from gateway.store.redis.scripts import Script
from gateway.store.redis.sequence import Sequence, parse
from gateway.store.redis.server import RedisOptions
from gateway.store.redis.silence import SilenceWatch
from gateway.store.redis.times import SharedTime

ECHO = Script("return ARGV[1]")
SAY = Script("return announce('said', ARGV[1])")


@pytest.fixture
async def link(path: Path, clock: FakeClock, patience: None) -> AsyncIterator[Link]:
    async with opened(make_link(path, clock)) as made:
        yield made


# -- commands


async def test_everybody_gets_the_own_reply(link: Link) -> None:
    replies = await asyncio.gather(*(link.call(ECHO, str(number)) for number in range(500)))
    assert replies == [str(number).encode() for number in range(500)]


async def test_the_reply_of_a_cancelled_caller_goes_to_nobody(link: Link) -> None:
    """In a line, a reply that is not read would be taken for the next one's."""
    calls = [asyncio.create_task(link.call(ECHO, str(number))) for number in range(100)]
    await asyncio.sleep(0)
    for cancelled in calls[::3]:
        cancelled.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    kept = [number for number in range(100) if number % 3]
    assert [done[number] for number in kept] == [str(number).encode() for number in kept]
    assert await link.call(ECHO, "after") == b"after"


async def test_an_error_reply_is_that_of_its_caller_alone(link: Link) -> None:
    wrong = link.command("HGET", link.base + "x", "too", "many")
    good = link.call(ECHO, "good")
    done = await asyncio.gather(wrong, good, return_exceptions=True)
    assert isinstance(done[0], RefusedError)
    assert done[1] == b"good"
    assert link.up


async def test_scripts_that_redis_has_forgotten_are_sent_again(link: Link) -> None:
    await link.call(ECHO, "x")
    await link.command("SCRIPT", "FLUSH")
    assert await link.call(ECHO, "again") == b"again"


async def test_nothing_can_be_asked_after_the_end(path: Path, clock: FakeClock, patience: None) -> None:
    async with opened(make_link(path, clock)) as link:
        assert await link.call(ECHO, "x") == b"x"
    with pytest.raises(UnavailableError):
        await link.call(ECHO, "x")
    await link.close()


# -- announcements


async def test_others_hear_what_one_says_in_its_order(path: Path, clock: FakeClock, link: Link) -> None:
    heard: list[bytes] = []
    own: list[bytes] = []
    async with opened(make_link(path, clock)) as other:
        other.subscribe("said", heard.append)
        link.subscribe("said", own.append)
        for number in range(100):
            await link.call(SAY, f"{number} of them")
        await until(lambda: len(heard) == 100 and link.seen.number == 100)
    assert heard == [f"{number} of them".encode() for number in range(100)]
    assert own == []


async def test_gateways_know_each_other(path: Path, clock: FakeClock, link: Link) -> None:
    async with opened(make_link(path, clock, "other")) as other:
        await until(lambda: {name for name, _ in other.peers()} == {link.name, "other"})
        assert all(0 <= ago < 60 for _, ago in other.peers())
        assert other.health().up
        assert other.health().round_trip > 0
    other_is_gone = await link.command("ZSCORE", link.base + "peers", "other")
    assert other_is_gone is None


@given(st.binary(), st.integers(0, 2**53), st.text(st.characters(codec="ascii", exclude_characters=" "), min_size=1))
def test_announcements_are_read_as_they_were_written(payload: bytes, number: int, word: str) -> None:
    read = parse(f"{word} {number} {word} {word} ".encode() + payload)
    assert read is not None
    assert (read.epoch, read.number, read.origin, read.kind, read.payload) == (word, number, word, word, payload)


@given(st.binary())
def test_messages_of_others_are_no_announcements(message: bytes) -> None:
    read = parse(message)
    assert read is None or message.count(b" ") >= 4


@given(st.lists(st.integers(1, 12), max_size=30))
def test_a_gap_is_noticed_whatever_arrives(numbers: list[int]) -> None:
    """Memory is dropped unless every announcement up to the last one was seen."""
    sequence, gaps = Sequence(), 0
    sequence.epoch = "e"

    def count() -> None:
        nonlocal gaps
        gaps += 1

    sequence.on_gap.append(count)
    last, missed = 0, 0
    for number in numbers:
        is_new = sequence.advance("e", number)
        assert is_new == (number > last)
        missed += number > last + 1
        last = max(last, number)
    assert (sequence.number, gaps) == (last, missed)
    assert sequence.has_reached("e", last)
    assert not sequence.has_reached("e", last + 1)
    assert not sequence.has_reached("another", 0)


# -- silence


class Waiting:
    """A wire with something in its line."""

    replies = 0
    waiting = 1


def test_nobody_waits_longer_than_fifty_milliseconds() -> None:
    assert silence.SILENT_SECONDS + silence.TICK_SECONDS <= 0.05


async def test_silence_is_noticed_after_a_moment() -> None:
    noticed = asyncio.Event()
    began = time.monotonic()
    watch = SilenceWatch([Waiting()], noticed.set)
    watch.begin()
    await noticed.wait()
    assert time.monotonic() - began >= silence.SILENT_SECONDS - 0.005


async def test_our_own_delay_is_no_silence_of_redis() -> None:
    """While the loop works on something else, a reply waits in the socket."""
    noticed: list[str] = []
    watch = SilenceWatch([Waiting()], lambda: noticed.append("silent"))
    watch.begin()
    for _ in range(3):
        time.sleep(0.1)  # noqa: ASYNC251 - as a busy loop does
        await asyncio.sleep(silence.TICK_SECONDS)
    assert noticed == []
    watch.close()


async def test_a_wire_on_which_replies_come_is_not_silent() -> None:
    noticed: list[str] = []
    wire = Waiting()
    watch = SilenceWatch([wire], lambda: noticed.append("silent"))
    watch.begin()
    for _ in range(20):
        await asyncio.sleep(silence.SILENT_SECONDS / 5)
        wire.replies += 1
    assert noticed == []
    watch.close()


# -- time


@given(st.floats(0, 1e6), st.floats(-1e5, 1e5))
def test_times_come_back_as_they_were(born: float, ahead: float) -> None:
    clock = FakeClock()
    shared = SharedTime(clock)
    shared.measure(1_800_000_000.0 + ahead, 0.0, 0.0)
    assert abs(shared.local(shared.shared(born)) - born) < 1e-6
    assert abs(shared.now() - (1_800_000_000.0 + ahead)) < 0.002
    assert abs(shared.wall(shared.shared_from_wall(clock.wall())) - clock.wall()) < 0.002


def test_noise_of_the_network_changes_no_time() -> None:
    shared = SharedTime(FakeClock())
    shared.measure(1_000.0, 5.0, 5.0)
    before = shared.shared(1.0)
    shared.measure(1_000.01, 5.0, 5.0)
    assert shared.shared(1.0) == before
    shared.measure(1_000.5, 5.0, 5.0)
    assert abs(shared.shared(1.0) - before - 0.5) < 0.002


# -- who is let in, and where


@pytest.fixture
async def stack(patience: None) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened_here:
        yield opened_here


async def server(stack: AsyncExitStack, directory: Path, needs: Callable[[str], str], *settings: str) -> RedisServer:
    needs("redis-server")
    made = RedisServer(directory, *settings)
    await made.start()
    stack.push_async_callback(made.kill)
    return made


def link_to(server: RedisServer, prefix: str = "redash-gateway", **address: Any) -> Link:
    values = {"hosts": (("127.0.0.1", server.port),), "tls": False, **address}
    return Link(RedisOptions(address=RedisAddress(**values), prefix=prefix), SystemClock())


@pytest.mark.parametrize("prefix", ["redash-gateway", "redash-gateway:sales"])
async def test_user_password_and_database(stack: AsyncExitStack, tmp_path: Path, needs: Any, prefix: str) -> None:
    redis = await server(stack, tmp_path, needs)
    rights = ["+@all", "-@dangerous", "+info", "~redash-gateway:*", "&redash-gateway:*"]
    await redis.ask("ACL", "SETUSER", "gateways", "on", ">a-long-password", *rights)
    login = {"username": "gateways", "password": Secret("a-long-password"), "database": 3}
    async with opened(link_to(redis, prefix, **login)) as link:
        await link.command("SET", link.base + "x", 1)
        await until(lambda: bool(link.peers()))
    assert "db3:keys=" in str(await redis.ask("INFO", "keyspace"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"username": "gateways", "password": Secret("another-password")}, "cannot be used"),
        ({"database": 99}, "cannot be used"),
    ],
)
async def test_what_the_operator_must_mend_stops_the_start(
    stack: AsyncExitStack, tmp_path: Path, needs: Any, given: dict[str, Any], said: str
) -> None:
    redis = await server(stack, tmp_path, needs)
    with pytest.raises(StoreError, match=said) as raised:
        async with opened(link_to(redis, **given)):
            pass
    assert "another-password" not in str(raised.value)


async def test_a_cluster_is_refused(stack: AsyncExitStack, tmp_path: Path, needs: Any) -> None:
    redis = await server(stack, tmp_path, needs, "--cluster-enabled", "yes")
    with pytest.raises(StoreError, match="is a Redis Cluster; name a single server, or Sentinels"):
        async with opened(link_to(redis)):
            pass


async def test_a_replica_is_not_the_server_that_gateways_share(
    stack: AsyncExitStack, tmp_path: Path, needs: Any
) -> None:
    master = await server(stack, tmp_path / "master", needs)
    replica = await server(stack, tmp_path / "replica", needs, "--replicaof", f"127.0.0.1 {master.port}")
    async with opened(link_to(replica)) as link:
        assert not link.up
        assert "replica" in link.health().reason
        await replica.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: link.up)


async def test_the_master_is_found_through_sentinel_and_again_after_a_failover(
    stack: AsyncExitStack, tmp_path: Path, needs: Any
) -> None:
    master = await server(stack, tmp_path / "master", needs)
    replica = await server(stack, tmp_path / "replica", needs, "--replicaof", f"127.0.0.1 {master.port}")
    sentinel = Sentinel(tmp_path / "sentinel", master, patience=0.3)
    await sentinel.start()
    stack.push_async_callback(sentinel.kill)
    dead = ("127.0.0.1", 1)
    hosts = (dead, ("127.0.0.1", sentinel.port))
    async with opened(link_to(master, hosts=hosts, master="gateways")) as link:
        await until(lambda: link.up)
        await link.command("SET", link.base + "x", "kept")
        assert await link.command("WAIT", 1, 5_000) == 1
        await knows_a_replica(sentinel)
        await master.kill()
        await until(lambda: not link.up)
        await until(lambda: link.up, timeout=30)
        assert await sentinel.master_port() == replica.port
        assert await link.command("GET", link.base + "x") == b"kept"


async def knows_a_replica(sentinel: Sentinel) -> None:
    """Before that, a Sentinel has nobody to make the master."""
    async with within(20):
        known: object = ""
        while "'master-link-status', 'ok'" not in str(known):
            await asyncio.sleep(0.05)
            known = await sentinel.ask("SENTINEL", "REPLICAS", "gateways")


async def test_tls_with_an_authority_of_ones_own(stack: AsyncExitStack, tmp_path: Path, needs: Any) -> None:
    needs("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *names]
    await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    redis = await server(stack, tmp_path / "redis", needs, *files, "--tls-port", "0")
    await redis.ask("CONFIG", "SET", "tls-port", str(port := free_port()))
    address = RedisAddress(hosts=(("127.0.0.1", port),), tls=True)
    async with opened(Link(RedisOptions(address=address, ca_file=certificate), SystemClock())) as link:
        assert link.up
        assert await link.call(ECHO, "x") == b"x"
    async with opened(Link(RedisOptions(address=address), SystemClock())) as stranger:
        assert not stranger.up, "nobody vouches for this certificate"
