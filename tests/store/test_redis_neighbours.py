"""Who else is in a Redis: gateways that share with one another, have the same name, are gone, or do not belong."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from store_helpers import FakeClock, make_link, opened
from support.waiting import until

from gateway.store.redis import neighbours
from gateway.store.redis.link import Link
from gateway.store.redis.neighbours import LATE_SECONDS, TWIN_SECONDS, Neighbours

Join = Callable[..., Awaitable[Link]]

TWINS = "several gateways are called b; give each a redis.name of its own"


@pytest.fixture
async def join(path: Path, clock: FakeClock, patience: None) -> AsyncIterator[Join]:
    async with AsyncExitStack() as stack:

        async def enter(name: str, url: str = "") -> Link:
            link = make_link(path, clock, name)
            link.neighbours = Neighbours(name, url, link.origin)
            return await stack.enter_async_context(opened(link))

        yield enter


def names(link: Link) -> list[str]:
    return sorted(name for name, _ in link.peers())


async def list_as(link: Link, member: str, seconds: float) -> None:
    """What is left of a process that renewed last so long ago."""
    await link.command("ZADD", link.base + "peers", int((time.time() - seconds) * 1e6), member)


async def test_gateways_of_one_name_are_noticed_by_all(
    join: Join, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process counts, and each says what to do, in status and once in the log."""
    monkeypatch.setattr(neighbours, "TWIN_SECONDS", 0.5)
    links = [await join(name) for name in ("a", "b", "b")]
    await until(lambda: all(link.neighbours.trouble == TWINS for link in links))
    assert [names(link) for link in links] == 3 * [["a", "b", "b"]]
    assert [link.gateways for link in links] == [3, 3, 3]
    beats = [link._beats for link in links]
    await until(lambda: all(link._beats > before + 9 for link, before in zip(links, beats, strict=True)))
    assert [link.neighbours.trouble for link in links] == 3 * [TWINS]
    assert caplog.messages.count(TWINS) == 3
    await links[2].close()
    await until(lambda: not any(link.neighbours.trouble for link in links[:2]))
    assert names(links[0]) == ["a", "b"]


async def test_a_restart_is_no_alarm(join: Join) -> None:
    """For a while two processes of one gateway run at the same time."""
    other, before, after = [await join(name) for name in ("a", "b", "b")]
    await until(lambda: names(other) == ["a", "b", "b"])
    await before.close()
    await until(lambda: names(other) == names(after) == ["a", "b"])
    assert other.neighbours.trouble == after.neighbours.trouble == ""
    assert TWIN_SECONDS > 60  # the default of server.drain_timeout


async def test_a_gateway_that_was_killed_is_silent_until_it_is_started_again(join: Join) -> None:
    other = await join("a")
    for process in ("killed", "killed-before"):
        await list_as(other, other.neighbours.member.replace(f"a {other.origin}", f"b {process}"), LATE_SECONDS + 1)
    await until(lambda: [name for name, _ in other.neighbours.silent] == ["b"])
    assert names(other) == ["a"]
    await until(lambda: other.gateways == 3)  # it may be cut off, and allow its part of the rates
    assert other.neighbours.trouble == ""
    started = await join("b")
    await until(lambda: names(other) == ["a", "b"] and not other.neighbours.silent)
    await until(lambda: other.gateways == started.gateways == 2)


async def test_a_gateway_that_hangs_is_silent_within_seconds(join: Join) -> None:
    other, hangs = [await join(name) for name in ("a", "b")]
    await until(lambda: names(other) == ["a", "b"])
    assert hangs._keeper is not None
    hangs._keeper.cancel()
    await until(lambda: [name for name, _ in other.neighbours.silent] == ["b"], timeout=LATE_SECONDS + 10)
    assert names(other) == ["a"]


async def test_gateways_of_another_redash_are_noticed_steadily_and_do_not_count(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    """Even one of the same name: each Redash needs a prefix of its own."""
    links = [await join(*who) for who in (("a", "https://one"), ("b", "https://two"), ("b", "https://one"))]
    for looks in range(0, 30, 10):
        await until(lambda looks=looks: all(link._beats > looks for link in links))
        for link, others in zip(links, ("b", "a, b", "b"), strict=True):
            text = f"{others} in the same Redis: another upstream.url; give each Redash a redis.prefix of its own"
            await until(lambda link=link, text=text: link.neighbours.trouble.startswith(text))
            assert "begins with redash-gateway:" in link.neighbours.trouble  # else the rights of the docs do not fit
    assert [names(link) for link in links] == [["a", "b"], ["b"], ["a", "b"]]
    assert [link.gateways for link in links] == [3, 3, 3]  # a client of all has one rate and one budget
    assert len([line for line in caplog.messages if "upstream.url" in line]) <= 5


async def test_a_gateway_of_an_earlier_version_counts(join: Join) -> None:
    """It wrote its name alone; nobody knows more of it."""
    link = await join("a", "https://one")
    await list_as(link, "old", 0)
    await until(lambda: names(link) == ["a", "old"])
    assert link.neighbours.trouble == ""
