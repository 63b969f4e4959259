"""A large result that always breaks off: who may have the stored one gets it at once, not an error a minute later."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.http import Reply
from support.waiting import within
from support.world import World

RESULT_ROUTE = "/api/query_results/<query_result_id>.<filetype>"

WAYS: dict[str, Callable[[World], object]] = {
    "a run that is waited for": lambda world: world.post("large", max_age=10, wait=40),
    "one URL": lambda world: world.get(f"/api/queries/{world.named['large']}/results.json?max_age=10"),
}


@pytest.mark.parametrize("fault", ["truncate", "reset_before_headers"])
@pytest.mark.parametrize("way", WAYS)
async def test_the_stored_result_is_served_at_once(world: World, way: str, fault: str) -> None:
    """It came after 60 s, or was a failed job."""
    stored = (await world.post("large", max_age=0, wait=40)).body
    world.sandbox.faults.add(fault, route=RESULT_ROUTE, method="GET")
    world.clock.turn(100)
    async with within(5):
        reply: Reply = await WAYS[way](world)  # type: ignore[misc]
    assert (reply.status, reply.body) == (200, stored)
    assert "detail=stale-if-error" in reply.cache
    assert world.started == 2, "the run itself was successful"
