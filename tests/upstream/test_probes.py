"""While Redash is away, one request at a time tries whether it is back: it keeps nobody who has something stored.

With a Redash that hangs, such a probe lasts for seconds, and comes again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from unittest import mock

import pytest
from support.fault_proxy import Fault, FaultProxy
from support.http import Reply
from support.inside import canary_after, is_at_rest
from support.waiting import until, within
from support.world import World

AT_ONCE = 3.0
"""Seconds, on a busy machine; whoever waits for the probe waits for much longer here."""


@pytest.fixture(autouse=True)
def long_probes() -> Iterator[None]:
    """The end of a probe that hangs is far away: it takes 2 s in earnest."""
    with (
        canary_after(30.0),
        mock.patch("gateway.results.definitions.LATE_SECONDS", 30.0),
        mock.patch("gateway.results.pauses.LATE_SECONDS", 30.0),
    ):
        yield


async def away(world: World, proxy: FaultProxy) -> Fault:
    """Let Redash be known to be away since longer than `breaker_reset`, and hang from now on."""
    proxy.add("reset")
    assert (await world.get("/api/queries/my")).status == 502
    proxy.clear()
    world.clock.turn(31)
    breaker = world.runtime.upstream.breaker
    assert breaker.is_tripped
    assert not breaker.is_open
    return proxy.add("hang")


def posts(proxy: FaultProxy) -> list[tuple[str, str]]:
    """The runs that were requested from Redash."""
    return [request for request in proxy.forwarded if request[0] == "POST"]


async def begin(world: World, *, cache: str = "") -> None:
    """Start a gateway, and store all that the tests request."""
    await world.start(cache=f'stale_if_error = "1h"\n{cache}', upstream='breaker_failures = 1\nbreaker_reset = "30s"')
    for kind in KINDS:
        assert (await ask(world, kind)).status == 200, kind
    world.clock.turn(120)


KINDS = ("fresh", "stale", "waiting", "any age", "json", "csv", "latest csv", "sql", "query key", "list", "object")
"""In an order in which all stay stored: a run drops lists."""


async def ask(world: World, kind: str) -> Reply:
    """Send a request of one kind; all but the fresh ones accept no result that is older than a minute."""
    query_id = world.named["by_country"]
    match kind:
        case "fresh":
            return await world.post(query_id, max_age=3600)
        case "stale":
            return await world.post(query_id, max_age=60)
        case "waiting":
            return await world.post(query_id, max_age=60, wait=20)
        case "any age":
            return await world.post(query_id)
        case "sql":
            body = {"query": "SELECT 1 AS one", "data_source_id": 1, "max_age": 60}
            headers = {"Prefer": "wait=20"}
            return await world.call("POST", "/api/query_results", body, client="sql", headers=headers)
        case "query key":
            values = {"country": "DE"}
            return await world.post("in_country", client="narrow", max_age=60, wait=20, parameters=values)
    paths = {
        "json": f"/api/queries/{query_id}/results.json?max_age=60",
        "csv": f"/api/queries/{query_id}/results.csv?max_age=60",
        "latest csv": f"/api/queries/{query_id}/results.csv",
        "list": "/api/queries",
        "object": f"/api/queries/{query_id}",
    }
    return await world.get(paths[kind])


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_stored_is_served_at_once_while_the_probe_goes_on(
    behind: World, proxy: FaultProxy, kind: str
) -> None:
    await begin(behind)
    hang = await away(behind, proxy)
    async with within(AT_ONCE):
        first = await ask(behind, kind)
        await until(lambda: hang.hits == 1)
        others = await asyncio.gather(*(ask(behind, kind) for _ in range(5)))
    assert {reply.status for reply in (first, *others)} == {200}
    assert not [reply for reply in others if reply.body.startswith(b'{"job"')]
    assert hang.hits == 1, "there is one probe"
    assert behind.runtime.upstream.breaker.is_tripped


@pytest.mark.parametrize("probe", ["stale", "list", "sql"])
async def test_a_probe_of_one_kind_keeps_no_other(behind: World, proxy: FaultProxy, probe: str) -> None:
    await begin(behind)
    hang = await away(behind, proxy)
    async with within(AT_ONCE):
        await ask(behind, probe)
        await until(lambda: hang.hits == 1)
        replies = await asyncio.gather(*(ask(behind, kind) for kind in KINDS))
    assert {reply.status for reply in replies} == {200}


async def test_the_probe_of_a_caller_who_has_nothing_stored_keeps_nobody_else(behind: World, proxy: FaultProxy) -> None:
    """It reads the definition of the same query: whoever has a result of that query must not wait for it, too."""
    await begin(behind)
    hang = await away(behind, proxy)
    waiting = asyncio.create_task(behind.post("by_country", max_age=0, wait=30))
    await until(lambda: hang.hits == 1)
    async with within(AT_ONCE):
        replies = await asyncio.gather(*(ask(behind, kind) for kind in ("fresh", "stale", "csv")))
    assert {reply.status for reply in replies} == {200}
    assert not waiting.done(), "it waits, as before"
    proxy.clear()
    await asyncio.gather(waiting)


async def test_a_caller_who_has_nothing_stored_is_the_probe_itself(behind: World, proxy: FaultProxy) -> None:
    await begin(behind)
    await away(behind, proxy)
    proxy.clear()
    assert (await behind.rows("kb1", max_age=0)) is not None
    assert not behind.runtime.upstream.breaker.is_tripped


@pytest.mark.parametrize("kind", ["fresh", "stale", "list", "sql"])
async def test_the_probe_in_the_background_finds_that_redash_is_back(
    behind: World, proxy: FaultProxy, kind: str
) -> None:
    await begin(behind)
    await away(behind, proxy)
    proxy.clear()
    assert (await ask(behind, kind)).status == 200
    await until(lambda: not behind.runtime.upstream.breaker.is_tripped)
    await until(lambda: is_at_rest(behind.runtime))


async def test_where_no_definition_needs_a_check_a_run_is_the_probe(behind: World, proxy: FaultProxy) -> None:
    """Else an outage that only the canary still sees would never end for those with a long `definition_check`."""
    await begin(behind, cache='definition_check = "1d"')
    await away(behind, proxy)
    proxy.clear()
    reply = await ask(behind, "stale")
    assert "stale-if-error" in reply.cache
    await until(lambda: not behind.runtime.upstream.breaker.is_tripped)
    await until(lambda: is_at_rest(behind.runtime))
    assert ("POST", f"/api/queries/{behind.named['by_country']}/results") == posts(proxy)[-1]


async def test_a_refusal_acts_when_the_probe_brings_it(behind: World, proxy: FaultProxy) -> None:
    await begin(behind)
    await away(behind, proxy)
    proxy.clear()
    source = behind.sandbox.queries[behind.named["by_country"]].data_source_id
    behind.sandbox.database.sources[source].groups.clear()
    assert (await ask(behind, "stale")).status == 200
    await until(lambda: is_at_rest(behind.runtime))
    assert (await ask(behind, "stale")).status == 403


async def test_who_waits_for_a_check_leaves_when_redash_is_known_to_be_away(behind: World, proxy: FaultProxy) -> None:
    """They came before the outage was known; the end of their check may be far away."""
    await behind.start(cache='stale_if_error = "1h"')
    await behind.rows("by_country", max_age=0)
    behind.clock.turn(120)
    hang = proxy.add("hang")
    waiting = asyncio.create_task(behind.post("by_country", max_age=3600))
    await until(lambda: hang.hits == 1)
    with canary_after(0.05):
        other = asyncio.create_task(behind.get("/api/queries/my"))
        async with within(AT_ONCE):
            assert "hit" in (await waiting).cache
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


async def test_no_caller_has_to_try_after_a_canary_that_has_hung(behind: World, proxy: FaultProxy) -> None:
    """It takes a while itself: `breaker_reset` counts from its end, or the breaker was half-open after each of them."""
    await behind.start(upstream='breaker_failures = 1\nbreaker_reset = "1s"')
    breaker, canaries = behind.runtime.upstream.breaker, proxy.add("hang", "^/api/session")
    proxy.add("reset")
    assert (await behind.get("/api/queries/my")).status == 502
    await until(lambda: canaries.hits == 1)
    behind.clock.turn(2)
    assert not breaker.is_open
    proxy.clear()  # ends it without a response
    async with within(0.5):
        await until(lambda: breaker.is_open)
