"""The store is an optimisation: without room on the disk, results are passed on; nobody gets an error for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from security.front import Front, client, credential
from support.calls import token
from support.disks import fill, full_for_files, small_disk
from support.http import Reply
from support.large import latest, whole
from support.raw_redash import RawRedash
from support.waiting import until
from support.world import World

from gateway.concurrency import spool
from gateway.concurrency.spool_file import Window

RESULT_ROUTE = "GET /api/query_results/<query_result_id>.<filetype>"
SMALL = 'memory = "1MB"\ndisk = "1MB"\nmax_entry = "1MB"'
"""The large result has 2 MB: it finds room neither on the disk nor in memory."""


def bytes_of_bodies(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*.bodies/*"))


async def polled(world: World) -> Reply:
    """Run the large query as a client that polls, and read its result."""
    job = await world.finish((await world.post("large", max_age=0)).job["id"])
    assert job["status"] == 3, job
    return await world.get(f"/api/queries/{world.named['large']}/results/{job['query_result_id']}.json")


WAYS: dict[str, Callable[[World], object]] = {
    "a run that is waited for": lambda world: world.post("large", max_age=0, wait=40),
    "a run that is polled": polled,
    "one URL": lambda world: world.get(f"{latest(world)}?max_age=0"),
    "the latest result": lambda world: world.get(latest(world)),
    "an inline result": lambda world: world.post("large", max_age=86400),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[World], asyncio.Future[Reply]]:
    return WAYS[request.param]  # type: ignore[return-value]


@pytest.mark.parametrize("after", [0, 300_000, 1_500_000])
async def test_a_full_disk_costs_nobody_a_result(
    world: World,
    way: Callable[[World], asyncio.Future[Reply]],
    after: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One result was fetched 61 times in a minute, and then its job failed."""
    monkeypatch.setattr(spool, "FIRST_READERS_SECONDS", 0.01)
    with full_for_files(monkeypatch, after=after):
        reply = await way(world)
        assert (reply.status, reply.body) == (200, whole(world))
        assert await world.metric("redash_gateway_store_up", tier="disk") == 0
        assert world.sandbox.counters.by_route[RESULT_ROUTE] <= 2
        assert not world.runtime.upstream.slots.taken
        await until(lambda: not list(world.directory.rglob("*.tmp")))
    await world.runtime.store.backing.usable()  # type: ignore[union-attr]
    assert await world.metric("redash_gateway_store_up", tier="disk") == 1
    await world.get(latest(world))
    assert "hit" in (await world.get(latest(world))).cache
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([line for line in lines if "is not usable" in line]) == 1, lines


@pytest.mark.parametrize("store", ["sqlite:gateway.db", "memory:"])
async def test_what_cannot_be_kept_is_passed_on(
    bare: World, way: Callable[[World], asyncio.Future[Reply]], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Window, "LEAST_BYTES", 600_000)
    monkeypatch.setattr(spool, "FIRST_READERS_SECONDS", 0.05)
    await bare.start(store=store, cache=SMALL)
    reply = await way(bare)
    assert (reply.status, reply.body) == (200, whole(bare))
    assert "; stored" not in reply.cache
    assert bytes_of_bodies(bare.directory) <= 10**6
    assert not bare.runtime.upstream.slots.taken


async def test_all_callers_of_a_run_get_what_cannot_be_kept(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Window, "LEAST_BYTES", 600_000)
    await bare.start(cache=SMALL)
    callers = [bare.post("large", max_age=0, wait=40) for _ in range(5)]
    for reply in await asyncio.gather(*callers, bare.get(f"{latest(bare)}?max_age=0")):
        assert (reply.status, reply.body) == (200, whole(bare))
    assert bare.started == 1


async def test_a_caller_that_comes_too_late_gets_the_job(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning has been passed on. Its job ends well, and the result can be requested by its id."""
    monkeypatch.setattr(Window, "LEAST_BYTES", 600_000)
    monkeypatch.setattr(spool, "FIRST_READERS_SECONDS", 0.0)
    await bare.start(cache=SMALL)
    stall = bare.sandbox.faults.add("stall", route=RESULT_ROUTE.removeprefix("GET "), count=1)
    first = asyncio.create_task(bare.post("large", max_age=0, wait=40))
    running = bare.runtime.executions.flights
    await until(lambda: stall.hits == 1 and all(x.showable.is_set and x.arriving is None for x in running.running))
    late = asyncio.create_task(bare.post("large", max_age=3600, wait=40))
    await until(lambda: sum(x.waiters for x in running.running) > 0)
    stall.release()
    assert (await first).body == whole(bare)
    job = (await late).job
    assert job["status"] == 3
    again = await bare.get(f"/api/query_results/{job['query_result_id']}.json")
    assert again.body == whole(bare)


async def test_who_comes_too_late_for_one_passage_gets_the_next(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Window, "LEAST_BYTES", 600_000)
    monkeypatch.setattr(spool, "FIRST_READERS_SECONDS", 0.0)
    await bare.start(cache=SMALL)
    result_id = bare.sandbox.queries[bare.named["large"]].latest_query_data_id
    path = f"/api/query_results/{result_id}.json"
    stall = bare.sandbox.faults.add("stall", route=RESULT_ROUTE.removeprefix("GET "), count=1)
    begun: list[spool.Spool] = []
    begin = spool.Spool.begin
    monkeypatch.setattr(spool.Spool, "begin", lambda *given: noted(begun, begin(*given)))
    first = asyncio.create_task(bare.get(path))
    await until(lambda: stall.hits == 1 and bool(begun) and not begun[0].is_whole)
    late = [asyncio.create_task(bare.get(path)) for _ in range(3)]
    await until(lambda: len(bare.runtime.api.api._open) == 4)
    stall.release()
    assert {reply.body for reply in await asyncio.gather(first, *late)} == {whole(bare)}
    assert bare.sandbox.counters.by_route[RESULT_ROUTE] == 2


async def noted(begun: list[spool.Spool], begin: Awaitable[spool.Spool]) -> spool.Spool:
    begun.append(await begin)
    return begun[-1]


async def test_a_file_of_what_cannot_be_kept_is_made_by_redash(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Window, "LEAST_BYTES", 600_000)
    await bare.start(cache=SMALL)
    reply = await bare.get(f"{latest(bare, 'csv')}?max_age=0")
    assert reply.status == 200
    assert reply.body == (await bare.get(latest(bare, "csv"))).body


async def test_an_older_result_is_not_the_newest_after_one_that_could_not_be_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that accept any age get what Redash has, not what happens to be stored."""
    monkeypatch.setattr(Window, "LEAST_BYTES", 600_000)
    monkeypatch.setattr(spool, "FIRST_READERS_SECONDS", 0.0)
    await world.post("large", max_age=0, wait=40)
    assert "hit" in (await world.post("large")).cache
    with full_for_files(monkeypatch, after=900_000):
        world.runtime.store.backing.files.space.limit = 0  # type: ignore[union-attr]
        world.clock.turn(10)
        monkeypatch.setattr("gateway.concurrency.space.Space.fits", lambda self, count: False)
        assert (await world.post("large", max_age=0, wait=40)).status == 200
    assert "hit" not in (await world.post("large")).cache


async def test_a_missing_directory_is_made_anew(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Every large hit was 500, and every new result 502, until a restart."""
    while "hit" not in (await world.get(latest(world))).cache:
        pass
    shutil.rmtree(world.directory / "gateway.db.bodies")
    reply = await world.get(latest(world))
    assert (reply.status, reply.body) == (200, whole(world))
    assert "hit" not in reply.cache
    again = await world.get(latest(world))
    assert "hit" in again.cache
    assert again.body == whole(world)
    assert "was missing; it is made anew" in caplog.text


async def test_a_database_that_was_deleted_is_told_and_made_anew(world: World) -> None:
    await world.post("kb1", max_age=3600, wait=10)
    await world.runtime.store.backing.flush()  # type: ignore[union-attr]
    for name in ("gateway.db", "gateway.db-wal"):
        (world.directory / name).unlink()
    await world.runtime.store.backing.sweep()  # type: ignore[union-attr]
    assert await world.metric("redash_gateway_store_up", tier="disk") == 0
    assert (await world.post("kb1", max_age=3600, wait=10)).status == 200
    await world.runtime.store.backing.usable()  # type: ignore[union-attr]
    assert await world.metric("redash_gateway_store_up", tier="disk") == 1
    started = world.started
    await world.post("in_country", max_age=0, wait=10, parameters={"country": "DE"})
    await world.restart()
    assert "hit" in (await world.post("in_country", max_age=3600, parameters={"country": "DE"})).cache
    assert world.started == started + 1


async def test_a_real_disk_that_is_full(bare: World, tmp_path: Path) -> None:
    """All of it at once: results go on, the store is down and told once, and is used again when there is room."""
    with small_disk(tmp_path / "disk", 24 * 2**20) as disk:
        await bare.start(store=f"sqlite:{disk}/gateway.db")
        taken = fill(disk)
        for made in WAYS.values():
            reply: Reply = await made(bare)  # type: ignore[misc]
            assert (reply.status, reply.body) == (200, whole(bare))
        assert await bare.metric("redash_gateway_store_up", tier="disk") == 0
        taken.unlink()
        await bare.runtime.store.backing.usable()  # type: ignore[union-attr]
        await bare.get(latest(bare))
        await bare.restart()
        assert "hit" in (await bare.get(latest(bare))).cache
        await bare.stop()
        del bare.session


# -- a response without an end


class Endless(RawRedash):
    """Redash, or what is in its place: after the head of a result, rows without an end."""

    HEAD = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Disposition: attachment; filename=q_2026_11_26.json\r\n\r\n"
        b'{"query_result": {"id": 5, "query_hash": "aa", "query": "select 1", "data": {"columns": [], "rows": ['
    )

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self.HEAD)
            while True:
                writer.write(b'{"a": 1}, ' * 10_000)
                self.sent += 100_000
                await writer.drain()
        except ConnectionError:
            self.ended.set()


FIELDS = {"Authorization": f"Key {token('user')}"}


@pytest.fixture
async def endless(tmp_path: Path) -> AsyncIterator[tuple[Endless, Front]]:
    async with Endless() as redash:
        front = Front(tmp_path, redash.url)
        front.write(
            client("user"),
            credential(tmp_path, "user"),
            cache='memory = "8MB"\ndisk = "10MB"\nmax_entry = "4MB"',
        )
        text = front.file.read_text().replace('store = "memory:"', 'store = "sqlite:gateway.db"')
        front.file.write_text(text)
        async with front:
            yield redash, front


async def test_a_response_without_an_end_is_passed_on_within_bounds(
    endless: tuple[Endless, Front], tmp_path: Path
) -> None:
    """It grew at 25 MB/s past every bound."""
    _, front = endless
    async with front.session.get(f"{front.url}/api/query_results/5.json", headers=FIELDS) as response:
        assert response.status == 200
        received = 0
        while received < 60 * 10**6:
            received += len(await response.content.readany())
            assert bytes_of_bodies(tmp_path) <= 10 * 10**6
        response.close()
    await until(lambda: not front.runtime.api.api._open)


async def test_a_response_without_an_end_that_nobody_reads_is_given_up(
    endless: tuple[Endless, Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "UNREAD_SECONDS", 0.05)
    redash, front = endless
    async with front.session.get(f"{front.url}/api/query_results/5.json", headers=FIELDS) as response:
        response.close()
    async with asyncio.timeout(20):
        await redash.ended.wait()
    await until(lambda: not front.runtime.upstream.slots.taken)


async def test_a_caller_that_does_not_read_ends_a_response_without_an_end(
    endless: tuple[Endless, Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "UNREAD_SECONDS", 0.05)
    monkeypatch.setattr(spool, "SLOW_SECONDS", 0.2)
    redash, front = endless
    async with front.session.get(f"{front.url}/api/query_results/5.json", headers=FIELDS) as response:
        assert response.status == 200
        async with asyncio.timeout(20):
            await redash.ended.wait()
        with contextlib.suppress(Exception):
            await response.read()
    await until(lambda: not front.runtime.upstream.slots.taken)
