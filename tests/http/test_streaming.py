"""Large responses are sent while they arrive: to every waiting caller, at its own pace, whole or visibly broken."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.calls import TOKENS
from support.http import exchange
from support.large import latest, whole
from support.waiting import until
from support.world import World

from gateway.body import Body
from gateway.errors import GatewayError
from gateway.http import api
from gateway.sandbox import broken_responses
from gateway.store.body_files import BodyFiles
from gateway.store.sqlite.write_buffer import WriteBuffer
from gateway.upstream import reading as upstream

LATEST_ROUTE = "/api/queries/<query_id>/results.<filetype>"
RESULT_ROUTE = "/api/query_results/<query_result_id>.<filetype>"
POST_ROUTE = "/api/queries/<query_id>/results"
BEGINNING = 1_000_000
"""Half of 5 MB; the sandbox stalls there."""


def open_below(directory: Path, part: str) -> list[str]:
    """The files of bodies that this process has open below that folder."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(str(descriptor.readlink()))
    return [name for name in names if name.startswith(str(directory)) and part in name and not name.endswith(".own")]


def spooled(directory: Path) -> list[Path]:
    return list(directory.rglob("*.tmp"))


@asynccontextmanager
async def streamed(
    world: World, path: str, body: object = None, *, client: str = "dashboard", **headers: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A response whose head was read."""
    fields = {"Authorization": f"Key {TOKENS[client]}", **headers}
    method = "GET" if body is None else "POST"
    async with world.session.request(method, world.url + path, json=body, headers=fields) as response:
        yield response


async def begin(response: aiohttp.ClientResponse) -> bytes:
    """Read a beginning; it is there though Redash has not sent the rest."""
    async with asyncio.timeout(10):
        return await response.content.readexactly(BEGINNING)


async def test_the_beginning_is_sent_while_redash_still_sends(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=LATEST_ROUTE, count=1)
    async with streamed(world, latest(world)) as response:
        first = await begin(response)
        assert response.headers["Content-Length"] == str(len(whole(world)))
        assert (
            response.headers["Cache-Status"] == "redash-gateway; fwd=uri-miss; detail=not_stored"
        )  # whether stored: known at the end
        assert response.headers["Content-Disposition"].startswith("attachment; filename=")
        stall.release()
        assert first + await response.read() == whole(world)
    # A caller that got it whole finds it stored: its end is sent last of all.
    again = await world.get(latest(world), accept_encoding="identity")
    assert "hit" in again.cache
    assert again.body == whole(world)
    # Only its end says of when it is. That tells it from another result of its id: ids begin again after a restore.
    assert "ETag" not in response.headers
    assert "ETag" in again.headers
    assert again.headers["Content-Disposition"] == response.headers["Content-Disposition"]


async def test_callers_that_join_get_all_of_it(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=LATEST_ROUTE, count=1)
    async with streamed(world, latest(world)) as first, streamed(world, latest(world), client="second") as second:
        beginnings = await asyncio.gather(begin(first), begin(second))
        async with streamed(world, latest(world)) as third:  # joins when half of it is there
            assert third.headers["Cache-Status"] == "redash-gateway; fwd=uri-miss; collapsed; detail=not_stored"
            stall.release()
            assert await third.read() == whole(world)
        assert beginnings[0] + await first.read() == beginnings[1] + await second.read() == whole(world)
    assert world.sandbox.counters.by_route[f"GET {LATEST_ROUTE}"] == 1


async def test_a_caller_that_does_not_read_delays_no_other(world: World) -> None:
    async with streamed(world, latest(world)) as slow:
        assert (await world.get(latest(world), client="second")).body == whole(world)
        assert await slow.read() == whole(world)


async def test_a_caller_that_leaves_does_not_affect_the_others(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=LATEST_ROUTE, count=1)
    async with streamed(world, latest(world), client="second") as second:
        async with streamed(world, latest(world)) as first:
            await begin(first)
            first.close()
        stall.release()
        assert await second.read() == whole(world)
    assert "hit" in (await world.get(latest(world))).cache


async def test_a_body_that_fails_ends_with_the_connection(world: World, tmp_path: Path) -> None:
    """DESIGN 9 wants 502 for an incomplete body; once the status was sent, only closing the connection shows it."""
    world.sandbox.faults.add("truncate", route=LATEST_ROUTE)
    async with streamed(world, latest(world)) as response:
        await begin(response)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    await until(lambda: not world.runtime.upstream.slots.taken)
    failed = await world.metric("redash_gateway_requests_total", client="dashboard", status="5xx")
    refused = await world.metric("redash_gateway_rejected_total", reason="upstream_error")
    assert (failed, refused) == (1, 1)
    world.sandbox.faults.clear()
    again = await world.get(latest(world))
    assert "hit" not in again.cache
    assert again.body == whole(world)
    await until(lambda: not spooled(tmp_path))


async def test_a_body_that_fails_before_anything_was_sent_is_a_problem(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 9: 502 for an incomplete body, as long as the caller has nothing of it."""
    stall = world.sandbox.faults.add("stall_then_reset", route=LATEST_ROUTE)
    negotiate = api.negotiate

    async def failing(*arguments: Any, **named: Any) -> Any:
        response = await negotiate(*arguments, **named)
        if not isinstance(response.body, Body):
            stall.release()
            with pytest.raises(GatewayError):
                await response.body.follow(math.inf)
        return response

    monkeypatch.setattr(api, "negotiate", failing)
    reply = await world.get(latest(world))
    assert (reply.status, reply.headers["Content-Type"]) == (502, "application/problem+json")
    assert await world.metric("redash_gateway_rejected_total", reason="upstream_error") == 1
    assert (await world.get("/api/session")).status == 200  # over the same connection


async def test_a_failed_body_is_fetched_again_for_the_next_caller(world: World) -> None:
    """As for every GET. Callers that have the beginning of the first response cannot continue with another."""
    stall = world.sandbox.faults.add("stall_then_reset", route=LATEST_ROUTE, count=1)
    async with streamed(world, latest(world)) as response:
        await begin(response)
        stall.release()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert (await world.get(latest(world))).body == whole(world)
    assert world.sandbox.counters.by_route[f"GET {LATEST_ROUTE}"] == 2


async def test_an_unknown_length_is_sent_in_chunks(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=LATEST_ROUTE, chunked=True, count=1)
    async with streamed(world, latest(world)) as response:
        first = await begin(response)
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in response.headers
        stall.release()
        assert first + await response.read() == whole(world)
    # The connection serves the next request.
    assert "hit" in (await world.get(latest(world))).cache


async def test_a_chunked_body_that_fails_has_no_last_chunk(world: World) -> None:
    stall = world.sandbox.faults.add("stall_then_reset", route=LATEST_ROUTE, chunked=True, count=1)
    async with streamed(world, latest(world)) as response:
        await begin(response)
        stall.release()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_http_1_0_gets_a_length_or_waits_for_it(world: World) -> None:
    """A body that ends with its connection looks whole wherever it is cut (RFC 9112 section 8)."""
    stall = world.sandbox.faults.add("stall", route=LATEST_ROUTE, chunked=True, count=1)
    request = f"GET {latest(world)} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Key {TOKENS['dashboard']}\r\n\r\n"
    asking = asyncio.create_task(exchange(world.url, request.encode()))
    await until(lambda: stall.hits == 1)
    stall.release()
    head, _, body = (await asking).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(whole(world))}".encode() in head
    assert body == whole(world)


@pytest.mark.parametrize("form", ["csv", "tsv"])
async def test_renderings_are_sent_while_they_arrive(world: World, form: str) -> None:
    result_id = (await world.get(latest(world))).json["query_result"]["id"]
    stall = world.sandbox.faults.add("stall", route=RESULT_ROUTE, count=1)
    path = f"/api/query_results/{result_id}.{form}"
    async with streamed(world, path) as response:
        first = await begin(response)
        stall.release()
        body = first + await response.read()
    again = await world.get(path, accept_encoding="identity")
    assert "hit" in again.cache
    assert (again.body, again.headers["ETag"]) == (body, response.headers["ETag"])
    assert again.headers["Content-Disposition"] == response.headers["Content-Disposition"]


async def test_a_post_with_an_inline_result(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=POST_ROUTE, method="POST", count=1)
    async with streamed(world, f"/api/queries/{world.named['large']}/results", {"max_age": 86400}) as response:
        first = await begin(response)
        assert first.startswith(b'{"query_result":')  # clients test for this beginning
        stall.release()
        assert first + await response.read() == whole(world)
    assert "hit" in (await world.post("large", max_age=86400)).cache


async def test_a_run_that_a_caller_waits_for(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=RESULT_ROUTE, count=1)
    path = f"/api/queries/{world.named['large']}/results"
    async with streamed(world, path, {"max_age": 0}, Prefer="wait=40") as response:
        first = await begin(response)
        assert first.startswith(b'{"query_result":')
        assert response.headers["Preference-Applied"] == "wait=40"
        job = (await world.post("large", max_age=60)).job  # the job has succeeded once the result is stored
        assert job["status"] in (1, 2)
        stall.release()
        assert first + await response.read() == whole(world)
    assert (await world.finish(job["id"]))["status"] == 3
    assert world.sandbox.counters.started == 1


async def test_one_url_names_its_file_by_the_day_of_the_result(world: World) -> None:
    """The day is in the name of the file that Redash sends after a run; an inline result has none before its end."""
    path = f"{latest(world)}?max_age=0"
    stall = world.sandbox.faults.add("stall", route=RESULT_ROUTE, count=1)
    async with streamed(world, path) as response:
        first = await begin(response)
        stall.release()
        assert first + await response.read() == whole(world)
    day = json.loads(whole(world))["query_result"]["retrieved_at"][:10].replace("-", "_")
    assert f"_{day}.json" in response.headers["Content-Disposition"]


async def test_one_url_waits_for_the_day_of_an_inline_result(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=POST_ROUTE, method="POST", count=1)
    asking = asyncio.create_task(world.get(f"{latest(world)}?max_age=86400"))
    await until(lambda: any(x.arriving is not None for x in world.runtime.executions.flights.running))
    stall.release()
    reply = await asking
    assert reply.body == whole(world)
    day = reply.json["query_result"]["retrieved_at"][:10].replace("-", "_")
    assert f"_{day}.json" in reply.headers["Content-Disposition"]


async def test_one_url_as_csv_waits_for_all_of_the_rows(world: World) -> None:
    stall = world.sandbox.faults.add("stall", route=RESULT_ROUTE, count=1)
    asking = asyncio.create_task(world.get(f"{latest(world, 'csv')}?max_age=0"))
    await until(lambda: any(x.arriving is not None for x in world.runtime.executions.flights.running))
    stall.release()
    reply = await asking
    assert reply.status == 200
    assert reply.body.count(b"\r\n") == 1 + len(json.loads(whole(world))["query_result"]["data"]["rows"])


async def test_rows_of_other_sql_are_not_shown(world: World) -> None:
    """CONTRACT 7: Redash's cache ignores white space. The SQL stands before the rows, so it is checked in time."""
    query = world.sandbox.queries[world.named["large"]].query
    one, two = (query.replace("o.note\n", f"o.note, '{text}' as shown\n", 1) for text in ("a b", "a  b"))
    asked_for = {"data_source_id": 1, "max_age": 86400, "parameters": {}}
    for text in (one, two):
        reply = await world.call(
            "POST", "/api/query_results", {"query": text, **asked_for}, client="sql", headers={"Prefer": "wait=60"}
        )
        assert reply.json["query_result"]["query"] == text
    assert world.sandbox.counters.started == 2


async def test_another_result_is_not_shown(world: World) -> None:
    wanted = world.sandbox.queries[world.named["kb1"]].latest_query_data_id
    assert wanted is not None
    world.sandbox.database.results[wanted] = world.sandbox.database.results[
        int(json.loads(whole(world))["query_result"]["id"])
    ]
    reply = await world.get(f"/api/query_results/{wanted}.json")
    assert reply.status == 502


async def test_an_invalid_end_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length and its beginning are right, but it is not JSON: it must not look like a complete response."""
    monkeypatch.setattr(broken_responses, "_GARBAGE", whole(world)[:-3] + b"!!!")
    world.sandbox.faults.add("garbage", route=POST_ROUTE, method="POST", count=1)
    async with streamed(world, f"/api/queries/{world.named['large']}/results", {"max_age": 86400}) as response:
        await begin(response)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert (await world.post("large", max_age=86400)).body == whole(world)


async def test_a_head_request_has_no_body(world: World) -> None:
    reply = await world.call("HEAD", latest(world))
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Content-Length"] == str(len(whole(world)))


async def test_a_caller_that_has_it_already_gets_no_body(world: World) -> None:
    result_id = (await world.get(latest(world))).json["query_result"]["id"]
    stall = world.sandbox.faults.add("stall", route=RESULT_ROUTE, count=1)
    path = f"/api/query_results/{result_id}.csv"
    async with streamed(world, path) as response:
        await begin(response)
        async with streamed(world, path, **{"If-None-Match": response.headers["ETag"]}) as second:
            assert second.status == 304
        stall.release()
        await response.read()


@pytest.mark.parametrize("kind", ["html", "garbage", "status"])
async def test_no_file_is_left_of_what_is_not_stored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(broken_responses, "_HTML", b"<html>" + b" " * 400_000)
    monkeypatch.setattr(broken_responses, "_GARBAGE", b'{"query_result": {"id": 1' + b"," * 400_000)
    world.sandbox.faults.add(kind, status=500)
    for path in (latest(world), latest(world, "csv"), "/api/query_results/1.json", "/api/queries"):
        with contextlib.suppress(aiohttp.ClientPayloadError):
            assert (await world.get(path)).status in (500, 502)
    assert (await world.post("large", max_age=86400)).status in (500, 502)
    await until(lambda: not spooled(tmp_path))


async def test_only_results_may_be_large(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are removed from everything that is not a result, which needs the whole body in memory."""
    plain = (await world.get("/api/queries/tags")).body
    world.clock.turn(20)  # beyond `metadata_ttl`
    monkeypatch.setattr(upstream, "PARSE_LIMIT", 10)
    assert (await world.get("/api/queries/tags")).body == plain
    assert spooled(tmp_path) == []
    world.clock.turn(20)
    monkeypatch.setattr(world.runtime.upstream._exchange.objects, "largest", 20)
    assert (await world.get("/api/queries/tags")).status == 502


async def test_drain_ends_bodies_that_still_arrive(world: World, tmp_path: Path) -> None:
    world.sandbox.faults.add("stall", route=LATEST_ROUTE)
    async with streamed(world, latest(world)) as response:
        await begin(response)
        await world.runtime.stop()  # after `drain_timeout`
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    world.sandbox.faults.clear()
    await until(lambda: not spooled(tmp_path))


# -- faults


async def test_a_cancelled_job_does_not_affect_other_callers(world: World) -> None:
    """The run is over by then: nothing is cancelled in Redash, and new callers still join."""
    stall = world.sandbox.faults.add("stall", route=RESULT_ROUTE, count=1)
    path = f"/api/queries/{world.named['large']}/results"
    async with streamed(world, path, {"max_age": 0}, client="second", Prefer="wait=40") as response:
        first = await begin(response)
        job = (await world.post("large", max_age=0)).job
        assert (await world.call("DELETE", f"/api/jobs/{job['id']}")).status == 200
        assert (await world.get(f"/api/jobs/{job['id']}")).job["status"] == 4
        joining = asyncio.create_task(world.post("large", max_age=3600, wait=40))
        stall.release()
        assert first + await response.read() == (await joining).body == whole(world)
    assert world.sandbox.counters.started == 1
    assert not any(route.startswith("DELETE") for route in world.sandbox.counters.by_route)


async def test_callers_that_come_during_the_second_fetch_wait_for_it(world: World) -> None:
    """Rows that are ready in Redash are fetched for a minute; only callers that have a beginning cannot wait."""
    world.sandbox.faults.add("truncate", route=RESULT_ROUTE, count=1)
    world.sandbox.faults.add("reset_before_headers", route=RESULT_ROUTE, count=2)  # the second time, at once, nothing
    path = f"/api/queries/{world.named['large']}/results"
    async with streamed(world, path, {"max_age": 0}, Prefer="wait=40") as response:
        await begin(response)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    joined = await asyncio.gather(
        world.post("large", max_age=3600, wait=40), world.get(f"{latest(world)}?max_age=3600")
    )
    assert {reply.body for reply in joined} == {whole(world)}
    assert world.sandbox.counters.started == 1


async def test_a_stored_result_replaces_one_that_fails(world: World) -> None:
    """`stale_if_error`: where a stored result can be used, no caller gets a body that may fail."""
    await world.post("large", max_age=86400, wait=40)
    world.sandbox.faults.add("truncate", route=POST_ROUTE, method="POST")
    world.sandbox.faults.add("truncate", route="/api/queries/<query_id>")  # else it confirms the stored one
    for wait in (None, 40):
        world.clock.turn(100)  # beyond `any_age_confirm`
        reply = await world.post("large", wait=wait)
        assert "detail=stale-if-error" in reply.cache
        assert reply.body == whole(world)


async def test_a_purge_covers_results_that_are_being_stored(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN 8: results of executions that began before a purge are not stored."""
    await bare.start()
    adopting, go_on = threading.Event(), threading.Event()
    adopt = BodyFiles.adopt

    def slow(*arguments: Any) -> Body:
        adopting.set()
        go_on.wait(10)
        return adopt(*arguments)

    monkeypatch.setattr(BodyFiles, "adopt", slow)
    asking = asyncio.create_task(bare.post("large", max_age=86400, wait=40))
    assert await asyncio.to_thread(adopting.wait, 10)
    await bare.runtime.results.cache.purge()
    go_on.set()
    assert (await asking).body == whole(bare)
    assert "hit" not in (await bare.post("large", max_age=86400, wait=40)).cache


async def test_an_ended_run_releases_its_result(world: World) -> None:
    """Job ids live for hours, and there are many; their results are kept by the store only."""
    job = (await world.post("large", max_age=0)).job
    x = weakref.ref(world.runtime.executions.flights.running[0])
    assert (await world.finish(job["id"]))["status"] == 3
    gc.collect()
    assert x() is None
    assert (await world.get(f"/api/jobs/{job['id']}")).job["status"] == 3


async def test_a_result_that_the_store_does_not_take_is_still_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WriteBuffer, "add", lambda self, put: False)
    path = latest(world, "csv")
    replies = await asyncio.gather(world.get(f"{latest(world)}?max_age=0"), world.get(f"{path}?max_age=0"))
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].body == whole(world)


async def test_callers_that_leave_keep_nothing_open(world: World, tmp_path: Path) -> None:
    """Without help from the garbage collector, which `serve` makes run seldom."""
    result_id = (await world.get(latest(world))).json["query_result"]["id"]
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            # Whose rows a file has is in the JSON, which would be requested first, unless Redash has just sent it.
            await world.purge({"all": True})
            await world.get(f"/api/query_results/{result_id}.json")
            stall = world.sandbox.faults.add("stall", route=RESULT_ROUTE, count=1)
            async with streamed(world, f"/api/query_results/{result_id}.csv") as response:
                await begin(response)
                response.close()
            stall.release()
            await until(lambda: not world.runtime.upstream.slots.taken)
            world.clock.turn(3700)  # beyond `rendered_ttl`
        await until(lambda: not open_below(tmp_path, "bodies"))
    finally:
        gc.enable()
