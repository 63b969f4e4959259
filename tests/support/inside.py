"""What tests see of a running gateway that it shows nobody: the one place that knows how its parts keep it."""

from __future__ import annotations

from typing import Any

from gateway.app.runtime import Runtime


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


def waiters(runtime: Runtime) -> int:
    """How many callers wait for the end of a run."""
    return sum(execution.waiters for execution in runtime.executions.flights.running)
