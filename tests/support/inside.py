"""What tests see of a running gateway that it shows nobody: the one place that knows how its parts keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from gateway.app.runtime import Runtime
from gateway.http.response_cache import CachedResponse
from gateway.sandbox import Sandbox
from gateway.telemetry.levels import Levels


def open_requests(runtime: Runtime) -> int:
    """How many requests the API listener works on."""
    return len(runtime.api.api._open)


def connections(runtime: Runtime) -> list[Any]:
    """The handlers of the connections that are open to the API listener."""
    server = runtime.api.api._server
    return [] if server is None else list(server.connections)


def flights(*parts: Any) -> int:
    """How many calls to Redash are shared just now by callers of these parts."""
    return sum(len(part._flights) for part in parts)


def left_over(runtime: Runtime) -> list[str]:
    """What still runs, waits for Redash or holds a slot."""
    results, executions = runtime.results, runtime.executions.flights
    counts = {
        name: flights(part)
        for name, part in {
            "definitions": results.definitions,
            "lists and objects": results.metadata,
            "results": results.fetcher,
            "data sources": results.pauses,
            "dashboards": results.dashboards,
            "session": results.organisation,
            "canary": runtime.upstream._canary,
        }.items()
    }
    counts["executions"] = len(executions.running)
    counts["requests without a response"] = len(runtime.upstream._availability._silent)
    counts["open requests"] = open_requests(runtime)
    for name, slots in (("slots", runtime.upstream.slots), ("slots for executions", executions.slots)):
        counts[name] = slots.taken + slots.queued
    return [f"{count} {name}" for name, count in counts.items() if count]


def is_at_rest(runtime: Runtime) -> bool:
    """Whether nothing is left over."""
    return not left_over(runtime)


def waiters(runtime: Runtime) -> int:
    """How many callers wait for the end of a run."""
    return sum(execution.waiters for execution in runtime.executions.flights.running)


def prepared_responses(runtime: Runtime) -> list[CachedResponse]:
    """The responses that are prepared for repeated requests."""
    return list(runtime.api.cache._by_key.values())


def cached_bytes(runtime: Runtime) -> int:
    """What prepared responses count against their limit."""
    return runtime.api.cache._bytes


def unrecorded(runtime: Runtime) -> int:
    """How many prepared responses have been given without a record so far."""
    return len(runtime.api.cache._unrecorded)


async def deny(runtime: Runtime, query_id: int, scope: str) -> None:
    """Let the gateway take it that Redash refuses this query to this scope."""
    await runtime.results.definitions.deny(query_id, scope)


def polling_every(seconds: float) -> Any:
    """Patch: jobs are polled so often, however long they take."""
    return mock.patch("gateway.executions.polling.pause", return_value=seconds)


@contextmanager
def retrying_every(seconds: float) -> Iterator[None]:
    """Patch: what failed while a job was followed is tried again after so long."""
    patches = (mock.patch(f"gateway.executions.{module}.AGAIN_SECONDS", seconds) for module in ("runner", "following"))
    with next(patches), next(patches):
        yield


def watch_sandbox(
    sandbox: Sandbox, arrived: Callable[[Any], None], finished: Callable[[Any, str, int, bytes], None]
) -> None:
    """Call `arrived` with each request of the sandbox, and `finished` with its route, status and body.

    A request gets the attributes `connection`, an object that stands for it, and `port`, from which its sender has
    connected (0 if that is closed by now).
    """
    parse, finish = sandbox.dispatcher._parse, sandbox.dispatcher._finish

    def parsed(*arguments: Any) -> Any:
        request: Any
        request, resource = parse(*arguments)
        transport, request.connection = arguments[0].transport, arguments[0].protocol
        request.port = transport.get_extra_info("peername")[1] if transport is not None else 0
        arrived(request)
        return request, resource

    def done(request: Any, resource: Any, response: Any) -> Any:
        finished(request, resource.template, response.status, response.encoded(sandbox.version))
        return finish(request, resource, response)

    sandbox.dispatcher._parse, sandbox.dispatcher._finish = parsed, done  # type: ignore[method-assign,assignment]


def redash_jobs(sandbox: Sandbox) -> list[Any]:
    """Every job of the sandbox, oldest first."""
    return list(sandbox.jobs._jobs.values())


def is_connected(sandbox: Sandbox) -> bool:
    """Whether the sandbox listens."""
    return sandbox.listener.is_open


def no_levels() -> Levels:
    """For metrics that nobody scrapes."""
    raise AssertionError("no scrape is expected")


@contextmanager
def canary_after(seconds: float) -> Iterator[None]:
    """Patch: the canary is asked after so long without a response, and has as long for its own."""
    with (
        mock.patch("gateway.upstream.availability.SILENT_SECONDS", seconds),
        mock.patch("gateway.upstream.canary.DEADLINE_SECONDS", seconds),
    ):
        yield


@contextmanager
def request_patience(seconds: float) -> Iterator[None]:
    """Patch: a request may wait so long for Redash, in all its steps together."""
    with mock.patch("gateway.policy.context.RequestContext.patience", seconds):
        yield
