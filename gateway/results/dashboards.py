"""Which queries are on a dashboard: the only place that requests this from Redash."""

from __future__ import annotations

import math
from typing import Final

from gateway.concurrency.flights import Flights
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.redash import calls
from gateway.redash.objects import parse_dashboard_queries
from gateway.upstream.protocol import Upstream, refusal

REREAD_SECONDS: Final = 60.0
"""A dashboard's queries are read again after this time; then a removed widget no longer gives access to its query."""


class Dashboards:
    """Reads dashboards with a credential; caches the ids of their queries for `REREAD_SECONDS`, by scope."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._recent: dict[tuple[str, int], tuple[frozenset[int], float]] = {}
        self._flights: Flights[frozenset[int]] = Flights()

    async def queries_on(self, credential: Credential, dashboard_id: int, sender: Sender) -> frozenset[int]:
        """Request from Redash the ids of the queries on a dashboard.

        Raises:
            UpstreamRefused: Redash does not show it to this credential.
            UpstreamUnusable: the response is not a dashboard object.
        """
        return (await self._request(credential, dashboard_id, sender))[0]

    async def recent_queries_on(self, credential: Credential, dashboard_id: int, sender: Sender) -> frozenset[int]:
        """As `queries_on`, at most `REREAD_SECONDS` old; concurrent callers share one request."""
        place = (credential.scope, dashboard_id)
        if self._clock.monotonic() <= self.valid_until(credential, dashboard_id):
            return self._recent[place][0]
        return (await self._flights.share(place, lambda: self._refresh(credential, dashboard_id, sender)))[0]

    def valid_until(self, credential: Credential, dashboard_id: int) -> float:
        """Return until when (monotonic) `recent_queries_on` needs no request; -inf where nothing is cached."""
        recent = self._recent.get((credential.scope, dashboard_id))
        return recent[1] + REREAD_SECONDS if recent is not None else -math.inf

    async def aclose(self) -> None:
        """Cancel the requests in flight."""
        await self._flights.aclose()

    async def _refresh(self, credential: Credential, dashboard_id: int, sender: Sender) -> frozenset[int]:
        queries, sent = await self._request(credential, dashboard_id, sender)
        self._recent[credential.scope, dashboard_id] = queries, sent
        return queries

    async def _request(self, credential: Credential, dashboard_id: int, sender: Sender) -> tuple[frozenset[int], float]:
        response = await self._upstream.send(credential, calls.dashboard(dashboard_id), sender)
        if response.status != 200:
            raise refusal(response)
        return parse_dashboard_queries(response.body.load(), dashboard_id), response.sent
