"""Which queries a bound client may use: those of its table, and those on its dashboards, as Redash shows them now."""

from __future__ import annotations

import math
from typing import Final

from gateway.concurrency.flights import Flights
from gateway.errors import Forbidden
from gateway.model import Clock, Definition
from gateway.outcome import Sender
from gateway.policy.access import Access, Caller, Credential
from gateway.policy.context import RequestContext
from gateway.redash.answers import queries_on
from gateway.redash.requests import CancelJob, ExecuteText, Operation, Ping, ReadJob, ReadResult, Relay
from gateway.results.definitions import Definitions
from gateway.upstream.request import Upstream, UpstreamRequest, refusal

REREAD_SECONDS: Final = 60.0
"""A dashboard's queries are read again after this time; a widget that was taken off stops opening its query."""

DASHBOARD_ROUTE: Final = "/api/dashboards/{dashboard}"
_DROPDOWNS: Final = "/api/queries/{query_id}/dropdowns/{dropdown_id}"


class Bindings:
    """Judges requests of clients that are bound to queries or dashboards. Where Redash does not tell, it refuses."""

    def __init__(self, upstream: Upstream, definitions: Definitions, clock: Clock) -> None:
        self._upstream = upstream
        self._definitions = definitions
        self._clock = clock
        self._boards: dict[tuple[str, int], tuple[frozenset[int], float]] = {}
        self._flights: Flights[frozenset[int]] = Flights()

    async def allowed(self, access: Access, caller: Caller, sender: Sender) -> frozenset[int] | None:
        """Return the ids of the queries that the client may use; None if it is not bound.

        Raises:
            GatewayError: Redash does not tell what is on one of its dashboards: then nothing is allowed.
        """
        if not caller.is_bound:
            return None
        found = set(caller.settings.queries)
        for dashboard in sorted(caller.settings.dashboards):
            found |= await self._on_dashboard(access.user_credential(caller), dashboard, sender)
        return frozenset(found)

    def unquestioned_until(self, access: Access, caller: Caller) -> float:
        """Return until when (monotonic) what was read of the client's dashboards counts."""
        if not caller.settings.dashboards:
            return math.inf
        scope = access.user_credential(caller).scope
        read_at = (self._boards.get((scope, d), (None, -math.inf))[1] for d in caller.settings.dashboards)
        return min(read_at) + REREAD_SECONDS

    async def check(self, access: Access, context: RequestContext, operation: Operation) -> frozenset[int] | None:
        """Refuse what the client's binding does not cover; returns the queries that it does cover, None for all.

        Results by id are judged where their query is known, dashboards by the id in the answer.

        Raises:
            Forbidden: the query or dashboard is not among the client's.
        """
        allowed = await self.allowed(access, context.caller, context.sender)
        if context.match.route.template == _DROPDOWNS:
            await self._check_dropdown(access, context, allowed)
            return allowed
        if allowed is None or isinstance(operation, Ping | ReadJob | CancelJob):
            return allowed
        if isinstance(operation, ExecuteText):
            raise Forbidden(f"Client '{context.caller.name}' is bound to some queries and may send no SQL of its own.")
        if context.match.route.template == DASHBOARD_ROUTE:
            self._check_path(context)
        elif not isinstance(operation, ReadResult) or operation.query_id is not None:
            self._check_query(context.caller, context.match.number("query_id"), allowed, operation)
        return allowed

    def _check_query(self, caller: Caller, query_id: int | None, allowed: frozenset[int], operation: Operation) -> None:
        if query_id is None and isinstance(operation, Relay):
            return  # dashboards are judged by their answer; the rest of what is open to bound clients shows no query
        if query_id not in allowed:
            raise Forbidden(f"Query {query_id} is not among those of client '{caller.name}'.")

    async def _check_dropdown(self, access: Access, context: RequestContext, allowed: frozenset[int] | None) -> None:
        """A dropdown query is open through the query that declares it, and only so, to bound clients and query keys.

        Redash itself shows a query key the first column of any query on a source of its groups (CONTRACT 12).
        """
        query_id, dropdown = context.match.number("query_id"), context.match.number("dropdown_id")
        credential = access.credential(context.caller, context.match, Ping())
        if allowed is None and not credential.is_query_key:
            return
        if allowed is not None:
            self._check_query(context.caller, query_id, allowed, Ping())
        if dropdown in (allowed or ()) or query_id is None:
            return
        definition = await self._definitions.know(credential, query_id, context.sender, access.cache)
        if dropdown not in _declared(definition):
            raise Forbidden(f"Query {dropdown} is no dropdown of query {query_id}.")

    def _check_path(self, context: RequestContext) -> None:
        """Refuse a dashboard before Redash is asked where its path tells the id; a slug is judged by the answer."""
        named, boards = context.match.parts["dashboard"], context.caller.settings.dashboards
        if not boards or (
            named.isdecimal() and int(named) not in boards and "legacy" not in context.request.query_string
        ):
            self.check_dashboard(context.caller, None)

    def check_dashboard(self, caller: Caller, dashboard_id: int | None) -> None:
        """Refuse a dashboard that is not among the client's, by the id that Redash answered.

        Raises:
            Forbidden: it is not, or its id is not known.
        """
        if caller.is_bound and dashboard_id not in caller.settings.dashboards:
            raise Forbidden(f"This dashboard is not among those of client '{caller.name}'.")

    async def _on_dashboard(self, credential: Credential, dashboard: int, sender: Sender) -> frozenset[int]:
        place = (credential.scope, dashboard)
        known, read_at = self._boards.get(place, (frozenset(), float("-inf")))
        if self._clock.monotonic() - read_at <= REREAD_SECONDS:
            return known
        return (await self._flights.share(place, lambda: self._read(credential, dashboard, sender)))[0]

    async def _read(self, credential: Credential, dashboard: int, sender: Sender) -> frozenset[int]:
        call = UpstreamRequest(method="GET", path=f"/api/dashboards/{dashboard}", route=DASHBOARD_ROUTE)
        response = await self._upstream.send(credential, call, sender)
        if response.status != 200:
            raise refusal(response)
        found = queries_on(response.body.load())
        self._boards[credential.scope, dashboard] = found, response.sent
        return found

    async def aclose(self) -> None:
        """End the questions that are under way."""
        await self._flights.aclose()


def _declared(definition: Definition) -> frozenset[int]:
    return frozenset(p.queryId for p in definition.parameters if p.type == "query" and p.queryId is not None)
