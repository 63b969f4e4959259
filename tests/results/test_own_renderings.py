"""CSV of reduced results, which the gateway makes: once for all callers, in bounded memory, and kept."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from support.renderings import rendered
from support.waiting import until
from support.world import World

from gateway.body import Body
from gateway.concurrency.space import Space
from gateway.concurrency.spool import BeginSpool
from gateway.errors import ServiceUnavailable, UpstreamUnusable
from gateway.model import SystemClock
from gateway.redash.renderings import DateFormats
from gateway.results import own_renderings
from gateway.results.own_renderings import LARGEST_ODD, render
from gateway.store.body_files import BodyFiles
from gateway.store.spools import Spools

COLUMNS = [{"name": "id", "type": "integer"}, {"name": "text", "type": "string"}, {"name": "day", "type": "date"}]


def _result(rows: list[Any]) -> tuple[dict[str, Any], Body]:
    data = {"columns": COLUMNS, "rows": rows}
    return data, Body.of(json.dumps({"query_result": {"data": data, "retrieved_at": "2026-11-26"}}).encode())


def _rows(count: int) -> list[Any]:
    return [{"id": n, "text": f"é, {n} " * 5, "day": "2026-11-26"} for n in range(count)]


@pytest.fixture
def begin_spool(tmp_path: Path) -> BeginSpool:
    """Makes spools in the temporary directory of the test."""
    files = BodyFiles(tmp_path, SystemClock(), Space(10**9))

    async def make_room(_: int) -> None:
        raise AssertionError("there is room")

    def failed(error: OSError) -> None:
        raise error

    return Spools(files, Space(0), 10**9, make_room, failed).begin


@pytest.mark.parametrize("rows", [[], _rows(3), _rows(1_200), [{"id": float("nan")}, None], [{"text": "\ud800"}]])
async def test_a_rendering_is_that_of_the_whole_result(rows: list[Any], begin_spool: BeginSpool) -> None:
    data, body = _result(rows)
    made = await render(body, "csv", DateFormats(), begin_spool)
    assert made.data == rendered(data)


async def test_a_large_rendering_is_a_file_and_takes_little_memory(begin_spool: BeginSpool) -> None:
    # Ten renderings of 30 MB took 869 MB: each parsed all rows, and held the text four times.
    data, body = _result(_rows(60_000))
    wanted = rendered(data)
    del data
    tracemalloc.start()
    made = await render(body, "csv", DateFormats(), begin_spool)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.path is not None
    assert made.path.read_bytes() == wanted
    assert made.size == len(wanted)
    assert most < 2 * len(wanted), "one entry for each row, and no row itself"


async def test_a_rendering_is_made_once_for_all_callers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Body] = []

    async def noted(body: Body, *given: Any) -> Body:
        made.append(body)
        return await render(body, *given)

    monkeypatch.setattr(own_renderings, "render", noted)
    path = f"/api/queries/{world.named['in_country']}/results.csv?p_country=FR&max_age=3600"
    assert (await world.get(path.replace(".csv", ".json"), client="narrow")).status == 200
    replies = await asyncio.gather(*(world.get(path, client="narrow") for _ in range(10)))
    replies.append(await world.get(path, client="narrow"))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert len(made) == 1, "and it is kept"
    await world.restart()
    assert (await world.get(path, client="narrow")).body == replies[0].body
    assert len(made) == 1, "also over a restart"


async def test_only_one_rendering_is_made_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several take the interpreter from each other and from the event loop: /ping waited for half a second.
    under_way = most = 0
    go_on = asyncio.Event()

    async def counted(*given: Any) -> Body:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go_on.wait()
        under_way -= 1
        return await render(*given)

    monkeypatch.setattr(own_renderings, "render", counted)
    path = f"/api/queries/{world.named['in_country']}/results.csv?max_age=3600&p_country="
    callers = [asyncio.create_task(world.get(path + country, client="narrow")) for country in ("DE", "FR", "JP")]
    await until(lambda: most == 1)
    await until(lambda: world.runtime.results.fetcher._renderings.queued == 2)
    go_on.set()
    assert [(await caller).status for caller in callers] == [200, 200, 200]
    assert most == 1


async def test_cells_that_no_row_has_are_not_made_without_a_bound(begin_spool: BeginSpool) -> None:
    # 2,000 columns and 3,000 rows of two cells are 120 KB of JSON, and were 5 s of work.
    columns = [{"name": f"c{number}", "type": "date"} for number in range(2_000)]
    rows = [{"c1": "2026-11-26", "c2": 1}] * 3_000
    data = {"columns": columns, "rows": rows}
    body = Body.of(json.dumps({"query_result": {"data": data, "retrieved_at": "2026-11-26"}}).encode())
    with pytest.raises(UpstreamUnusable, match="empty cells"):
        await render(body, "csv", DateFormats(), begin_spool)


async def test_rows_with_some_cells_only_are_rendered(begin_spool: BeginSpool) -> None:
    columns = [{"name": f"c{number}", "type": None} for number in range(100)]
    rows = [{"c1": number} for number in range(1_000)]  # as of a source without a schema
    data = {"columns": columns, "rows": rows}
    body = Body.of(json.dumps({"query_result": {"data": data, "retrieved_at": "2026-11-26"}}).encode())
    made = await render(body, "csv", DateFormats(), begin_spool)
    assert made.size > 100_000


async def test_a_large_result_that_only_the_standard_parser_takes_is_refused(begin_spool: BeginSpool) -> None:
    # That parser cannot be interrupted: 30 MB stopped all other threads for 0.6 s, and took a gigabyte.
    rows = [{"id": float("nan"), "text": "x" * 50} for _ in range(LARGEST_ODD // 60)]
    _, body = _result(rows)
    assert body.size > LARGEST_ODD
    with pytest.raises(UpstreamUnusable, match="too large"):
        await render(body, "csv", DateFormats(), begin_spool)


async def test_a_rendering_without_room_is_503(tmp_path: Path) -> None:
    """It is the gateway's trouble, not Redash's, and it takes neither memory nor disk meanwhile."""
    files = BodyFiles(tmp_path, SystemClock(), Space(10**6))

    async def make_room(_: int) -> None:
        pass

    spools = Spools(files, Space(0), 10**9, make_room, print)
    _, body = _result(_rows(60_000))
    with pytest.raises(ServiceUnavailable, match="no room"):
        await render(body, "csv", DateFormats(), spools.begin)
    await until(lambda: not list(tmp_path.iterdir()))
    assert files.space.used == 0
