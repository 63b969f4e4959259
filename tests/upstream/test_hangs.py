"""A Redash, or a proxy before it, that accepts requests and never ends its response, in any way: no wait is for ever,
and what is cached is served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from unittest import mock

import pytest
from support.fault_proxy import BROKEN, FaultProxy
from support.http import Reply
from support.inside import canary_after, is_at_rest, request_patience, retrying_every
from support.waiting import until, within
from support.world import World

SHORT = 'read_timeout = "300ms"\nbreaker_failures = 1000'
"""Every response is there after this time, or an error; the breaker is of no matter."""

ENDLESS = ("hang", "stall", "half_close", "malformed_chunk", "endless")
HOUR = 'stale_if_error = "1h"'
DEFINITION = r"^/api/queries/\d+$"
SESSION = "^/api/session"
RUN = r"^/api/queries/\d+/results$"


@pytest.fixture
def soon() -> Iterator[None]:
    """The canary is asked after a tenth of a second, and is given as long."""
    with canary_after(0.1):
        yield


async def fresh_and_stale(world: World) -> None:
    """Store a result that is fresh for a `max_age` of an hour, and stale for one of a minute."""
    await world.rows("by_country", max_age=0)
    world.clock.turn(120)


async def known_to_hang(world: World, proxy: FaultProxy) -> None:
    """Let Redash hang, and a caller meet that."""
    proxy.add("hang")
    caller = asyncio.create_task(world.get("/api/queries"))
    await until(lambda: world.runtime.upstream.breaker.is_open)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)


# -- each response ends


PATHS = ("plain", "waiting", "file", "list", "result", "write", "live")


async def ask(world: World, path: str) -> Reply:
    """Send a request of one kind."""
    query_id = world.named["by_country"]
    if path in ("plain", "waiting"):
        return await world.post(query_id, max_age=0, wait=30 if path == "waiting" else None)
    if path == "write":
        return await world.call("POST", f"/api/queries/{query_id}", {"name": "x"}, client="writer")
    targets = {
        "file": f"/api/queries/{query_id}/results.csv?max_age=60",
        "list": "/api/queries",
        "result": f"/api/queries/{query_id}/results.csv",
        "live": "/api/queries/my",
    }
    return await world.get(targets[path])


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (kind, path)
        for kind in (*BROKEN, *ENDLESS, "slow_head", "throttle")
        for path in PATHS
        if kind != "no_csv" or path in ("file", "result")
    ],
)
async def test_every_broken_response_ends_in_time_and_leaves_nothing(
    behind: World, proxy: FaultProxy, kind: str, path: str
) -> None:
    """Whatever the HTTP library does with it: a problem in `read_timeout`, never an internal error."""
    await behind.start(upstream=SHORT)
    proxy.add(kind, at=40, seconds=2.0 if kind in ("slow_head", "throttle") else 0.0)
    async with within(5.0):
        reply = await ask(behind, path)
    assert reply.status in (502, 504), reply.body
    proxy.clear()
    await until(lambda: is_at_rest(behind.runtime))
    assert (await behind.get("/api/queries")).status == 200


@pytest.mark.parametrize("kind", [*BROKEN, "hang", "stall", "half_close", "malformed_chunk"])
@pytest.mark.parametrize("path", ["^/api/jobs/", r"^/api/query_results/\d+"])
async def test_a_run_outlives_every_broken_response(behind: World, proxy: FaultProxy, kind: str, path: str) -> None:
    await behind.start(upstream='read_timeout = "2s"\nbreaker_failures = 1000')
    proxy.add(kind, path, count=2, at=40)
    with retrying_every(0.05):
        reply = await behind.post("by_country", max_age=0, wait=30)
    assert reply.rows
    assert behind.started == 1
    await until(lambda: is_at_rest(behind.runtime))


async def test_a_response_that_drips_ends_for_all_who_wait_for_it(behind: World, proxy: FaultProxy) -> None:
    """Each piece comes within `read_timeout`: a definition check of this kind held every caller for 15 minutes."""
    await behind.start(upstream=SHORT)
    drip = proxy.add("throttle", DEFINITION, seconds=30.0)
    async with within(5.0):
        replies = await asyncio.gather(*(behind.post("by_country", max_age=60) for _ in range(3)))
    assert {reply.status for reply in replies} == {504}
    assert drip.hits == 1


async def test_a_large_result_may_take_longer_than_one_wait(behind: World, proxy: FaultProxy) -> None:
    # Each of its pieces has `read_timeout`; all of them together would be a limit of its size.
    await behind.start(upstream='read_timeout = "1s"')
    result_id = behind.sandbox.queries[behind.named["large"]].latest_query_data_id
    assert result_id is not None
    await asyncio.to_thread(behind.sandbox.database.results[result_id].full)  # makes the rows
    proxy.add("throttle", r"/results\.json", seconds=2.5)
    assert (await behind.get(f"/api/queries/{behind.named['large']}/results.json")).status == 200


# -- Redash accepts and never answers


async def test_a_hang_is_known_as_soon_as_the_canary_is_silent_too(
    behind: World, proxy: FaultProxy, soon: None
) -> None:
    await behind.start(cache=HOUR)
    await fresh_and_stale(behind)
    hang = proxy.add("hang")
    async with within(5.0):
        reply = await behind.post("by_country", max_age=60)
    assert "stale-if-error" in reply.cache
    assert await behind.metric("redash_gateway_breaker_open") == 1
    seen = hang.hits
    for max_age in (3600, 60):
        assert "hit" in (await behind.post("by_country", max_age=max_age)).cache
    assert (await behind.post("kb1", max_age=3600)).status == 503
    assert hang.hits == seen  # nobody waits for Redash any more


async def test_a_request_that_is_slow_by_itself_is_no_hang(behind: World, proxy: FaultProxy, soon: None) -> None:
    await behind.start()
    await behind.get("/api/session")
    proxy.add("delay", "^/api/dashboards", seconds=1.0)
    assert (await behind.get("/api/dashboards")).status == 200
    assert await behind.metric("redash_gateway_breaker_open") == 0
    assert ("GET", "/api/session") in proxy.forwarded[1:]


async def test_a_canary_that_is_silent_alone_is_no_hang(behind: World, proxy: FaultProxy, soon: None) -> None:
    """As long as others get their responses, Redash works: only its session, or one more route, is slow."""
    await behind.start()
    await behind.get("/api/session")
    proxy.add("hang", SESSION)
    proxy.add("delay", "^/api/dashboards", seconds=1.0)
    slow = asyncio.create_task(behind.get("/api/dashboards"))
    while not slow.done():
        assert (await behind.get("/api/queries/" + str(behind.named["kb1"]))).status == 200
        behind.clock.turn(10)  # so that the next one goes to Redash, too
        await asyncio.sleep(0.02)
    assert (await slow).status == 200
    assert await behind.metric("redash_gateway_breaker_open") == 0


async def test_query_keys_alone_notice_a_hang(behind: World, proxy: FaultProxy, soon: None) -> None:
    # They have no session: the definition of the key's own query is the canary.
    await behind.start(cache=HOUR)
    await behind.rows("in_country", client="narrow", max_age=0, parameters={"country": "DE"})
    behind.clock.turn(120)
    proxy.add("hang")
    async with within(5.0):
        reply = await behind.post("in_country", client="narrow", max_age=60, parameters={"country": "DE"})
    assert "stale-if-error" in reply.cache


async def test_a_gateway_that_starts_before_a_redash_that_hangs_serves_what_is_stored(
    behind: World, proxy: FaultProxy, soon: None
) -> None:
    await behind.start(cache=HOUR)
    await fresh_and_stale(behind)
    await behind.stop()
    proxy.add("hang")
    await behind.resume()
    async with within(5.0):
        replies = [await behind.post("by_country", max_age=age) for age in (3600, 60)]
    assert [reply.status for reply in replies] == [200, 200]


async def test_fresh_results_do_not_wait_for_a_check_that_is_late_already(behind: World, proxy: FaultProxy) -> None:
    """One caller has waited for it as long as one may; the next ones must not wait as long again, each of them."""
    await behind.start(upstream="breaker_failures = 1000")
    await fresh_and_stale(behind)
    late = proxy.add("hang", DEFINITION)
    with mock.patch("gateway.results.definitions.LATE_SECONDS", 0.4):
        await behind.post("by_country", max_age=3600)
        async with within(0.35):
            reply = await behind.post("by_country", max_age=3600)
    assert "hit" in reply.cache
    assert late.hits == 1


async def test_lists_and_objects_are_served_stale_once_the_hang_is_known(
    behind: World, proxy: FaultProxy, soon: None
) -> None:
    await behind.start(cache=HOUR)
    await behind.get("/api/queries")
    behind.clock.turn(60)
    proxy.add("hang")
    async with within(5.0):
        first = await behind.get("/api/queries")
        second = await behind.get("/api/queries")
    assert ["stale-if-error" in reply.cache for reply in (first, second)] == [True, True]


async def test_a_queue_that_stands_still_because_redash_hangs_is_an_outage(
    behind: World, proxy: FaultProxy, soon: None
) -> None:
    """All slots are taken by requests without a response: what is stale stands in, as while Redash is unavailable.

    Here the canary alone is answered, so that the breaker stays closed.
    """
    await behind.start(cache=HOUR, upstream='max_requests = 1\nqueue_timeout = "200ms"\nbreaker_failures = 1000')
    await fresh_and_stale(behind)
    await behind.get(f"/api/queries/{behind.named['by_country']}")
    proxy.add("hang", "^(?!/api/session)")
    holder = asyncio.create_task(behind.get("/api/dashboards"))
    await until(lambda: not behind.runtime.upstream.slots.free())
    async with within(5.0):
        reply = await behind.post("by_country", max_age=60)
        other = await behind.get("/api/data_sources")
    assert "stale-if-error" in reply.cache
    assert other.status == 504
    proxy.clear()
    await holder


async def test_a_queue_that_is_only_long_is_no_outage(behind: World, proxy: FaultProxy) -> None:
    await behind.start(upstream='max_requests = 1\nqueue_timeout = "400ms"\nbreaker_failures = 1')
    proxy.add("delay", seconds=0.3)
    paths = ("/api/queries", "/api/dashboards", "/api/data_sources", "/api/queries/tags", "/api/session")
    replies = await asyncio.gather(*(behind.get(path) for path in paths))
    assert {reply.status for reply in replies} == {200, 503}
    assert await behind.metric("redash_gateway_breaker_open") == 0


async def test_a_queue_of_runs_that_stands_still_because_redash_hangs_is_an_outage(
    behind: World, proxy: FaultProxy, soon: None
) -> None:
    await behind.start(cache=HOUR, upstream='max_executions = 1\nqueue_timeout = "300ms"\nbreaker_failures = 1000')
    await fresh_and_stale(behind)
    async with behind.sandbox.hold():
        await behind.post("above", max_age=0, parameters={"min_amount": 7})
        proxy.add("hang", "^/api/jobs/")
        async with within(5.0):
            reply = await behind.post("by_country", max_age=60, wait=20)
        assert "stale-if-error" in reply.cache
    proxy.clear()


async def test_those_in_the_queue_leave_when_the_hang_is_known(behind: World, proxy: FaultProxy, soon: None) -> None:
    await behind.start(upstream="max_requests = 2")
    proxy.add("hang")
    paths = ("/api/queries", "/api/dashboards", "/api/data_sources", "/api/queries/tags", "/api/session")
    calls = [asyncio.create_task(behind.get(path)) for path in paths]
    async with within(5.0):
        queued = [await call for call in calls[2:]]
    assert {reply.status for reply in queued} == {503}
    proxy.clear()
    await asyncio.gather(*calls[:2])


# -- `max_wait` is the longest that one request waits for Redash, in all its steps together


@pytest.mark.parametrize("path", PATHS)
async def test_no_response_takes_longer_than_max_wait(behind: World, proxy: FaultProxy, path: str) -> None:
    """The first definition of a query hung for `read_timeout` and more, whatever the caller was ready to wait."""
    await behind.start(upstream="breaker_failures = 1000")
    proxy.add("hang")
    with request_patience(0.3):
        async with within(3.0):
            reply = await ask(behind, path)
    assert reply.status == 504, reply.body


async def test_all_steps_together_take_no_longer_than_max_wait(behind: World, proxy: FaultProxy) -> None:
    """Each of them alone would be quick enough: definition, POST, run and file."""
    await behind.start(server='max_wait = "600ms"', upstream="breaker_failures = 1000")
    proxy.add("delay", seconds=0.4)
    with mock.patch("gateway.policy.context.LEAST_SECONDS", 0.0):
        began = asyncio.get_running_loop().time()
        reply = await behind.get(f"/api/queries/{behind.named['above']}/results.csv?p_min_amount=7&max_age=0")
        took = asyncio.get_running_loop().time() - began
    assert reply.status in (307, 504)
    assert took < 1.2  # they take 2 s


async def test_a_stale_result_is_used_when_the_time_is_up(behind: World, proxy: FaultProxy) -> None:
    # Nothing has shown a hang before: only this POST gets no response.
    await behind.start(cache=HOUR)
    await fresh_and_stale(behind)
    proxy.add("hang", RUN, method="POST")
    with request_patience(3.0):
        async with within(5.0):
            reply = await behind.post("by_country", max_age=60)
    assert "stale-if-error" in reply.cache


# -- and comes back


async def test_the_canary_closes_the_breaker_and_no_caller_has_to_try(
    behind: World, proxy: FaultProxy, soon: None
) -> None:
    await behind.start(upstream='breaker_reset = "300ms"', cache=HOUR)
    await fresh_and_stale(behind)
    await known_to_hang(behind, proxy)
    proxy.stop()
    before = len(proxy.forwarded)
    await until(lambda: not behind.runtime.upstream.breaker.is_tripped)
    assert proxy.forwarded[before:] == [("GET", "/api/session")]
    assert (await behind.post("by_country", max_age=0)).status == 200


async def test_what_hangs_since_the_outage_is_sent_again_when_it_is_over(
    behind: World, proxy: FaultProxy, soon: None
) -> None:
    """Its connection is dead: callers that come later must not wait for it, too."""
    await behind.start(upstream='breaker_reset = "300ms"')
    await behind.get("/api/session")
    hang = proxy.add("hang")
    hanging = asyncio.create_task(behind.post("by_country", max_age=60, wait=30))
    await until(lambda: behind.runtime.upstream.breaker.is_open)
    assert hang.hits == 2  # the definition, and the canary
    proxy.stop()
    async with within(5.0):
        assert (await hanging).status == 200


async def test_a_caller_tries_in_the_end_if_only_the_canary_fails(behind: World, proxy: FaultProxy, soon: None) -> None:
    """The canary must never keep Redash away for good: its route alone may be broken."""
    await behind.start(upstream='breaker_reset = "100ms"')
    await behind.get("/api/session")
    await known_to_hang(behind, proxy)
    proxy.stop()
    proxy.add("hang", SESSION)
    async with within(5.0):
        while (await behind.get("/api/dashboards")).status != 200:
            pass


async def test_only_one_request_tries_whether_redash_is_back(behind: World, proxy: FaultProxy) -> None:
    await behind.start(upstream='breaker_failures = 1\nbreaker_reset = "30s"')
    proxy.add("reset")
    await behind.get("/api/queries")
    proxy.clear()
    slow = proxy.add("delay", seconds=0.5)
    behind.clock.turn(31)
    paths = ("/api/queries", "/api/dashboards", "/api/data_sources", "/api/queries/tags")
    replies = await asyncio.gather(*(behind.get(path) for path in paths))
    assert sorted(reply.status for reply in replies) == [200, 503, 503, 503]
    assert slow.hits == 1


# -- what the responses say


async def test_an_error_is_never_marked_as_a_stale_result(behind: World, proxy: FaultProxy) -> None:
    """The rows are there, but their file cannot be made without Redash: this is an error, and no hit."""
    await behind.start(cache=HOUR, upstream="breaker_failures = 1000")
    path = f"/api/queries/{behind.named['by_country']}/results.csv?max_age=60"
    assert (await behind.post("by_country", max_age=0, wait=10)).status == 200
    behind.clock.turn(120)
    proxy.add("reset")
    reply: Reply = await behind.get(path)
    assert reply.status == 502
    assert "hit" not in reply.cache
    assert "stale-if-error" not in reply.cache
    assert "Age" not in reply.headers
