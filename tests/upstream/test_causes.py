"""Errors and the log say where Redash was looked for, and why it was not reached: neither holds a key."""

from __future__ import annotations

import re

import pytest
from support.world import World

REFUSED = r"Redash cannot be reached at http://127\.0\.0\.1:\d+: 127\.0\.0\.1:\d+ refuses the connection\."


async def test_a_refused_connection_stands_in_the_error_and_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.sandbox.disconnect()
    reply = await world.post("never_run", max_age=0)
    assert reply.status == 502
    assert re.fullmatch(REFUSED, reply.json["detail"]), reply.json
    assert re.search(f"Redash is unavailable: GET /api/[^:]+: {REFUSED}", caplog.text)


async def test_a_connection_that_breaks_says_so(world: World) -> None:
    world.sandbox.faults.add("reset_before_headers", route="/api/queries/<query_id>")
    reply = await world.post("never_run", max_age=0)
    assert reply.status == 502
    assert f"at {world.sandbox.url}: the connection was closed before the end" in reply.json["detail"]


async def test_a_response_that_does_not_come_says_so(bare: World) -> None:
    await bare.start(upstream='read_timeout = "200ms"')
    bare.sandbox.faults.add("hang", route="/api/queries/<query_id>")
    reply = await bare.post("never_run", max_age=0)
    assert reply.status == 504
    assert reply.json["detail"] == f"Redash at {bare.sandbox.url} did not answer in time."
