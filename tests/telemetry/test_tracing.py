"""Traces: `traceparent` is passed on to Redash by the rules of W3C, and a real collector gets connected spans."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict
from support.waiting import until
from support.world import World

from gateway.telemetry.tracing import MOST_STATE_BYTES, incoming

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"

BAD = {
    "version ff": f"ff-{TRACE}-{SPAN}-01",
    "no trace id": f"00-{'0' * 32}-{SPAN}-01",
    "no span id": f"00-{TRACE}-{'0' * 16}-01",
    "capitals": f"00-{TRACE.upper()}-{SPAN}-01",
    "capital span": f"00-{TRACE}-{SPAN.upper()}-01",
    "more after version 00": f"{GOOD}-more",
    "short": f"00-{TRACE}-{SPAN}",
    "words": "not a traceparent",
    "empty": "",
    "joined": f"{GOOD},{GOOD}",
}


def fields(*pairs: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(pairs)


# -- the rules


@pytest.mark.parametrize("given", BAD.values(), ids=list(BAD))
def test_an_invalid_traceparent_is_ignored(given: str) -> None:
    assert incoming(fields(("traceparent", given), ("tracestate", "a=1"))) is None


def test_two_traceparents_are_ignored() -> None:
    assert incoming(fields(("traceparent", GOOD), ("traceparent", GOOD))) is None


@pytest.mark.parametrize("given", [f"01-{TRACE}-{SPAN}-ff", f"cc-{TRACE}-{SPAN}-01-what-the-future-brings"])
def test_later_versions_are_read_as_far_as_they_are_known_and_passed_on_as_00(given: str) -> None:
    found = incoming(fields(("traceparent", given)))
    assert found is not None
    assert found.header == GOOD


@pytest.mark.parametrize(("given", "passed"), [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03")])
def test_unknown_flags_are_cleared(given: str, passed: str) -> None:
    found = incoming(fields(("traceparent", f"00-{TRACE}-{SPAN}-{given}")))
    assert found is not None
    assert found.flags == passed


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["a=1"], "a=1"),
        (["a=1 , b=2,,", "c@d=x y"], "a=1,b=2,c@d=x y"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a=1=2"], ""),
        (["no value"], ""),
        (["a=\u00e4"], ""),
        ([",".join(f"k{n}=1" for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
        ([",".join(f"k{n}=1" for n in range(33))], ""),
    ],
)
def test_tracestate_is_passed_on_whole_or_not_at_all(given: list[str], passed: str) -> None:
    found = incoming(fields(("traceparent", GOOD), *(("tracestate", value) for value in given)))
    assert found is not None
    assert found.state == passed


def test_a_long_tracestate_loses_its_last_members() -> None:
    members = [f"k{n}={'v' * 100}" for n in range(8)]
    found = incoming(fields(("traceparent", GOOD), ("tracestate", ",".join(members))))
    assert found is not None
    assert found.state == ",".join(members[:4])
    assert len(found.state) <= MOST_STATE_BYTES


# -- without the extra


def sent(world: World, name: str) -> set[str | None]:
    return {request.headers.get(name) for request in world.sandbox.log}


async def test_every_request_to_redash_continues_the_callers_trace(world: World) -> None:
    headers = {"traceparent": GOOD, "tracestate": "vendor=1", "Prefer": "wait=10"}
    path = f"/api/queries/{world.named['by_country']}/results"
    assert (await world.call("POST", path, {"max_age": 0}, headers=headers)).status == 200
    assert len(world.sandbox.log) >= 3
    assert sent(world, "traceparent") == {GOOD}
    assert sent(world, "tracestate") == {"vendor=1"}


async def test_without_a_valid_one_redash_gets_neither(world: World) -> None:
    await world.get("/api/data_sources")
    await world.get("/api/queries", traceparent=BAD["version ff"], tracestate="vendor=1")
    assert sent(world, "traceparent") == sent(world, "tracestate") == {None}


def test_nothing_is_imported_without_an_endpoint() -> None:
    code = "import sys, gateway.app.runtime; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# -- with it


class Collector:
    """An OTLP/HTTP receiver: every span that came, as plain values."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.status = 200
        self.came = asyncio.Condition()

    async def receive(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = await request.read()
        message = ExportTraceServiceRequest.FromString(body)
        async with self.came:
            for resource in message.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self.came.notify_all()
        return web.Response(status=self.status, content_type="application/x-protobuf")

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
async def collector(unused_tcp_port: int) -> AsyncIterator[tuple[Collector, str]]:
    if importlib.util.find_spec("opentelemetry") is None:
        assert os.environ.get("GATEWAY_TEST_REQUIRE_ALL") != "1", "the extra otel is not installed"
        pytest.skip("the extra otel is not installed")
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    yield made, f"http://127.0.0.1:{unused_tcp_port}"
    await runner.cleanup()


async def traced(bare: World, endpoint: str) -> None:
    await bare.start(extra=f'[tracing]\nendpoint = "{endpoint}"\n')


async def everything(world: World) -> None:
    """Stopping the gateway sends what is left."""
    await world.runtime.stop()


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


POST_SPAN = "POST /api/queries/{query_id}/results"


async def test_a_miss_is_traced_from_the_request_down_to_redash(bare: World, collector: tuple[Collector, str]) -> None:
    received, endpoint = collector
    await traced(bare, endpoint)
    headers = {"traceparent": GOOD, "Prefer": "wait=10"}
    path = f"/api/queries/{bare.named['by_country']}/results"
    await bare.call("POST", path, {"max_age": 0}, headers=headers)
    await everything(bare)
    spans = {span.span_id: span for span in received.spans}
    assert {span.trace_id.hex() for span in received.spans} == {TRACE}
    request = next(span for span in received.named(POST_SPAN) if span.kind == 2)
    assert request.parent_span_id.hex() == SPAN
    assert attributes(request)["redash_gateway.cache"] == "miss"
    (execution,) = received.named("execution")
    assert execution.parent_span_id == request.span_id
    post = next(span for span in received.named(POST_SPAN) if span.kind == 3)
    assert post.parent_span_id == execution.span_id
    assert {span.parent_span_id for span in received.named("store")} == {request.span_id}
    assert all(spans[span.parent_span_id] for span in received.spans if span is not request)
    asked = {logged.headers["traceparent"].split("-")[2] for logged in bare.sandbox.log}
    assert asked == {span.span_id.hex() for span in received.spans if span.kind == 3}
    assert request.start_time_unix_nano <= execution.start_time_unix_nano < execution.end_time_unix_nano


async def test_a_joined_request_links_to_the_execution(bare: World, collector: tuple[Collector, str]) -> None:
    received, endpoint = collector
    await traced(bare, endpoint)
    hold = bare.sandbox.hold()
    first = asyncio.create_task(bare.post("by_country", max_age=0, wait=10))
    await bare.sandbox.wait_executions(1)
    second = asyncio.create_task(bare.post("by_country", max_age=0, wait=10))
    await until(lambda: sum(x.waiters for x in bare.runtime.executions.flights.running) == 2)
    hold.release()
    await asyncio.gather(first, second)
    await everything(bare)
    (execution,) = received.named("execution")
    requests = [span for span in received.named(POST_SPAN) if span.kind == 2]
    assert len({span.trace_id for span in requests}) == 2  # each caller's own
    joined = next(span for span in requests if attributes(span)["redash_gateway.cache"] == "collapsed")
    links = [link for span in received.named("wait") if span.trace_id == joined.trace_id for link in span.links]
    assert {(link.trace_id, link.span_id) for link in links} == {(execution.trace_id, execution.span_id)}


async def test_an_unsampled_request_is_not_recorded(bare: World, collector: tuple[Collector, str]) -> None:
    received, endpoint = collector
    await traced(bare, endpoint)
    unsampled = f"00-{TRACE}-{SPAN}-00"
    await bare.get("/api/data_sources", traceparent=unsampled)
    await everything(bare)
    assert received.spans == []
    assert sent(bare, "traceparent") == {unsampled}


async def test_every_request_has_a_span_also_on_the_fast_path(bare: World, collector: tuple[Collector, str]) -> None:
    received, endpoint = collector
    await traced(bare, endpoint)
    await bare.rows("by_country", max_age=60)
    for _ in range(10):
        await bare.post("by_country", max_age=60)
    await everything(bare)
    requests = [span for span in received.named(POST_SPAN) if span.kind == 2]
    assert len(requests) == 11
    assert len({span.span_id for span in received.spans}) == len(received.spans)


async def test_no_token_is_in_any_span(bare: World, collector: tuple[Collector, str]) -> None:
    received, endpoint = collector
    await traced(bare, endpoint)
    token = "rg_dashboard_0123456789abcdef0123456789abcdef"
    await bare.get(f"/api/data_sources?api_key={token}", x_request_id=token)
    await bare.call("rg_dashboard_0123456789abcdef0123456789abcdef", "/api/queries")
    await everything(bare)
    assert received.spans
    assert token not in str(received.spans)


async def test_an_unavailable_collector_costs_one_line(
    bare: World, collector: tuple[Collector, str], caplog: pytest.LogCaptureFixture
) -> None:
    received, endpoint = collector
    received.status = 400
    await traced(bare, endpoint)
    for _ in range(3):
        assert (await bare.get("/api/data_sources")).status == 200
    await everything(bare)
    lines = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert lines == ["the trace collector does not take spans"]
