"""The dashboards of the demo: what browsers do, each panel in a thread of its own, against Redash or the gateway."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from gateway.errors import GatewayError
from gateway.redash import calls
from gateway.redash.calls import UpstreamRequest
from gateway.redash.requests import Execute
from gateway.sandbox import Sandbox

DASHBOARDS: Final = 10
PANELS: Final = {
    "Paid orders": "status = 'paid'",
    "Shipped orders": "status = 'shipped'",
    "Cancelled orders": "status = 'cancelled'",
    "New orders": "status = 'new'",
    "Large orders": "amount > 400",
    "Orders this year": "ordered_on >= '2025-01-01'",
}
"""The panels of a dashboard, with the condition of each query."""

GLANCED: Final = ("countries", "kb1", "kb100")
"""Queries without parameters that have a result in the sandbox from the start."""

_SQL: Final = "select sleep(0.3) as waited, count(*) as orders, round(sum(amount) + {zero}, 2) as revenue from orders"
_ZEROS: Final = ("0.0", "0.00")
"""Both sides ask the same question in two texts: otherwise the second could use the first one's results in Redash."""

_POLL_SECONDS: Final = 0.1
_GLANCE_SECONDS: Final = 0.5
_TIMEOUT_SECONDS: Final = 30.0
_MOST_POLLS: Final = 300

Rows = list[dict[str, Any]]


class Side(NamedTuple):
    """Where dashboards get their data, the key or token for it, and the queries of their panels."""

    name: str
    url: str
    key: str
    panels: list[int]


class Round(NamedTuple):
    """Dashboards that were opened one after the other: how long it took, how many queries Redash ran, what came."""

    name: str
    seconds: float = 0.0
    executions: int = 0
    rows: tuple[list[Rows], ...] = ()

    def worse_than(self, other: Round) -> str:
        """Return why this round is no better than the other one, "" if it is."""
        if self.rows != other.rows:
            return f"the rows {self.name} are others than those {other.name}"
        if self.executions >= other.executions:
            return f"{self.executions} executions {self.name}, and {other.executions} {other.name}"
        if self.seconds >= other.seconds:
            return f"{self.seconds:.1f} s {self.name}, and {other.seconds:.1f} s {other.name}"
        return ""


class Wall:
    """Opens dashboards that all show the same panels."""

    def __init__(self, sandbox: Sandbox, pool: ThreadPoolExecutor) -> None:
        """`pool` has a thread for each panel: those of the event loop's own pool are needed by the servers."""
        self._sandbox = sandbox
        self._pool = pool
        self.panels = [self._add_panels(zero) for zero in _ZEROS]
        """Two sets of the same panels."""

    def _add_panels(self, zero: str) -> list[int]:
        return [
            self._sandbox.add_query(name, f"{_SQL.format(zero=zero)} where {which}") for name, which in PANELS.items()
        ]

    async def open_all(self, side: Side, progress: Callable[[Round, int], None]) -> Round:
        """Open all dashboards, one after the other; `progress` gets what is done so far, and how many.

        Raises:
            GatewayError: a panel has got no data.
        """
        began, before = time.monotonic(), self._started(side)
        so_far = Round(side.name)
        for number in range(1, DASHBOARDS + 1):
            rows = (*so_far.rows, await self.open_one(side))
            so_far = Round(side.name, time.monotonic() - began, self._started(side) - before, rows)
            progress(so_far, number)
        return so_far

    async def open_one(self, side: Side) -> list[Rows]:
        """Open one dashboard: all panels at once, each with fresh data."""
        return await self._read(side, side.panels, 0)

    async def glance(self, side: Side) -> None:
        """Read some results again and again that Redash has already, until cancelled."""
        queries = [self._sandbox.named[name] for name in GLANCED]
        while True:
            await self._read(side, queries, 3600)
            await asyncio.sleep(_GLANCE_SECONDS)

    async def _read(self, side: Side, queries: list[int], max_age: int) -> list[Rows]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(self._pool, _panel, side, q, max_age) for q in queries))

    def _started(self, side: Side) -> int:
        return sum(self._sandbox.counters.started_by_query[query] for query in side.panels)


def _panel(side: Side, query: int, max_age: int) -> Rows:
    """Do what a client of Redash does: start the query, poll its job, get the result."""
    found = _call(side, calls.execution(Execute(query, max_age, {}, None), max_age))
    for _ in range(_MOST_POLLS):
        if "query_result" in found:
            rows: Rows = found["query_result"]["data"]["rows"]
            return rows
        job = found["job"]
        if job["status"] == 3:
            found = _call(side, calls.result(job["query_result_id"], "json", query))
        elif job["status"] > 3:
            raise GatewayError(f"query {query} failed {side.name}: {job['error']}")
        else:
            time.sleep(_POLL_SECONDS)
            found = _call(side, calls.job(job["id"]))
    raise GatewayError(f"query {query} did not end {side.name}")


def _call(side: Side, request: UpstreamRequest) -> dict[str, Any]:
    parts = urlsplit(side.url)
    headers = {"Authorization": f"Key {side.key}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)) as connection:
        connection.request(request.method, request.target, request.body, headers)
        response = connection.getresponse()
        text = response.read()
    if response.status != 200:
        raise GatewayError(f"{request.method} {request.path} was {response.status} {side.name}")
    found: dict[str, Any] = json.loads(text)
    return found
