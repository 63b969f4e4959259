"""What every ledger must promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from store_helpers import MB, FakeClock, execution, job, make_link, make_sqlite, opened

from gateway.store import memory_ledger
from gateway.store.memory_ledger import MemoryLedger
from gateway.store.redis import ledger as redis_ledger
from gateway.store.redis.ledger import RedisLedger
from gateway.store.sqlite import ledger as sqlite_ledger
from gateway.store.sqlite.ledger import SqliteLedger
from gateway.store.sqlite.store import SqliteStore

pytestmark = pytest.mark.usefixtures("patience")

HOUR = 3600.0


def bare(store: SqliteStore, clock: FakeClock, **options: int) -> SqliteLedger:
    """As after a restart: nothing in memory."""
    return SqliteLedger(store.database, store.writer, clock, **options)


class Bare:
    """A ledger with an empty memory before every call."""

    def __init__(self, make: Callable[[], Any], flush: Callable[[Any], Awaitable[None]]) -> None:
        self._make = make
        self._flush = flush

    async def record_result(self, scope: str, result_id: int, query_id: int, identity: bytes = b"") -> None:
        """Result ids are committed in the background."""
        ledger = self._make()
        await ledger.record_result(scope, result_id, query_id, identity)
        await self._flush(ledger)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


@pytest.fixture(params=["memory", "sqlite", "bare sqlite", "redis", "bare redis"])
async def ledger(request: pytest.FixtureRequest, path: Path, clock: FakeClock) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryLedger(clock)
    elif "sqlite" in request.param:
        async with opened(make_sqlite(path, clock)) as store:
            is_bare = "bare" in request.param
            make = partial(bare, store, clock)
            yield Bare(make, lambda _: store.writer.flushed()) if is_bare else make()
    else:
        async with opened(make_link(path, clock)) as link:
            make = partial(RedisLedger, link, clock, limit_bytes=MB)
            yield Bare(make, lambda ledger: ledger.sweep()) if "bare" in request.param else make()


async def test_unknown(ledger: Any) -> None:
    assert await ledger.job("x") is None
    assert await ledger.execution("x") is None
    assert await ledger.jobs_of("x") == []
    assert await ledger.unfinished() == []
    assert await ledger.queries_of_result("s", 1) == {}


async def test_records_are_returned_as_they_were(ledger: Any) -> None:
    record = execution(body=b"\0\xff", error="é", result_id=2**52 + 1, upstream_job="u", status=3)
    await ledger.record_execution(record)
    await ledger.record_job(job(cancelled=True))
    assert await ledger.execution("e1") == record
    assert await ledger.job("j1") == job(cancelled=True)


async def test_records_are_replaced_by_id(ledger: Any) -> None:
    await ledger.record_execution(execution(status=1))
    await ledger.record_execution(execution(status=3))
    await ledger.record_job(job())
    await ledger.record_job(job(cancelled=True, execution_id="e2"))
    assert (await ledger.execution("e1")).status == 3
    assert await ledger.jobs_of("e1") == []
    assert [found.cancelled for found in await ledger.jobs_of("e2")] == [True]


async def test_unfinished_are_oldest_first(ledger: Any) -> None:
    for number, status in enumerate((1, 2, 3, 4, 2)):
        await ledger.record_execution(execution(f"e{number}", status=status, started_at=1_800_000_000.0 - number))
    assert [record.id for record in await ledger.unfinished()] == ["e4", "e1", "e0"]


async def test_jobs_of_an_execution_are_oldest_first(ledger: Any) -> None:
    for number in range(3):
        await ledger.record_job(job(f"j{number}", noted_at=1_800_000_000.0 - number))
    await ledger.record_job(job("other", execution_id="e2"))
    assert [found.id for found in await ledger.jobs_of("e1")] == ["j2", "j1", "j0"]


async def test_twelve_hours(ledger: Any, clock: FakeClock) -> None:
    await ledger.record_execution(execution())
    await ledger.record_job(job())
    clock.advance(12 * HOUR)
    assert await ledger.job("j1") is not None
    clock.advance(1)
    assert await ledger.job("j1") is None
    assert await ledger.execution("e1") is None
    assert await ledger.unfinished() == []
    assert await ledger.jobs_of("e1") == []


async def test_results_are_known_by_scope_and_query(ledger: Any) -> None:
    for scope, result, query in (("s", 7, 1), ("s", 7, 2), ("s", 7, 2), ("t", 7, 3), ("s", 2**52, 0)):
        await ledger.record_result(scope, result, query)
    assert set(await ledger.queries_of_result("s", 7)) == {1, 2}
    assert set(await ledger.queries_of_result("t", 7)) == {3}
    assert set(await ledger.queries_of_result("s", 2**52)) == {0}
    assert [await ledger.has_results(scope) for scope in ("s", "t", "u")] == [True, True, False]


async def test_results_of_one_id_are_told_apart(ledger: Any) -> None:
    # Redash's ids begin again when its database is set back; an id that was only named says nothing of its result.
    await ledger.record_result("s", 7, 1, b"first")
    await ledger.record_result("s", 7, 2)
    assert await ledger.queries_of_result("s", 7) == {1: b"first", 2: b""}
    await ledger.record_result("s", 7, 1)
    await ledger.record_result("s", 7, 2, b"second")
    assert await ledger.queries_of_result("s", 7) == {1: b"first", 2: b"second"}
    await ledger.record_result("s", 7, 1, b"second")
    assert await ledger.queries_of_result("s", 7) == {1: b"second", 2: b"second"}


async def test_a_result_is_known_as_soon_as_what_is_recorded_after_it(path: Path, clock: FakeClock) -> None:
    # A job that a caller was told to have ended must lead to its result, also for the process after a kill.
    async with opened(make_sqlite(path, clock)) as store:
        ledger = bare(store, clock)
        await ledger.record_result("s", 7, 1)
        assert set(await ledger.queries_of_result("s", 7)) == {1}
        await ledger.record_execution(execution(status=3, result_id=7))
        assert set(await bare(store, clock).queries_of_result("s", 7)) == {1}
        assert [await bare(store, clock).has_results(scope) for scope in ("s", "t")] == [True, False]


async def test_sweep_removes_expired_rows(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        ledger = bare(store, clock)
        await ledger.record_execution(execution())
        await ledger.record_job(job())
        clock.advance(13 * HOUR)
        await ledger.record_job(job("new", noted_at=clock.wall()))
        await ledger.sweep()
        count = "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM executions)"
        assert await store.database.run(lambda db: db.execute(count).fetchone()) == (1, 0)


async def test_the_rows_of_executions_and_jobs_are_bounded_in_bytes(path: Path, clock: FakeClock) -> None:
    # A caller decides how many there are, and how long the error of a query is.
    async with opened(make_sqlite(path, clock)) as store:
        ledger = bare(store, clock, limit_bytes=50_000)
        await ledger.record_execution(execution("open", body=bytes(20_000), started_at=clock.wall()))
        for number in range(100):
            clock.advance(1)
            await ledger.record_execution(execution(f"e{number}", status=4, error="x" * 1_000, started_at=clock.wall()))
            await ledger.record_job(job(f"j{number}", execution_id=f"e{number}", noted_at=clock.wall()))
        await ledger.sweep()
        sizes = [
            await store.database.run(lambda db, t=table: db.execute(f"SELECT sum(length(packed)) FROM {t}").fetchone())
            for table in ("executions", "jobs")
        ]
        assert all(0 < size <= 50_000 for (size,) in sizes[1:])
        assert 20_000 < sizes[0][0] <= 50_000 + 20_000, "what has not ended is followed by the next process"
        assert await bare(store, clock).execution("e99") is not None
        assert await bare(store, clock).execution("e0") is None
        assert await bare(store, clock).execution("open") is not None


async def test_result_ids_are_bounded_and_the_oldest_are_deleted(path: Path, clock: FakeClock) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        ledger = bare(store, clock, results=10)
        for number in range(15):
            await ledger.record_result("s", number, 1)
        await ledger.sweep()
        seen = [number for number in range(15) if await bare(store, clock).queries_of_result("s", number)]
        assert seen == list(range(5, 15))


async def test_memory_ledger_is_bounded(clock: FakeClock) -> None:
    ledger = MemoryLedger(clock, limit_bytes=100_000, results=10)
    for number in range(200):
        await ledger.record_execution(execution(f"e{number}", body=bytes(2_000)))
        await ledger.record_job(job(f"j{number}", execution_id=f"e{number}"))
        await ledger.record_result("s", number, 1)
    assert len(await ledger.unfinished()) == 31
    assert await ledger.job("j199") is not None
    assert await ledger.job("j0") is None
    assert await ledger.jobs_of("e0") == []
    assert [number for number in range(200) if await ledger.queries_of_result("s", number)] == list(range(190, 200))


async def test_the_first_scope_under_a_name_stays(ledger: Any) -> None:
    """It is that of a user's first key: another one would lose what is stored, or show it to others."""
    assert await ledger.scope_of("user:a") is None
    assert await ledger.record_scope("user:a", "one") == "one"
    assert await ledger.record_scope("user:a", "two") == "one"
    assert await ledger.record_scope("user:b", "two") == "two"
    assert [await ledger.scope_of(name) for name in ("user:a", "user:b", "user:c")] == ["one", "two", None]


async def test_scopes_are_bounded_and_none_is_lost_for_another(ledger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory_ledger, sqlite_ledger, redis_ledger):
        monkeypatch.setattr(module, "MOST_SCOPES", 8)
    recorded = [await ledger.record_scope(f"user:{number}", str(number)) for number in range(12)]
    assert recorded[:4] == ["0", "1", "2", "3"]
    assert recorded[8:] == [None] * 4
    assert await ledger.scope_of("user:0") == "0"


async def test_what_a_client_has_spent_is_replaced_by_what_is_recorded_later(
    ledger: Any, request: pytest.FixtureRequest
) -> None:
    if "bare redis" in request.node.name:
        return  # what a gateway counts for itself there is in its memory only
    assert await ledger.spending("one") is None
    for text in ("first", "second"):
        await ledger.record_spending("one", text)
    await ledger.record_spending("two", "other")
    assert [await ledger.spending(name) for name in ("one", "two", "three")] == ["second", "other", None]


async def test_purges_are_replaced_by_what_is_recorded_later(ledger: Any, request: pytest.FixtureRequest) -> None:
    if "bare redis" in request.node.name:
        return  # as above
    assert await ledger.purges() is None
    for text in ("first", "second"):
        await ledger.record_purges(text)
    assert (await ledger.purges(), await ledger.spending("purges")) == ("second", None)
