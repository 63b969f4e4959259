"""Jobs that Redash starts on its own: callers cannot use their ids, so the gateway follows them to their end.

`GET /api/data_sources/<id>/schema` responds with a job where Redash has no schema at hand, and always with `refresh`
(CONTRACT 14, 25.7); the job's result is then the schema.
"""

from __future__ import annotations

import pytest
from support.world import World

SCHEMA = "/api/data_sources/{}/schema"


def path(world: World, arguments: str = "") -> str:
    source = next(iter(world.sandbox.database.sources))
    return SCHEMA.format(source) + arguments


# Redash 8 reads every schema at once; there the columns are names, later objects.
every_version = pytest.mark.parametrize("redash_version", ["8", "10", "25", "26"])


@every_version
async def test_the_schema_is_returned_directly_where_redash_makes_a_job_of_it(world: World) -> None:
    first = await world.get(path(world))
    assert first.status == 200
    assert first.json["schema"]
    assert all({"name", "columns"} <= table.keys() for table in first.json["schema"])
    again = await world.get(path(world))  # Redash has it by now, and sends it inline
    assert again.json == first.json


@every_version
async def test_refresh_reads_it_again(world: World) -> None:
    await world.get(path(world))
    assert (await world.get(path(world, "?refresh"))).json["schema"]


@pytest.mark.parametrize("redash_version", ["10", "25", "26"])
async def test_ids_of_redashs_jobs_never_reach_callers(world: World) -> None:
    reply = await world.get(path(world))
    assert world.sandbox.counters.requests >= 2  # the schema and its job
    assert b'"job"' not in reply.body


@pytest.mark.parametrize("redash_version", ["10", "25", "26"])
async def test_a_job_that_fails_is_an_error_with_redashs_text(world: World) -> None:
    world.sandbox.state.schema_error = "the database is locked"
    reply = await world.get(path(world))
    assert reply.status == 502
    assert "the database is locked" in reply.json["message"]


@pytest.mark.parametrize("redash_version", ["10", "25", "26"])
async def test_a_job_that_takes_long_says_when_to_retry(bare: World) -> None:
    await bare.start(server='max_wait = "1s"')
    bare.sandbox.state.schema_pending = True
    reply = await bare.get(path(bare))
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) >= 1
