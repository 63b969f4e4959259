"""The sandbox's switches and numbers: faults, counters, clock, control routes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import aiohttp
import pytest

from gateway.sandbox import Sandbox, describe, serve

from .conftest import Client, Clock

PATH = "/api/queries/1"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("reset_before_headers", aiohttp.ClientOSError),
        ("reset_after_headers", (aiohttp.ClientPayloadError, aiohttp.ClientOSError)),
        ("reset_in_body", (aiohttp.ClientPayloadError, aiohttp.ClientOSError)),
        ("truncate", aiohttp.ClientPayloadError),
    ],
)
async def test_a_fault_breaks_one_response(
    client: Client, sandbox: Sandbox, kind: str, error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    fault = sandbox.faults.add(kind, count=1)
    with pytest.raises(error):
        # POST: the client would retry a GET.
        await client.execute(1)
    assert fault.hits == 1
    assert (await client.execute(1)).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_stalling_response_continues_when_it_is_released(sandbox: Sandbox, chunked: bool) -> None:
    whole = sandbox.database.results[1].full()
    fault = sandbox.faults.add("stall", chunked=chunked, count=1)
    headers = {"Authorization": f"Key {sandbox.user_keys['admin']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{sandbox.url}/api/query_results/1", headers=headers) as r,
    ):
        first = await r.content.readexactly(len(whole) // 2)
        assert ("Content-Length" in r.headers) is not chunked
        fault.release()
        assert first + await r.read() == whole


async def test_a_stalling_response_may_end_in_a_reset(sandbox: Sandbox) -> None:
    fault = sandbox.faults.add("stall_then_reset", count=1)
    headers = {"Authorization": f"Key {sandbox.user_keys['admin']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{sandbox.url}/api/query_results/1", headers=headers) as r,
    ):
        fault.release()
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await r.read()


async def test_faults_can_be_for_one_route_and_method(client: Client, sandbox: Sandbox) -> None:
    fault = sandbox.faults.add("status", status=502, route="/api/queries/<query_id>/results", method="POST")
    assert (await client.get(PATH)).status == 200
    assert (await client.get(f"{PATH}/results")).status == 200
    assert (await client.execute(1)).status == 502
    fault.clear()
    assert (await client.execute(1)).status == 200


async def test_html_and_garbage_look_like_success(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.add("html", count=1)
    response = await client.get(PATH)
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html")
    sandbox.faults.add("garbage", count=1)
    with pytest.raises(ValueError, match="Expecting value"):
        await client.get(PATH)


async def test_a_hanging_request_gets_its_response_when_released(client: Client, sandbox: Sandbox) -> None:
    fault = sandbox.faults.add("hang", count=1)
    waiting = asyncio.create_task(client.get(PATH))
    await sandbox.wait_requests(1)
    assert (await client.get(PATH)).status == 200
    assert not waiting.done()
    fault.release()
    assert (await waiting).status == 200


async def test_keys_can_be_rejected(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.add("reject_keys", count=1)
    response = await client.get(PATH)
    assert response.json == {"message": "Couldn't find resource. Please login and try again."}
    assert (await client.get(PATH)).status == 200


async def test_lost_jobs_are_unknown(client: Client, sandbox: Sandbox) -> None:
    with sandbox.hold():
        posted = await client.execute(1, max_age=0)
        sandbox.lose_jobs()
        assert (await client.get(f"/api/jobs/{posted.json['job']['id']}")).status == 500
        again = await client.execute(1, max_age=0)
        assert again.json["job"]["id"] != posted.json["job"]["id"]


async def test_a_skewed_clock_shows_in_date_and_retrieved_at(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.clock_skew = 7200
    result = await client.result_of(await client.execute(1, max_age=0))
    assert result["retrieved_at"] == "2026-11-18T13:06:40.250Z"
    assert (await client.get(PATH)).headers["Date"] == "Wed, 18 Nov 2026 13:06:40 GMT"


async def test_whole_seconds_have_no_fraction(client: Client, sandbox: Sandbox, clock: Clock) -> None:
    clock.seconds = 1_795_000_000.0
    assert (await client.result_of(await client.execute(1, max_age=0)))["retrieved_at"] == "2026-11-18T11:06:40Z"


async def test_unknown_faults_are_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="unknown fault 'earthquake'"):
        sandbox.faults.add("earthquake")


async def test_counters_and_log_record_requests(client: Client, sandbox: Sandbox) -> None:
    await client.get(f"{PATH}?x=1")
    await client.result_of(await client.execute(1, max_age=0))
    counters = sandbox.counters
    assert counters.by_route["GET /api/queries/<query_id>"] == 1
    assert counters.by_route["POST /api/queries/<query_id>/results"] == 1
    assert (counters.requests, counters.jobs, counters.started, counters.finished) == (4, 1, 1, 1)
    first = sandbox.log[0]
    assert (first.method, first.path_qs, first.status) == ("GET", f"{PATH}?x=1", 200)
    assert sandbox.log[1].body == b'{"max_age": 0}'
    sandbox.reset_counters()
    assert (sandbox.counters.requests, len(sandbox.log)) == (0, 0)


async def test_waiting_has_a_timeout(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutError):
        await sandbox.wait_executions(1, timeout=0.01)


async def test_control_routes(client: Client, sandbox: Sandbox) -> None:
    added = await client.request("POST", "/sandbox/faults", json={"kind": "status", "status": 500, "count": 1})
    assert added.json["faults"][0]["kind"] == "status"
    assert (await client.request("POST", "/sandbox/faults", json={"kind": "?"})).status == 400
    assert (await client.get(PATH)).status == 500
    assert (await client.get("/sandbox/counters")).json["requests"] == 1
    assert (await client.get("/sandbox/keys")).json["users"]["Ben Analyst"] == sandbox.user_keys["analyst"]
    assert (await client.request("POST", "/sandbox/faults", json={"clear": True, "clock_skew": 5})).json[
        "clock_skew"
    ] == 5


async def test_a_port_can_be_closed_and_opened_again(client: Client, sandbox: Sandbox) -> None:
    await sandbox.disconnect()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get(PATH)
    await sandbox.reconnect()
    assert (await client.get(PATH)).status == 200


async def test_keys_come_from_the_seed() -> None:
    assert Sandbox(seed=7).user_keys == Sandbox(seed=7).user_keys != Sandbox(seed=8).user_keys


async def test_several_organisations_live_under_their_slugs(clock: Clock) -> None:
    async with Sandbox(now=clock, slug="acme", orders=200) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        assert (await client.get("/acme/api/queries/1")).status == 200
        assert (await client.get("/api/queries/1")).status == 404
        assert (await client.get("/ping", key="")).body == b"PONG."


async def test_serving_reports_when_it_listens_and_stops_when_cancelled() -> None:
    listening: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(port=0, orders=200, started=listening.set_result))
    sandbox = await listening
    assert sandbox.user_keys["viewer"] in describe(sandbox)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("ticks", range(6))
async def test_a_connection_that_comes_at_the_last_moment_is_closed(sandbox: Sandbox, ticks: int) -> None:
    # asyncio would lose it, and whoever has opened it would wait for ever.
    with socket.socket() as late:
        late.setblocking(False)
        with suppress(BlockingIOError):
            late.connect(("127.0.0.1", int(sandbox.url.rpartition(":")[2])))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await sandbox.disconnect()
        with suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await asyncio.get_running_loop().sock_recv(late, 1) == b""
