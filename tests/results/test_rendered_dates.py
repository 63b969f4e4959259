"""CSV that the gateway renders itself has the date format of the organisation, as Redash's own CSV has (CONTRACT 8).

A query key may not read a result of other parameters by its id, so that the gateway makes its CSV from the JSON. One
query must not have two forms of CSV.
"""

from __future__ import annotations

import re

import pytest
from support.versions import EVERY_KIND
from support.world import World

FORMATS = [("DD/MM/YY", "HH:mm"), ("YYYY-MM-DD", "HH:mm:ss"), ("MM/DD/YY", "HH:mm")]

pytestmark = EVERY_KIND


async def csv(world: World, client: str) -> bytes:
    query = world.named["in_country"]
    reply = await world.get(f"/api/queries/{query}/results.csv?p_country=DE&max_age=0", client=client)
    assert reply.status == 200, reply.body
    return reply.body


@pytest.fixture
def dated(bare: World) -> World:
    """The query that both keys can run has a date and a time among its columns."""
    query = bare.sandbox.queries[bare.named["in_country"]]
    query.query = (
        "select o.ordered_on as day, o.placed_at as moment from orders o join customers c on c.id = o.customer_id "
        "where c.country = '{{ country }}' order by o.id limit 3"
    )
    return bare


@pytest.mark.parametrize(("date_format", "time_format"), FORMATS)
async def test_both_forms_have_the_format_of_the_organisation(dated: World, date_format: str, time_format: str) -> None:
    dated.sandbox.database.date_format, dated.sandbox.database.time_format = date_format, time_format
    await dated.start()
    assert await csv(dated, "narrow") == await csv(dated, "dashboard")


async def test_without_a_user_key_the_configuration_says_it(dated: World) -> None:
    dated.sandbox.database.date_format, dated.sandbox.database.time_format = "YYYY-MM-DD", "HH:mm:ss"
    keys = 'date_format = "YYYY-MM-DD"\ndate_time_format = "YYYY-MM-DD HH:mm:ss"'
    await dated.start(upstream=keys)
    narrow = await csv(dated, "narrow")
    assert narrow == await csv(dated, "dashboard")


async def test_dates_are_really_formatted(dated: World) -> None:
    dated.sandbox.database.date_format, dated.sandbox.database.time_format = "YYYY-MM-DD", "HH:mm:ss"
    await dated.start()
    head, *rows = (await csv(dated, "narrow")).decode().splitlines()
    assert head == "day,moment"
    for row in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d,\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row), row
