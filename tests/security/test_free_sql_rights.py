"""Rights to rows of free SQL, which has no definition by which a revoked right would be noticed.

docs/freshness.md, "Definition check": a revoked right is noticed within `definition_check`, whatever `max_age` allows;
while Redash is unavailable, stored results are served for up to `stale_if_error` longer.
"""

from __future__ import annotations

import pytest
from support.calls import token
from support.http import Reply
from support.versions import EVERY_KIND
from support.world import World

from security.front import client

SHOP = 1
CHECK_SECONDS = 60.0
ERROR_SECONDS = 600.0

pytestmark = EVERY_KIND


@pytest.fixture
async def sql(bare: World) -> World:
    """`patient` accepts stale results while new ones are fetched."""
    more = client(
        "patient", 'can = ["read", "execute", "adhoc"]', 'stale_while_revalidate = "1h"', credentials='"analyst"'
    )
    await bare.start(more, cache=f'stale_if_error = "{ERROR_SECONDS:.0f}s"\nany_age_confirm = "1h"')
    return bare


def revoke(world: World) -> None:
    world.sandbox.database.sources[SHOP].groups.clear()


async def ask(world: World, max_age: int | None = 36_000, *, who: str = "sql", text: str = "select 1 as n") -> Reply:
    body = {"query": text, "data_source_id": SHOP, "max_age": max_age}
    headers = {"Prefer": "wait=10"}
    if who == "sql":
        return await world.call("POST", "/api/query_results", body, client=who, headers=headers)
    headers["Authorization"] = f"Key {token(who)}"
    return await world.call("POST", "/api/query_results", body, client=None, headers=headers)


@pytest.mark.parametrize("max_age", [36_000, None])
async def test_a_revoked_source_closes_stored_rows_of_free_sql(sql: World, max_age: int | None) -> None:
    await ask(sql)
    for _ in range(3):
        assert "; hit" in (await ask(sql, max_age)).cache
    revoke(sql)
    sql.clock.turn(CHECK_SECONDS + 1)
    assert (await ask(sql, max_age)).status == 403


async def test_stale_while_revalidate_does_not_outlast_the_check(sql: World) -> None:
    # It is about the age of rows, not about the right to them.
    assert (await ask(sql, who="patient")).rows == [{"n": 1}]
    sql.clock.turn(30)
    assert "stale-while-revalidate" in (await ask(sql, 10, who="patient")).cache
    revoke(sql)
    sql.clock.turn(CHECK_SECONDS + 1)
    assert (await ask(sql, 10, who="patient")).status == 403


async def test_a_check_of_rights_runs_nothing(sql: World) -> None:
    """Redash is asked with the same `max_age`: it responds with the result that it has."""
    await ask(sql)
    runs = sql.sandbox.counters.started
    sql.clock.turn(CHECK_SECONDS + 1)
    checked, again = await ask(sql), await ask(sql)
    assert "fwd=stale" in checked.cache
    assert "; hit" in again.cache
    assert checked.rows == again.rows == [{"n": 1}]
    assert sql.sandbox.counters.started == runs


async def test_while_redash_is_unavailable_stored_rows_are_served_for_stale_if_error(sql: World) -> None:
    await ask(sql)
    await sql.sandbox.disconnect()
    sql.clock.turn(CHECK_SECONDS + ERROR_SECONDS - 1)
    assert "stale-if-error" in (await ask(sql)).cache
    sql.clock.turn(2)
    reply = await ask(sql)
    await sql.sandbox.reconnect()
    assert reply.status == 502


async def test_rows_that_redash_has_refused_are_not_served_in_an_outage(sql: World) -> None:
    await ask(sql)
    revoke(sql)
    assert (await ask(sql, 0)).status == 403
    await sql.sandbox.disconnect()
    reply = await ask(sql)
    await sql.sandbox.reconnect()
    assert reply.status == 502


async def test_a_key_that_redash_rejects_shows_no_stored_rows(sql: World) -> None:
    await ask(sql)
    for user in sql.sandbox.database.users.values():
        user.disabled_at = sql.sandbox.database.now()
    assert (await ask(sql, 0)).status == 502
    assert (await ask(sql)).status == 502
