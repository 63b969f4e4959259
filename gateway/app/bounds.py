"""What the parts of the gateway take of that which is bounded, for metrics. The store itself says it of its tiers."""

from __future__ import annotations

from gateway.executions.parts import ExecutionParts
from gateway.http.listener import ApiListener
from gateway.results.parts import ResultParts
from gateway.telemetry.levels import Bound
from gateway.upstream.client import HttpUpstream
from gateway.warming.warmer import Warmer


def in_use(api: ApiListener, executions: ExecutionParts, upstream: HttpUpstream) -> dict[str, Bound]:
    """Return what is there in a limited number: when all of it is taken, the next must wait or is refused."""
    slots = executions.flights.slots
    return {
        "connections": Bound(*api.api.connections),
        "executions": Bound(slots.taken, slots.size),
        "upstream_requests": Bound(upstream.slots.taken, upstream.slots.size),
    }


def memory(
    cache_memory: int,
    api: ApiListener,
    results: ResultParts,
    executions: ExecutionParts,
    upstream: HttpUpstream,
    warmer: Warmer,
) -> dict[str, Bound]:
    """Return what takes memory up to a limit of its own, in bytes; `cache_memory` is the limit of some."""
    metadata = results.metadata.entries
    return {
        "definitions": Bound(*results.definitions.memory),
        "metadata": Bound(int(metadata.currsize), int(metadata.maxsize)),
        "popular": Bound(*warmer.memory),
        "request_bodies": Bound(api.api.bytes_of_bodies, cache_memory),
        "responses": Bound(*api.cache.memory),
        "runs": Bound(executions.flights.current.weight, cache_memory),
        "transit": Bound(upstream.objects.taken, upstream.objects.limit),
    }
