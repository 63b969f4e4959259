"""Large results are files, and a file can be damaged or removed behind the gateway: then the result is a miss."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.large import latest, whole
from support.world import World

BODIES = "gateway.db.bodies"


async def stored(world: World) -> Path:
    """Let the large result be stored, and repeat it until its response is prepared; return its file."""
    while "hit" not in (await world.get(latest(world))).cache:
        pass
    for _ in range(3):
        await world.get(latest(world), accept_encoding="identity")
        await world.get(latest(world), accept_encoding="gzip")
    files = list((world.directory / BODIES).iterdir())
    return next(file for file in files if file.stat().st_size == len(whole(world)))


def flip_a_bit(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(10_000)
        opened.write(b"\0")


def cut(file: Path) -> None:
    os.truncate(file, 300_000)


def remove(file: Path) -> None:
    file.unlink()


CHANGES = [flip_a_bit, cut, remove]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_lost_file_is_a_miss_and_is_stored_again(
    world: World, change: Callable[[Path], None], encoding: str
) -> None:
    file = await stored(world)
    change(file)
    reply = await world.get(latest(world), accept_encoding=encoding)
    assert reply.status == 200
    assert reply.body == whole(world), "the callers' client has undone gzip"
    assert "hit" not in reply.cache
    assert "hit" in (await world.get(latest(world))).cache


@pytest.mark.parametrize("change", CHANGES)
async def test_a_lost_file_is_a_miss_after_a_restart(world: World, change: Callable[[Path], None]) -> None:
    file = await stored(world)
    await world.session.close()
    await world.runtime.stop()
    before = file.stat()
    change(file)
    if file.exists():
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    await world.resume()
    reply = await world.get(latest(world))
    assert (reply.status, reply.body) == (200, whole(world))
    assert "hit" not in reply.cache


async def test_a_file_that_is_cut_while_it_is_compressed_is_never_complete(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a file are checked when it is opened: what was looked up before may be gone by then."""
    file = await stored(world)
    world.runtime.store.peek_gzip = lambda entry, body: None  # type: ignore[method-assign]
    is_there = "gateway.body.Body.is_there"
    with monkeypatch.context() as patched:
        patched.setattr(is_there, lambda _: True)
        cut(file)
        reply = await world.get(latest(world) + "?again=1", accept_encoding="gzip")
    assert reply.status == 503
    assert "Retry-After" in reply.headers
    again = await world.get(latest(world), accept_encoding="gzip")
    assert again.body == whole(world)
