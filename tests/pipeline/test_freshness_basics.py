"""How fresh a result is: max_age as Redash reads it, floors and ceilings, any age, edits, refusals, stale results,
clocks that differ. The clock stands still except for `turn`, so that limits can be met exactly.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.http import Reply
from support.inside import flights
from support.versions import EVERY_KIND
from support.waiting import until
from support.world import World

from gateway.results import definitions

pytestmark = [pytest.mark.standing_clock, EVERY_KIND]

ABSENT = object()
POST_ROUTE = "/api/queries/<query_id>/results"
DEFINITION_ROUTE = "/api/queries/<query_id>"


async def run(world: World, name: str = "now", *, client: str = "dashboard", **parameters: Any) -> int:
    """Run it through the gateway; returns the number of its run."""
    rows = await world.rows(name, client=client, max_age=0, **parameters)
    return int(rows[0]["run"]) if name == "now" else 0


async def rows_within(world: World, max_age: object = ABSENT, name: str = "now", *, client: str = "dashboard") -> Reply:
    """POST with this max_age and wait for the rows."""
    body = {} if max_age is ABSENT else {"max_age": max_age}
    return await world.post(name, client=client, wait=10, **body)


def run_of(reply: Reply) -> int:
    assert reply.status == 200, reply.body
    return int(reply.rows[0]["run"])


def upstream_max_ages(world: World) -> list[object]:
    posts = [r for r in world.sandbox.log if r.method == "POST" and r.route == POST_ROUTE]
    return [json.loads(r.body)["max_age"] for r in posts]


async def idle(world: World) -> None:
    """Wait until nothing runs, in Redash and here."""
    await world.sandbox.wait_idle()
    for x in list(world.runtime.executions.flights.running):
        await x.ended.wait()


# -- the table of CONTRACT 6, at an age of 1700 s


@pytest.mark.parametrize("max_age", [ABSENT, None, -1, "-1", -1.9])
async def test_any_age_reads(world: World, max_age: object) -> None:
    first = await run(world)
    world.clock.turn(1700)
    assert run_of(await rows_within(world, max_age)) == first
    assert world.started == 1


@pytest.mark.parametrize("max_age", [0, False, 0.9, -0.5, "0"])
async def test_zero_always_executes(world: World, max_age: object) -> None:
    # int() truncates towards zero.
    first = await run(world)
    assert run_of(await rows_within(world, max_age)) != first
    assert world.started == 2


@pytest.mark.parametrize("max_age", [-2, -60, "-5", -2.5])
async def test_other_negatives_execute(world: World, max_age: object) -> None:
    # In Redash they are compared, and no result from the past passes.
    first = await run(world)
    assert run_of(await rows_within(world, max_age)) != first


@pytest.mark.parametrize("max_age", [1800, 1700, 1700.9, "1800", " 1800 ", 2e3, 10**9, 10**12])
async def test_results_within_max_age_are_hits(world: World, max_age: object) -> None:
    first = await run(world)
    world.clock.turn(1700)
    reply = await rows_within(world, max_age)
    assert run_of(reply) == first
    assert "hit" in reply.cache
    assert reply.headers["Age"] == "1700"
    assert world.started == 1


@pytest.mark.parametrize("max_age", [1, 1.9, True, 1699, 1e3, "1000"])
async def test_results_beyond_max_age_are_run_again(world: World, max_age: object) -> None:
    first = await run(world)
    world.clock.turn(1700)
    assert run_of(await rows_within(world, max_age)) != first
    assert world.started == 2


@pytest.mark.parametrize(
    "text",
    ['"abc"', '"1.5"', '""', "[]", "[1]", "{}", "NaN", "Infinity", "-Infinity", "1e400", "1000000000000000", '"0x10"'],
)
async def test_values_that_redash_rejects_with_500_are_400_here(world: World, text: str) -> None:
    # CONTRACT 6: Redash fails on int(); the caller gets the reason, and Redash is not called.
    body = b'{"max_age": ' + text.encode() + b"}"
    reply = await world.call("POST", f"/api/queries/{world.named['now']}/results", body)
    assert reply.status == 400
    assert "max_age" in reply.json["message"]
    assert world.sandbox.counters.posts.total() == 0


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"  ", '\ufeff{"max_age": -1}'.encode()])
async def test_bodies_that_redash_treats_as_an_empty_object_are_valid(world: World, body: bytes) -> None:
    # CONTRACT 6; a byte order mark is accepted.
    first = await run(world)
    reply = await world.call("POST", f"/api/queries/{world.named['now']}/results", body)
    assert run_of(reply) == first


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
async def test_json_in_other_encodings_of_unicode_is_read(world: World, encoding: str) -> None:
    first = await run(world)
    body = '{"max_age": 60}'.encode(encoding)
    reply = await world.call("POST", f"/api/queries/{world.named['now']}/results", body)
    assert run_of(reply) == first
    assert "hit" in reply.cache


@pytest.mark.parametrize("body", [b"max_age=0", b"{", b"\x1f\x8b\x08\x00", b"[1]", b'"x"', b"5", b"true"])
async def test_meaningless_bodies_are_400_and_run_nothing(world: World, body: bytes) -> None:
    # Redash treats what it cannot read as {} and executes (CONTRACT 6, 20.11), or fails.
    reply = await world.call("POST", f"/api/queries/{world.named['never_run']}/results", body)
    assert reply.status == 400
    assert reply.json["message"]
    assert world.sandbox.counters.jobs == 0


async def test_the_last_of_repeated_keys_counts(world: World) -> None:
    first = await run(world)
    body = b'{"max_age": 0, "max_age": 60}'
    assert run_of(await world.call("POST", f"/api/queries/{world.named['now']}/results", body)) == first


async def test_max_age_in_the_url_of_a_post_is_ignored(world: World) -> None:
    first = await run(world)
    reply = await world.call("POST", f"/api/queries/{world.named['now']}/results?max_age=0", {"max_age": 60})
    assert run_of(reply) == first


async def test_request_cache_control_is_ignored(world: World) -> None:
    # `max_age` is the contract; browsers send `no-cache` on every reload.
    first = await run(world)
    headers = {"Cache-Control": "no-cache", "Pragma": "no-cache"}
    path = f"/api/queries/{world.named['now']}/results"
    assert run_of(await world.call("POST", path, {"max_age": 60}, headers=headers)) == first


async def test_the_bound_is_inclusive(world: World) -> None:
    # CONTRACT 10: an age of 600 s is a hit with 600 and a miss with 599.
    first = await run(world)
    world.clock.turn(600)
    assert run_of(await rows_within(world, 600)) == first
    assert run_of(await rows_within(world, 599)) != first


async def test_age_counts_from_the_end_of_the_run_also_when_redash_had_it(world: World) -> None:
    # CONTRACT 10: `retrieved_at`. What others ran 300 s ago is 300 s old on arrival.
    behind = await world.sandbox.execute_directly(world.named["now"])
    world.clock.turn(300)
    assert (await rows_within(world, 3600)).json["query_result"]["id"] == behind.id
    reply = await rows_within(world, 300)
    assert "hit" in reply.cache
    assert reply.headers["Age"] == "300"
    assert world.started == 0
    world.clock.turn(1)
    assert (await rows_within(world, 300)).json["query_result"]["id"] != behind.id


async def test_a_restart_does_not_make_entries_younger(world: World) -> None:
    first = await run(world)
    world.clock.turn(100)
    await world.restart()
    world.clock.turn(100)
    reply = await rows_within(world, 200)
    assert run_of(reply) == first
    assert reply.headers["Age"] == "200"
    assert run_of(await rows_within(world, 199)) != first


# -- any age


async def test_any_age_sees_newer_results_of_others_after_any_age_confirm(world: World) -> None:
    # CONTRACT 19.4: others execute without the gateway, and any age means Redash's newest.
    first = await run(world)
    assert run_of(await rows_within(world, -1)) == first
    await world.sandbox.execute_directly(world.named["now"])
    asks = len(upstream_max_ages(world))
    world.clock.turn(60)
    assert run_of(await rows_within(world, -1)) == first
    assert len(upstream_max_ages(world)) == asks
    world.clock.turn(1)
    newer = await rows_within(world, -1)
    assert run_of(newer) > first
    assert upstream_max_ages(world)[asks:] == [-1]
    assert "hit" in (await rows_within(world, -1)).cache


async def test_another_post_confirms_what_is_still_the_newest(world: World) -> None:
    first = await run(world)
    for _ in range(3):
        world.clock.turn(61)
        reply = await rows_within(world)
        assert run_of(reply) == first
        assert "hit" in (await rows_within(world)).cache
    assert world.started == 1


async def test_any_age_does_not_wait_for_a_run_in_progress(world: World) -> None:
    # CONTRACT 9: Redash serves -1 from its cache meanwhile.
    first = await run(world)
    async with world.sandbox.hold():
        job = (await world.post("now", max_age=0)).job
        await world.sandbox.wait_executions(2)
        world.clock.turn(61)
        reply = await world.post("now", max_age=-1)
        assert run_of(reply) == first
    assert (await world.finish(job["id"]))["status"] == 3


async def test_latest_follows_the_definition_check(world: World) -> None:
    # "Latest" is what `latest_query_data_id` names; the definition is at most `definition_check` old.
    path = f"/api/queries/{world.named['now']}/results"
    before = (await world.get(path)).json["query_result"]["id"]
    behind = await world.sandbox.execute_directly(world.named["now"])
    world.clock.turn(30)
    assert (await world.get(path)).json["query_result"]["id"] == before
    world.clock.turn(31)
    assert (await world.get(path)).json["query_result"]["id"] == behind.id


# -- floors, ceilings, rules


async def test_a_floor_replaces_smaller_max_ages(bare: World) -> None:
    await bare.start(dashboard='floor = "30s"')
    first = await run(bare)
    bare.clock.turn(30)
    assert run_of(await rows_within(bare, 5)) == first
    bare.clock.turn(1)
    assert run_of(await rows_within(bare, 5)) != first
    assert upstream_max_ages(bare) == [30, 30]


async def test_a_forced_run_within_a_floor_gets_a_finished_job(bare: World) -> None:
    # Such clients expect ["job"] (CONTRACT 21), so a result inline would break them.
    await bare.start(dashboard='floor = "30s"')
    bare.clock.turn(60)  # Redash's own result is too old for the floor
    first = await bare.finish((await bare.post("now", max_age=0)).job["id"])
    bare.clock.turn(10)
    reply = await bare.post("now", max_age=0)
    assert reply.body.startswith(b'{"job":')
    assert (reply.job["status"], reply.job["query_result_id"]) == (3, first["query_result_id"])
    assert "hit" in reply.cache
    assert (await bare.get(f"/api/jobs/{reply.job['id']}")).job == reply.job
    assert bare.started == 1
    bare.clock.turn(21)
    again = await bare.finish((await bare.post("now", max_age=0)).job["id"])
    assert again["query_result_id"] != first["query_result_id"]


async def test_a_forced_run_with_an_inline_response_from_redash_gets_a_finished_job(bare: World) -> None:
    # The floor is sent upstream, too, so Redash may have a result that is young enough.
    await bare.start(dashboard='floor = "30s"')
    behind = await bare.sandbox.execute_directly(bare.named["now"])
    bare.clock.turn(10)
    reply = await bare.post("now", max_age=0)
    assert (reply.job["status"], reply.job["query_result_id"]) == (3, behind.id)
    assert bare.started == 0


async def test_a_ceiling_limits_any_age_and_larger_max_ages(bare: World) -> None:
    await bare.start(dashboard='ceiling = "60s"')
    first = await run(bare)
    bare.clock.turn(60)
    for max_age in (-1, None, 3600):
        assert run_of(await rows_within(bare, max_age)) == first
    bare.clock.turn(1)
    second = run_of(await rows_within(bare, -1))
    assert second != first
    assert upstream_max_ages(bare)[-1] == 60
    bare.clock.turn(61)
    assert run_of(await rows_within(bare, 3600)) != second


@pytest.mark.parametrize(
    "rule", ["queries = [{id}]", "data_sources = [1]", 'tags = ["hourly", "x"]'], ids=["query", "source", "tag"]
)
async def test_rules_apply_by_query_source_or_tag(bare: World, rule: str) -> None:
    bare.sandbox.edit_query(bare.named["now"], tags=["hourly"])
    await bare.start(extra=f'\n[[cache.rules]]\n{rule.format(id=bare.named["now"])}\nfloor = "5m"\n')
    first = await run(bare)
    bare.clock.turn(300)
    assert run_of(await rows_within(bare, 1)) == first
    bare.clock.turn(1)
    assert run_of(await rows_within(bare, 1)) != first


async def test_rules_leave_other_queries_alone(bare: World) -> None:
    await bare.start(extra='\n[[cache.rules]]\nqueries = [9999]\nfloor = "5m"\n')
    first = await run(bare)
    bare.clock.turn(10)
    assert run_of(await rows_within(bare, 1)) != first


async def test_the_first_matching_rule_applies_and_clients_come_before_rules(bare: World) -> None:
    rules = f"""
[[cache.rules]]
queries = [{bare.named["now"]}]
floor = "100s"
[[cache.rules]]
data_sources = [1]
floor = "500s"
"""
    await bare.start(extra=rules, cache='floor = "1d"', second='floor = "20s"')
    first = await run(bare)
    bare.clock.turn(100)
    assert run_of(await rows_within(bare, 1)) == first  # 100 s by the first rule
    assert run_of(await rows_within(bare, 1, client="second")) != first  # 20 s by its own table
    bare.clock.turn(101)
    assert run_of(await rows_within(bare, 1)) != first


# -- edits in Redash


async def test_an_edit_is_seen_after_definition_check_at_the_latest(world: World) -> None:
    # CONTRACT 19.3: `updated_at` is the only marker, and Redash does not announce edits.
    await world.rows("never_run", max_age=0)
    world.sandbox.edit_query(world.named["never_run"], query="select 8 as never_run_value")
    world.clock.turn(61)
    reply = await rows_within(world, 3600, "never_run")
    assert reply.rows == [{"never_run_value": 8}]


async def test_from_half_a_check_on_the_definition_is_refreshed_in_the_background(world: World) -> None:
    await world.rows("never_run", max_age=0)
    await rows_within(world, 3600, "never_run")  # the end of a run invalidated the definition; now it is valid
    world.sandbox.edit_query(world.named["never_run"], query="select 8 as never_run_value")
    world.clock.turn(30)
    questions = world.sandbox.counters.by_route[f"GET {DEFINITION_ROUTE}"]
    assert (await rows_within(world, 3600, "never_run")).rows == [{"never_run_value": 7}]
    assert world.sandbox.counters.by_route[f"GET {DEFINITION_ROUTE}"] == questions
    world.clock.turn(15)
    assert (await rows_within(world, 3600, "never_run")).rows == [{"never_run_value": 7}]
    await world.sandbox.wait_until(lambda: world.sandbox.counters.by_route[f"GET {DEFINITION_ROUTE}"] == questions + 1)
    await idle(world)
    assert (await rows_within(world, 3600, "never_run")).rows == [{"never_run_value": 8}]


async def test_old_sql_is_not_shown_again_when_an_edit_is_taken_back(world: World) -> None:
    # The marker changes with every edit (CONTRACT 5); Redash itself finds the old result by its hash (CONTRACT 11).
    await world.rows("never_run", max_age=0)
    for text in ("select 8 as never_run_value", "select 7 as never_run_value"):
        world.sandbox.edit_query(world.named["never_run"], query=text)
    world.clock.turn(61)
    reply = await rows_within(world, 3600, "never_run")
    assert reply.rows == [{"never_run_value": 7}]
    assert world.started == 1  # Redash had it: requested, not run


async def test_an_edit_through_the_gateway_is_seen_at_once(world: World) -> None:
    await world.rows("never_run", max_age=0)
    await rows_within(world, 3600, "never_run")
    path = f"/api/queries/{world.named['never_run']}"
    assert (await world.call("POST", path, {"query": "select 9 as never_run_value"}, client="writer")).status == 200
    assert (await rows_within(world, 3600, "never_run")).rows == [{"never_run_value": 9}]


async def test_an_edit_during_a_run_does_not_adopt_old_rows(world: World) -> None:
    # The rows belong to the definition that was in force before the POST was sent.
    async with world.sandbox.hold():
        job = (await world.post("never_run", max_age=0)).job
        await world.sandbox.wait_executions(1)
        world.sandbox.edit_query(world.named["never_run"], query="select 8 as never_run_value")
    assert (await world.finish(job["id"]))["status"] == 3
    assert (await rows_within(world, 3600, "never_run")).rows == [{"never_run_value": 8}]


# -- refusals


def close(world: World) -> None:
    """Take the analysts' group off the shop's source: permission changes act at once (CONTRACT 1)."""
    group = next(group.id for group in world.sandbox.database.groups.values() if group.name == "Analysts")
    world.sandbox.database.sources[1].groups.pop(group)


async def test_a_refusal_denies_results_also_by_id(world: World) -> None:
    await run(world)
    result_id = (await rows_within(world, 3600)).json["query_result"]["id"]
    close(world)
    world.clock.turn(61)
    refused = await world.post("now", max_age=3600)
    assert refused.status == 403
    assert refused.job["status"] == 4  # the shape of a refusal to execute (CONTRACT 3)
    for path in (f"/api/queries/{world.named['now']}/results/{result_id}.json", f"/api/query_results/{result_id}"):
        assert (await world.get(path)).status == 403
    assert (await world.get(f"/api/queries/{world.named['now']}/results")).status == 403


async def test_a_refusal_in_the_background_denies_from_then_on(world: World) -> None:
    await run(world)
    await rows_within(world, 3600)
    close(world)
    world.clock.turn(45)
    questions = world.sandbox.counters.by_route[f"GET {DEFINITION_ROUTE}"]
    assert (await world.post("now", max_age=3600)).status == 200
    await world.sandbox.wait_until(lambda: world.sandbox.counters.by_route[f"GET {DEFINITION_ROUTE}"] == questions + 1)
    async with world.session.get(f"{world.admin}/livez"):
        pass  # the response to that request was read before this one is finished
    assert (await world.post("now", max_age=3600)).status == 403


async def test_a_deleted_query_denies_its_results(world: World) -> None:
    await run(world)
    result_id = (await rows_within(world, 3600)).json["query_result"]["id"]
    world.sandbox.database.queries.pop(world.named["now"])
    world.clock.turn(61)
    assert (await world.post("now", max_age=3600)).status == 404
    assert (await world.get(f"/api/queries/{world.named['now']}/results/{result_id}.json")).status == 404


async def test_a_refusal_to_one_key_does_not_affect_others(world: World) -> None:
    await run(world)
    await rows_within(world, 3600, client="writer")
    close(world)
    world.clock.turn(61)
    assert (await world.post("now", max_age=3600)).status == 403
    assert "hit" in (await world.post("now", client="writer", max_age=3600)).cache


async def test_a_refusal_is_never_replaced_by_a_stale_result(bare: World) -> None:
    await bare.start(cache='stale_if_error = "1d"\nstale_while_revalidate = "1d"')
    await run(bare)
    await rows_within(bare, 3600)
    close(bare)
    bare.clock.turn(4000)
    assert (await bare.post("now", max_age=60)).status == 403


# -- stale while Redash is unavailable


async def make_stale(world: World, seconds: float = 100) -> int:
    first = await run(world)
    await rows_within(world, 3600)
    world.clock.turn(seconds)
    return first


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("reset_before_headers", 0),
        ("reset_after_headers", 0),
        ("reset_in_body", 0),
        ("truncate", 0),
        ("hang", 0),
        ("status", 502),
        ("status", 503),
        ("status", 504),
    ],
)
async def test_transport_errors_get_a_stale_result(bare: World, kind: str, status: int) -> None:
    await bare.start(upstream='read_timeout = "300ms"')
    first = await make_stale(bare)
    bare.sandbox.faults.add(kind, route=POST_ROUTE, method="POST", status=status or 503)
    reply = await rows_within(bare, 60)
    assert run_of(reply) == first
    assert reply.cache == "redash-gateway; hit; ttl=-40; detail=stale-if-error"
    assert reply.headers["Age"] == "100"


async def test_an_unreachable_redash_gets_a_stale_result(world: World) -> None:
    # Redash does not respond at all: the definition check fails, too, and the known definition stays in force.
    first = await make_stale(world, 500)
    await world.sandbox.disconnect()
    for max_age in (60, -1):
        reply = await rows_within(world, max_age)
        assert run_of(reply) == first
        assert "stale-if-error" in reply.cache
    await world.sandbox.reconnect()


async def test_an_open_breaker_gets_a_stale_result(bare: World) -> None:
    await bare.start(upstream='breaker_failures = 1\nbreaker_reset = "10m"')
    first = await make_stale(bare)
    bare.sandbox.faults.add("status", status=503, route=POST_ROUTE, method="POST")
    for _ in range(2):
        assert "stale-if-error" in (await rows_within(bare, 60)).cache
    assert run_of(await rows_within(bare, 60)) == first
    assert bare.sandbox.counters.posts[bare.named["now"]] <= 3


async def test_results_by_id_and_latest_are_served_while_redash_is_unavailable(world: World) -> None:
    await run(world)
    result_id = (await rows_within(world, 3600)).json["query_result"]["id"]
    nested = f"/api/queries/{world.named['now']}/results/{result_id}.json"
    world.clock.turn(500)
    await world.sandbox.disconnect()
    for path in (nested, f"/api/query_results/{result_id}", f"/api/queries/{world.named['now']}/results"):
        assert (await world.get(path)).json["query_result"]["id"] == result_id
    await world.sandbox.reconnect()


@pytest.mark.parametrize(
    ("kind", "status", "answered"), [("status", 500, (500, 502)), ("html", 0, (502,)), ("garbage", 0, (502,))]
)
async def test_other_failures_get_no_stale_result(
    world: World, kind: str, status: int, answered: tuple[int, ...]
) -> None:
    # 500 is Redash's usual response to bad input (CONTRACT 3), and nonsense is not an outage.
    await make_stale(world)
    world.sandbox.faults.add(kind, route=POST_ROUTE, method="POST", status=status or 503)
    reply = await rows_within(world, 60)
    assert reply.status in answered
    assert "hit" not in reply.cache


async def test_a_demanded_run_never_gets_a_stale_result(world: World) -> None:
    await make_stale(world, 10)
    world.sandbox.faults.add("status", status=503, route=POST_ROUTE, method="POST")
    reply = await rows_within(world, 0)
    assert reply.status == 502
    assert reply.json["message"]


async def test_a_demanded_run_within_a_floor_may_get_a_stale_result(bare: World) -> None:
    # The *effective* max_age decides.
    await bare.start(dashboard='floor = "30s"')
    await make_stale(bare, 40)
    bare.sandbox.faults.add("status", status=503, route=POST_ROUTE, method="POST")
    reply = await bare.post("now", max_age=0)
    assert reply.job["status"] == 3
    assert "stale-if-error" in reply.cache


async def test_the_window_of_stale_if_error_ends(bare: World) -> None:
    # Counted from when the entry stopped being acceptable: 60 s of max_age and 100 s of window. RFC 5861.
    await bare.start(cache='stale_if_error = "100s"')
    await make_stale(bare, 160)
    bare.sandbox.faults.add("status", status=503, route=POST_ROUTE, method="POST")
    assert (await rows_within(bare, 60)).status == 200
    bare.clock.turn(1)
    assert (await rows_within(bare, 60)).status == 502


async def test_clients_have_their_own_windows(bare: World) -> None:
    await bare.start(cache='stale_if_error = "0s"', second='stale_if_error = "1d"')
    await make_stale(bare)
    bare.sandbox.faults.add("status", status=503, route=POST_ROUTE, method="POST")
    assert (await rows_within(bare, 60)).status == 502
    assert (await rows_within(bare, 60, client="second")).status == 200


# -- stale while revalidating


async def test_stale_while_revalidate_responds_at_once_and_runs_once_in_the_background(bare: World) -> None:
    await bare.start(cache='stale_while_revalidate = "100s"')
    first = await make_stale(bare, 90)
    hold = bare.sandbox.hold()
    for _ in range(3):
        reply = await bare.post("now", max_age=60)
        assert run_of(reply) == first
        assert reply.cache == "redash-gateway; hit; ttl=-30; detail=stale-while-revalidate"
        assert reply.headers["Age"] == "90"
    hold.release()
    await bare.sandbox.wait_finished(2)
    await idle(bare)
    assert bare.started == 2
    reply = await bare.post("now", max_age=60)
    assert "; hit; ttl=60" in reply.cache
    assert run_of(reply) != first


async def test_beyond_the_window_callers_wait_for_the_run(bare: World) -> None:
    await bare.start(cache='stale_while_revalidate = "10s"')
    first = await make_stale(bare, 71)
    assert run_of(await rows_within(bare, 60)) != first


async def test_a_demanded_run_gets_no_stale_result_while_revalidating(bare: World) -> None:
    await bare.start(cache='stale_while_revalidate = "100s"')
    first = await make_stale(bare, 1)
    assert run_of(await rows_within(bare, 0)) != first


# -- Redash's clock


@pytest.mark.parametrize("skew", [3600.0, -3600.0, 30.0])
async def test_a_redash_whose_clock_is_wrong_gives_rows_of_the_right_age(world: World, skew: float) -> None:
    # Its `Date` shows its clock: the age on arrival is by that where the two differ by more than 2 s.
    world.sandbox.faults.clock_skew = skew
    first = await run(world)
    world.clock.turn(58)
    reply = await rows_within(world, 60)
    assert run_of(reply) == first
    assert 58 <= int(reply.headers["Age"]) <= 60
    world.clock.turn(3)
    assert run_of(await rows_within(world, 60)) != first


async def test_a_clock_that_jumps_after_the_fetch_changes_no_age(world: World) -> None:
    # After arrival, ages are counted by the gateway's own monotonic clock.
    first = await run(world)
    world.sandbox.faults.clock_skew = 86_400.0
    world.clock.turn(10)
    reply = await rows_within(world, 60)
    assert (run_of(reply), reply.headers["Age"]) == (first, "10")


async def test_a_late_check_does_not_delay_a_stored_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN 6: a check that is later than 2 s leaves the known definition in force; it goes on, and then acts."""
    monkeypatch.setattr(definitions, "LATE_SECONDS", 0.05)
    first = await run(world)
    late = world.sandbox.faults.add("hang", route=DEFINITION_ROUTE, count=1)
    world.clock.turn(61)
    reply = await rows_within(world, 600)
    assert "hit" in reply.cache
    assert run_of(reply) == first
    world.sandbox.queries[world.named["now"]].org = 2  # Redash shows it to nobody any more
    late.release()
    await until(lambda: not flights(world.runtime.results.definitions))
    assert (await rows_within(world, 600)).status == 404
