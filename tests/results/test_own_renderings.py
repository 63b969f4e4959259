"""CSV of reduced results, which the gateway makes: once for all callers, in bounded memory, and kept."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from support.renderings import rendered
from support.world import World

from gateway.model import Body
from gateway.redash.renderings import DateFormats
from gateway.results import own_renderings
from gateway.results.own_renderings import render

COLUMNS = [{"name": "id", "type": "integer"}, {"name": "text", "type": "string"}, {"name": "day", "type": "date"}]


def _result(rows: list[Any]) -> tuple[dict[str, Any], Body]:
    data = {"columns": COLUMNS, "rows": rows}
    return data, Body.of(json.dumps({"query_result": {"data": data, "retrieved_at": "2026-11-26"}}).encode())


def _rows(count: int) -> list[Any]:
    return [{"id": n, "text": f"é, {n} " * 5, "day": "2026-11-26"} for n in range(count)]


@pytest.mark.parametrize("rows", [[], _rows(3), _rows(1_200), [{"id": float("nan")}, None], [{"text": "\ud800"}]])
def test_a_rendering_is_that_of_the_whole_result(rows: list[Any], tmp_path: Path) -> None:
    data, body = _result(rows)
    made = render(body, "csv", DateFormats(), lambda: tmp_path / "spool")
    assert made.data == rendered(data)


def test_a_large_rendering_is_a_file_and_takes_little_memory(tmp_path: Path) -> None:
    # Ten renderings of 30 MB took 869 MB: each parsed all rows, and held the text four times.
    data, body = _result(_rows(60_000))
    wanted = rendered(data)
    del data
    tracemalloc.start()
    made = render(body, "csv", DateFormats(), lambda: tmp_path / "spool")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.path is not None
    assert made.path.read_bytes() == wanted
    assert made.size == len(wanted)
    assert most < 2 * len(wanted), "one entry for each row, and no row itself"


async def test_a_rendering_is_made_once_for_all_callers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Body] = []

    def noted(body: Body, *given: Any) -> Body:
        made.append(body)
        return render(body, *given)

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
