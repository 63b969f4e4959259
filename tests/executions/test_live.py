"""Live results: a GET that waits for a newer one, and streams of events; whoever's run brought the result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from support.calls import TOKENS
from support.waiting import until, within
from support.world import World

from gateway.outcome import Outcome

DAY = 86_400


class Stream:
    """One listener of a stream of events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status, self.headers, self._content = response.status, response.headers, response.content

    async def next(self) -> dict[str, Any]:
        """The next event, within a few seconds."""
        async with within(10):
            return await self.event()

    async def event(self) -> dict[str, Any]:
        """The next event: its data, and its id as `event`."""
        fields: dict[str, str] = {}
        while line := (await self._content.readline()).decode():
            if line == "\n" and "data" in fields:
                return {**json.loads(fields["data"]), "event": fields["id"]}
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value
        raise EOFError

    async def ends(self) -> None:
        """Wait for the end, without an event before it."""
        with pytest.raises(EOFError):
            await self.next()


@asynccontextmanager
async def listening(
    world: World, query: str, arguments: str = "", client: str = "dashboard", **headers: str
) -> AsyncIterator[Stream]:
    url = f"{world.url}/api/queries/{world.named[query]}/results/events{arguments}"
    sent = {"Authorization": f"Key {TOKENS[client]}", **{n.replace("_", "-"): v for n, v in headers.items()}}
    async with world.session.get(url, headers=sent) as response:
        yield Stream(response)


async def ran(world: World, query: str, client: str = "dashboard", **body: Any) -> int:
    """Run a query anew; the id of its result."""
    reply = await world.post(query, client=client, wait=20, max_age=0, **body)
    result: int = reply.json["query_result"]["id"]
    return result


def path(world: World, query: str, form: str = "json", arguments: str = "") -> str:
    return f"/api/queries/{world.named[query]}/results.{form}{arguments}"


async def waiting(world: World, count: int = 1) -> None:
    await until(lambda: world.runtime.watchers.count == count)


# -- a GET that waits


@pytest.mark.parametrize(("form", "arguments"), [("json", "?max_age=86400"), ("json", ""), ("csv", "?max_age=86400")])
async def test_a_get_waits_for_a_newer_result(world: World, form: str, arguments: str) -> None:
    await ran(world, "now")
    target = path(world, "now", form, arguments)
    first = await world.get(target)
    started = world.started
    held = asyncio.create_task(world.get(target, prefer="wait=20", if_none_match=first.headers["ETag"]))
    await waiting(world)
    assert not held.done()
    await ran(world, "now", client="second")  # another client of the same scope
    reply = await held
    assert reply.status == 200
    assert reply.body != first.body
    assert reply.headers["ETag"] != first.headers["ETag"]
    assert reply.headers["Preference-Applied"] == "wait=20"
    assert world.started == started + 1, "the caller that waits runs nothing"
    again = await world.get(target, if_none_match=reply.headers["ETag"])
    assert again.status == 304, "without Prefer: wait nothing is held"


async def test_without_a_newer_result_the_end_is_304(world: World) -> None:
    await ran(world, "kb1")
    target = path(world, "kb1", arguments="?max_age=86400")
    tag = (await world.get(target)).headers["ETag"]
    for _ in range(3):  # a prepared response would be sent at once
        began = asyncio.get_running_loop().time()
        reply = await world.get(target, prefer="wait=1", if_none_match=tag)
        assert (reply.status, reply.body, reply.headers["Retry-After"]) == (304, b"", "1")
        assert asyncio.get_running_loop().time() - began > 0.9
    other = await world.get(target, prefer="wait=20", if_none_match='"other"')
    assert other.status == 200


async def test_what_a_definition_check_notices_ends_the_wait(bare: World) -> None:
    # Somebody ran the query in Redash itself; those who wait look as often as a definition is due.
    world = bare
    await world.start(cache='definition_check = "2s"')
    await ran(world, "now")
    target = path(world, "now")
    tag = (await world.get(target)).headers["ETag"]
    held = asyncio.create_task(world.get(target, prefer="wait=20", if_none_match=tag))
    await waiting(world)
    made = (await world.sandbox.execute_directly(world.named["now"])).id
    reply = await held
    assert (reply.status, reply.json["query_result"]["id"]) == (200, made)


async def test_the_rights_are_judged_again_before_the_response(world: World) -> None:
    await ran(world, "kb1")
    target = path(world, "kb1", arguments="?max_age=86400")
    tag = (await world.get(target)).headers["ETag"]
    held = asyncio.create_task(world.get(target, prefer="wait=20", if_none_match=tag))
    await waiting(world)
    world.reconfigure(
        world.text.replace("[clients.dashboard]", f"[clients.dashboard]\nqueries = [{world.named['now']}]")
    )
    assert (await held).status == 503, "the client is to ask anew, by the new configuration"


async def test_beyond_the_bound_nothing_is_held(bare: World) -> None:
    await bare.start(server="max_watchers = 1")
    await ran(bare, "kb1")
    target = path(bare, "kb1", arguments="?max_age=86400")
    tag = (await bare.get(target)).headers["ETag"]
    async with listening(bare, "kb1") as stream:
        await stream.next()
        reply = await bare.get(target, prefer="wait=20", if_none_match=tag)
        assert (reply.status, reply.headers["Retry-After"]) == (304, "1")
        async with listening(bare, "kb1") as second:
            assert (second.status, second.headers["Retry-After"]) == (503, "5")
        assert await bare.metric("redash_gateway_watchers") == 1
    await waiting(bare, 0)


async def test_the_hold_is_not_the_time_of_a_response(world: World) -> None:
    # Percentiles and the list of slow requests are about the gateway, not about how seldom a result comes.
    await ran(world, "kb1")
    target = path(world, "kb1", arguments="?max_age=86400")
    tag = (await world.get(target)).headers["ETag"]
    assert (await world.get(target, prefer="wait=1", if_none_match=tag)).status == 304
    assert await world.metric("redash_gateway_request_duration_seconds_sum") < 0.8


# -- events


async def test_a_stream_ends_well_when_its_caller_leaves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await ran(world, "kb1")
    route = "/api/queries/{query_id}/results/events"
    recorded: list[Outcome] = []
    monkeypatch.setattr(world.runtime.api.api._pipeline, "record", recorded.append)
    async with listening(world, "kb1") as stream:
        await stream.next()
        await asyncio.sleep(0.6)  # it listens for longer than a response may take
    await waiting(world, 0)
    await until(lambda: world.runtime.api.api.requests_in_progress == 0)
    (outcome,) = recorded
    assert (outcome.route, outcome.status) == (route, 200)
    assert outcome.duration < 0.5 < outcome.held_seconds


async def test_each_new_result_is_an_event(world: World) -> None:
    first = await ran(world, "now")
    async with listening(world, "now") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["Cache-Control"] == "no-store"
        event = await stream.next()
        reply = await world.get(path(world, "now"))
        assert event["id"] == first
        assert event["etag"] == reply.headers["ETag"] == f'"{event["event"]}"'
        assert event["retrieved_at"] == reply.json["query_result"]["retrieved_at"]
        for client in ("dashboard", "second", "dashboard"):
            made = await ran(world, "now", client=client)
            event = await stream.next()
            assert event["id"] == made
    async with listening(world, "now", Last_Event_ID=event["event"]) as stream:
        made = await ran(world, "now")
        assert (await stream.next())["id"] == made, "what the caller has is not repeated"


async def test_a_stream_is_of_one_value_of_the_parameters_and_of_one_scope(world: World) -> None:
    arguments = "?p_country=DE"
    async with (
        listening(world, "in_country", arguments) as stream,
        listening(world, "in_country", arguments, client="writer") as foreign,
    ):
        await waiting(world, 2)
        started = world.started
        await ran(world, "in_country", parameters={"country": "FR"})
        made = await ran(world, "in_country", parameters={"country": "DE"})
        assert (await stream.next())["id"] == made, "streams never execute, and tell of no other values"
        own = await ran(world, "in_country", client="writer", parameters={"country": "DE"})
        assert (await foreign.next())["id"] == own
        again = await ran(world, "in_country", parameters={"country": "DE"})
        assert (await stream.next())["id"] == again
        assert world.started == started + 4


async def test_a_stream_ends_with_the_rights(world: World) -> None:
    await ran(world, "kb1")
    async with listening(world, "kb1") as stream, listening(world, "kb1", client="second") as second:
        await asyncio.gather(stream.next(), second.next())
        bound = f"[clients.dashboard]\nqueries = [{world.named['now']}]"
        world.reconfigure(world.text.replace("[clients.dashboard]", bound))
        await stream.ends()
        made = await ran(world, "kb1", client="second")
        assert (await second.next())["id"] == made
    async with listening(world, "kb1") as refused:
        assert refused.status == 403


async def test_a_stream_ends_when_redash_refuses_the_query(world: World) -> None:
    await ran(world, "kb1")
    async with listening(world, "kb1") as stream:
        await stream.next()
        world.sandbox.queries[world.named["kb1"]].org = 2  # of another organisation: 404
        world.clock.turn(40)  # the definition is due
        world.runtime.watchers.note_all()
        await stream.ends()
    async with listening(world, "kb1") as refused:
        assert refused.status == 404


async def test_a_stream_ends_when_the_gateway_stops(bare: World) -> None:
    await bare.start()
    await ran(bare, "kb1")
    async with listening(bare, "kb1") as stream:
        await stream.next()
        stopping = asyncio.create_task(bare.runtime.stop())
        await stream.ends()
        async with within(2):
            await stopping


async def test_refusals_have_their_status(world: World) -> None:
    for query, arguments, client, status in (
        ("undeclared", "?p_x=1", "dashboard", 403),
        ("in_country", "?p_land=DE", "dashboard", 400),
        ("by_country", "", "narrow", 403),
    ):
        async with listening(world, query, arguments, client=client) as stream:
            assert stream.status == status, query
    head = await world.call("HEAD", f"/api/queries/{world.named['kb1']}/results/events")
    assert (head.status, head.headers["Content-Type"]) == (200, "text/event-stream")


async def test_silence_is_broken_by_comments(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Proxies cut connections on which nothing moves.
    monkeypatch.setattr("gateway.executions.live.HEARTBEAT_SECONDS", 1.0)
    async with listening(world, "never_run") as stream, within(5):
        lines = [await stream._content.readline() for _ in range(4)]
    assert lines == [b"retry: 2000\n", b"\n", b": still here\n", b"\n"]


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.long)])
@pytest.mark.timeout(120)
async def test_many_listeners_of_whom_a_third_leave(bare: World, count: int) -> None:
    """No event is lost or doubled, and none crosses a scope or a binding; all of them have one timer."""
    await bare.start(second=f"queries = [{bare.named['in_country']}]")
    germany = {"parameters": {"country": "DE"}}
    clients = ("dashboard", "second", "writer")  # the first two have the same scope
    made = {client: await ran(bare, "in_country", client=client, **germany) for client in ("dashboard", "writer")}
    events = {client: [made["writer" if client == "writer" else "dashboard"]] for client in clients}
    heard: list[list[int]] = [[] for _ in range(count)]

    async def listen(number: int) -> None:
        async with listening(bare, "in_country", "?p_country=DE", client=clients[number % 3]) as stream:
            assert stream.status == 200
            while True:
                heard[number].append((await stream.event())["id"])

    async def all_have_heard(numbers: range | list[int]) -> None:
        await until(lambda: all(heard[n] == events[clients[n % 3]] for n in numbers), timeout=60)

    tasks = [asyncio.create_task(listen(number)) for number in range(count)]
    try:
        await all_have_heard(range(count))
        assert sum(topic.timer is not None for topic in bare.runtime.watchers._topics.values()) == 1
        for task in tasks[::3]:
            task.cancel()
        staying = [number for number in range(count) if number % 3]
        await ran(bare, "in_country", parameters={"country": "FR"})
        for client in ("dashboard", "writer", "second"):
            result = await ran(bare, "in_country", client=client, **germany)
            for other in ("writer",) if client == "writer" else ("dashboard", "second"):
                events[other].append(result)
            await all_have_heard(staying)
        await until(lambda: bare.runtime.watchers.count == len(staying), timeout=60)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: bare.runtime.watchers.count == 0)
