"""The sandbox's large query: where its latest result is read, and what Redash has of it."""

from __future__ import annotations

from support.world import World


def latest(world: World, form: str = "json") -> str:
    """The path of its latest result."""
    return f"/api/queries/{world.named['large']}/results.{form}"


def whole(world: World) -> bytes:
    """The bytes of its latest result, as Redash has them."""
    result_id = world.sandbox.queries[world.named["large"]].latest_query_data_id
    assert result_id is not None
    return world.sandbox.database.results[result_id].full()
