"""Paused data sources: what Redash refuses although it has a result (CONTRACT 6), the gateway refuses too, and no more.

A pause and its end are noticed as an edit is, within `definition_check`. The clock stands still except for `turn`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.calls import token
from support.http import Reply, send
from support.inside import flights
from support.waiting import until
from support.world import World

from gateway import config
from gateway.results import pauses

pytestmark = pytest.mark.standing_clock

DAY = 86_400
SOURCE_ROUTE = "/api/data_sources/<data_source_id>"
TEXT = "Shop is paused (upgrade). Please try later."
ADMIN = f"""
[clients.boss]
token_sha256 = ["{config.token_hash(token("boss"))}"]
credentials = ["admin"]
can = ["admin"]
"""


def pause(world: World, reason: str | None = "upgrade") -> None:
    source = world.sandbox.database.sources[1]
    source.paused, source.pause_reason = True, reason


def resume(world: World) -> None:
    source = world.sandbox.database.sources[1]
    source.paused, source.pause_reason = False, None


def questions(world: World) -> int:
    """How often Redash was asked for a data source."""
    return world.sandbox.counters.by_route[f"GET {SOURCE_ROUTE}"]


async def hit(world: World, name: str = "kb1", client: str = "dashboard") -> Reply:
    """Get a stored result that is fresh, unless something speaks against it."""
    reply = await world.post(name, client=client, wait=10, max_age=DAY)
    if reply.status != 200 or "hit" in reply.cache:
        return reply
    return await world.post(name, client=client, wait=10, max_age=DAY)


async def as_redash(world: World, path: str, body: object) -> Reply:
    """Send the same request to Redash itself."""
    headers = {"Authorization": f"Key {world.sandbox.user_keys['analyst']}"}
    return await send(world.session, "POST", world.sandbox.url + path, body, headers=headers)


async def no_check(world: World) -> None:
    """Wait until no check is under way."""
    await until(lambda: not flights(world.runtime.results.pauses))


def assert_hit(reply: Reply) -> None:
    assert reply.status == 200, reply.body
    assert "hit" in reply.cache


# -- what is refused


@pytest.mark.parametrize("reason", ["upgrade", None, ""])
async def test_a_cached_result_is_refused_as_redash_refuses_it(world: World, reason: str | None) -> None:
    assert_hit(await hit(world))
    pause(world, reason)
    world.clock.turn(61)
    reply = await hit(world)
    theirs = await as_redash(world, f"/api/queries/{world.named['kb1']}/results", {"max_age": DAY})
    assert (reply.status, reply.json) == (theirs.status, theirs.json)
    assert reply.status == 400
    assert reply.headers["Content-Type"] == "application/json"


async def test_every_way_to_execute_is_refused(world: World) -> None:
    # The parameterised GET executes, too; a HEAD of it makes the checks of GET.
    sql = {"query": "select 1 as one", "data_source_id": 1, "max_age": DAY}
    for _ in range(2):
        reply = await world.call("POST", "/api/query_results", sql, client="sql", headers={"Prefer": "wait=10"})
    assert_hit(reply)
    assert_hit(await hit(world))
    path = f"/api/queries/{world.named['kb1']}/results"
    pause(world)
    world.clock.turn(61)
    for reply in (
        await world.call("POST", "/api/query_results", sql, client="sql"),
        await world.call("GET", f"{path}.csv?max_age={DAY}"),
        await world.call("POST", path, {"max_age": -1}),
        await world.call("POST", path, {"max_age": 0}),
        await world.call("POST", f"/api/queries/{world.named['kb1']}/refresh"),
    ):
        assert (reply.status, reply.job) == (400, {"status": 4, "error": TEXT})
    assert (await world.call("HEAD", f"{path}.csv?max_age={DAY}")).status == 400


async def test_what_redash_still_gives_is_still_given(world: World) -> None:
    # `paused_get` of the recordings: reading results works, and so do the jobs of earlier runs.
    result_id = (await hit(world)).json["query_result"]["id"]
    job = (await world.post("now", max_age=0)).job
    await world.sandbox.wait_idle()
    pause(world)
    world.clock.turn(61)
    assert (await hit(world)).status == 400
    path = f"/api/queries/{world.named['kb1']}/results"
    for url in (path, f"{path}.csv", f"{path}/{result_id}.json", f"/api/query_results/{result_id}"):
        assert (await world.get(url)).status == 200
    assert (await world.finish(job["id"]))["status"] == 3


async def test_queries_of_other_sources_are_not_refused(world: World) -> None:
    world.sandbox.database.sources[2].paused = True
    assert_hit(await hit(world))


async def test_nobody_joins_a_run_on_a_paused_source(world: World) -> None:
    # Redash refuses the POST also while a job of the same SQL runs.
    assert_hit(await hit(world))
    async with world.sandbox.hold():
        job = (await world.post("now", max_age=0)).job
        pause(world)
        world.clock.turn(61)
        assert (await world.post("now", max_age=0)).status == 400
    assert (await world.finish(job["id"]))["status"] == 3


async def test_a_key_in_the_reason_is_not_shown(world: World) -> None:
    key = world.sandbox.user_keys["analyst"]
    pause(world, f"ask with {key}")
    reply = await hit(world)
    assert reply.status == 400
    assert key.encode() not in reply.body


# -- when it is noticed


async def test_a_pause_is_noticed_within_definition_check(world: World) -> None:
    assert_hit(await hit(world))
    pause(world)
    world.clock.turn(30)
    assert_hit(await hit(world))  # from half of it on, the check runs in the background
    asked = questions(world)
    world.clock.turn(1)
    assert_hit(await hit(world))
    await world.sandbox.wait_until(lambda: questions(world) == asked + 1)
    await no_check(world)
    assert (await hit(world)).status == 400


async def test_a_pause_from_before_the_first_request_is_noticed_by_it(world: World) -> None:
    pause(world)
    assert (await world.post("kb1", max_age=DAY)).status == 400


async def test_its_end_is_noticed_within_a_second(world: World) -> None:
    # A pause is an obstacle: Redash runs the query again, so the gateway must not be in the way for long.
    assert_hit(await hit(world))
    pause(world)
    world.clock.turn(61)
    assert (await hit(world)).status == 400
    asked = questions(world)
    assert (await hit(world)).status == 400
    assert questions(world) == asked
    resume(world)
    world.clock.turn(1.5)
    assert_hit(await hit(world))


async def test_the_fast_path_learns_of_it(world: World, by_fast_path: list[bytes]) -> None:
    for _ in range(4):
        await hit(world)
    served = len(by_fast_path)
    assert served
    pause(world)
    world.clock.turn(61)
    assert (await hit(world)).status == 400
    resume(world)
    world.clock.turn(2)
    for _ in range(4):
        assert_hit(await hit(world))
    assert len(by_fast_path) > served


async def test_a_write_through_the_gateway_is_noticed_at_once(bare: World, by_fast_path: list[bytes]) -> None:
    await bare.start(extra=ADMIN)
    boss = {"Authorization": f"Key {token('boss')}"}
    for _ in range(4):
        await hit(bare)
    assert by_fast_path
    path = "/api/data_sources/1/pause"
    assert (await bare.call("POST", path, {"reason": "upgrade"}, client=None, headers=boss)).status == 200
    assert (await hit(bare)).json["job"]["error"] == TEXT
    assert (await bare.call("DELETE", path, client=None, headers=boss)).status == 200
    assert_hit(await hit(bare))


async def test_a_check_from_before_a_write_does_not_count_after_it(bare: World) -> None:
    await bare.start(extra=ADMIN)
    await hit(bare)
    bare.clock.turn(31)
    asked = questions(bare)
    slow = bare.sandbox.faults.add("stall", route=SOURCE_ROUTE, method="GET", count=1)
    assert_hit(await hit(bare))  # its check, in the background, will say that nothing is paused
    await bare.sandbox.wait_until(lambda: questions(bare) == asked + 1)
    boss = {"Authorization": f"Key {token('boss')}"}
    sent = {"reason": "upgrade"}
    assert (await bare.call("POST", "/api/data_sources/1/pause", sent, client=None, headers=boss)).status == 200
    assert (await hit(bare)).status == 400
    slow.release()
    await no_check(bare)
    assert (await hit(bare)).status == 400


# -- what it costs


async def test_one_question_for_all_queries_of_a_source_and_all_callers(world: World) -> None:
    names = ("kb1", "by_country", "never_run", "now")
    await asyncio.gather(*(world.post(name, max_age=DAY) for name in names for _ in range(5)))
    for name in names:
        assert_hit(await hit(world, name, client="second"))
    assert questions(world) == 1


async def test_a_query_key_does_not_ask(world: World) -> None:
    # Redash shows a query's own key no data source: only its runs meet the pause.
    asked = {"parameters": {"country": "FR"}, "client": "narrow", "wait": 10}
    await world.post("in_country", max_age=DAY, **asked)
    pause(world)
    world.clock.turn(61)
    assert_hit(await world.post("in_country", max_age=DAY, **asked))
    refused = await world.post("in_country", max_age=0, **asked)
    assert (refused.status, refused.job["error"]) == (400, TEXT)
    assert questions(world) == 0


# -- checks that fail


FAULTS = [
    {"kind": "status", "status": 403},
    {"kind": "status", "status": 404},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503},
    {"kind": "reset_before_headers"},
    {"kind": "html"},
    {"kind": "garbage"},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault['kind']}{fault.get('status', '')}")
@pytest.mark.parametrize("paused", [False, True])
async def test_a_check_that_fails_changes_nothing(bare: World, fault: dict[str, Any], paused: bool) -> None:
    # Version 8 shows data sources to administrators only: one question a check, and hits go on.
    await bare.start(upstream="breaker_failures = 1000")
    assert_hit(await hit(bare))
    if paused:
        pause(bare)
        bare.clock.turn(61)
        assert (await hit(bare)).status == 400
        resume(bare)
    bare.sandbox.faults.add(route=SOURCE_ROUTE, **fault)
    for _ in range(2):
        bare.clock.turn(61)
        replies = [await hit(bare) for _ in range(3)]
        assert {reply.status for reply in replies} == {400 if paused else 200}
    asked = questions(bare)
    await hit(bare)
    assert questions(bare) == asked


async def test_a_pause_that_nobody_can_confirm_ends(bare: World) -> None:
    # As long as a definition is used without an answer, and no longer: a lost right must not block a source for ever.
    await bare.start(cache='stale_if_error = "10m"')
    assert_hit(await hit(bare))
    pause(bare)
    bare.clock.turn(61)
    assert (await hit(bare)).status == 400
    resume(bare)
    bare.sandbox.faults.add("status", status=403, route=SOURCE_ROUTE)
    bare.clock.turn(660)
    assert (await hit(bare)).status == 400
    bare.clock.turn(2)
    assert_hit(await hit(bare))


async def test_a_source_with_another_id_is_no_answer(world: World) -> None:
    # A proxy or a cache before Redash may have the object of another source.
    await hit(world)
    pause(world)
    world.sandbox.database.sources[1].id = 7
    world.clock.turn(61)
    assert_hit(await hit(world))


async def test_nothing_is_asked_while_redash_is_unavailable(world: World) -> None:
    # The definition is too old then, or it would have been read: a second request that fails would only delay the hit.
    assert_hit(await hit(world))
    asked = questions(world)
    world.sandbox.faults.add("reset_before_headers")
    world.clock.turn(61)
    assert_hit(await hit(world))
    assert questions(world) == asked


async def test_a_late_check_does_not_delay_a_hit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "LATE_SECONDS", 0.05)
    assert_hit(await hit(world))
    pause(world)
    late = world.sandbox.faults.add("hang", route=SOURCE_ROUTE, count=1)
    world.clock.turn(61)
    assert_hit(await hit(world))
    late.release()
    world.clock.turn(31)
    await no_check(world)
    await hit(world)
    await no_check(world)
    assert (await hit(world)).status == 400
