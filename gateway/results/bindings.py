"""Which queries a bound client may use: those of its table, and those on its dashboards, as Redash shows them now."""

from __future__ import annotations

import msgspec

from gateway.errors import Forbidden
from gateway.model import Definition, Response
from gateway.policy.access import Caller
from gateway.policy.context import RequestContext
from gateway.redash import routes
from gateway.redash.purges import Purge
from gateway.redash.requests import CancelJob, ExecuteText, Operation, Ping, ReadBoard, ReadJob, ReadResult, Relay
from gateway.results.dashboards import Dashboards
from gateway.results.definitions import Definitions


class Bindings:
    """Checks requests of clients that are bound to queries or dashboards. What Redash does not confirm is refused."""

    def __init__(self, dashboards: Dashboards, definitions: Definitions) -> None:
        self._dashboards = dashboards
        self._definitions = definitions

    async def _allowed(self, context: RequestContext) -> frozenset[int] | None:
        """Return the ids of the queries that the client may use; None if it is not bound.

        Raises:
            GatewayError: one of its dashboards cannot be read in Redash: then nothing is allowed.
        """
        caller = context.caller
        if not caller.is_bound:
            return None
        allowed = set(caller.settings.queries)
        for dashboard in sorted(caller.settings.dashboards, key=str):
            credential = context.configured.access.user_credential(caller)
            allowed |= (await self._dashboards.recent(credential, dashboard, context.sender)).queries
        return frozenset(allowed)

    def foresee(self, context: RequestContext) -> bool | None:
        """Say whether a client may use the query of a request; None where Redash must be asked for a dashboard."""
        caller, query_id = context.caller, context.match.query_id
        if not caller.is_bound or query_id in caller.settings.queries:
            return True
        boards = caller.settings.dashboards
        credential = context.configured.access.user_credential(caller) if boards else None
        known = [self._dashboards.known(credential, board) for board in boards] if credential is not None else []
        if None in known:
            return None
        return any(board is not None and query_id in board.queries for board in known)

    def _boards(self, context: RequestContext) -> frozenset[int | None]:
        """Return the ids of the client's dashboards; `_allowed` has read those that the configuration names by slug."""
        dashboards = context.caller.settings.dashboards
        if not dashboards:
            return frozenset()
        credential = context.configured.access.user_credential(context.caller)
        return frozenset(self._dashboards.known_id(credential, dashboard) for dashboard in dashboards) - {None}

    def limit(self, context: RequestContext, response: Response) -> Response:
        """Limit the reuse of a response to the time for which the client's dashboards need not be read again."""
        if response.reuse is not None and context.caller.settings.dashboards:
            until = min(response.reuse.good_until, self._good_until(context))
            response.reuse = msgspec.structs.replace(response.reuse, good_until=until)
        return response

    def _good_until(self, context: RequestContext) -> float:
        caller = context.caller
        credential = context.configured.access.user_credential(caller)
        return min(self._dashboards.valid_until(credential, dashboard) for dashboard in caller.settings.dashboards)

    async def check(self, context: RequestContext, operation: Operation) -> frozenset[int] | None:
        """Refuse what the client's binding does not cover; returns the queries that it covers, None for all.

        Results by id are checked later, where their query is known, dashboards by the id in the response.

        Raises:
            Forbidden: the query or dashboard is not among the client's.
        """
        allowed = await self._allowed(context)
        if context.match.route is routes.DROPDOWN:
            await self._check_dropdown(context, allowed)
            return allowed
        if allowed is None or isinstance(operation, Ping | ReadJob | CancelJob | Purge):
            return allowed
        if isinstance(operation, ExecuteText):
            raise Forbidden(f"Client '{context.caller.name}' is bound to some queries and may send no SQL of its own.")
        if context.match.route.has_path_of(routes.DASHBOARD) or isinstance(operation, ReadBoard):
            self._check_path(context)
        elif not isinstance(operation, ReadResult) or operation.query_id is not None:
            self._check_query(context.caller, context.match.query_id, allowed, operation)
        return allowed

    def _check_query(self, caller: Caller, query_id: int | None, allowed: frozenset[int], operation: Operation) -> None:
        if query_id is None and isinstance(operation, Relay):
            return  # dashboards are checked by their response; other routes open to bound clients show no query
        if query_id not in allowed:
            raise Forbidden(f"Query {query_id} is not among those of client '{caller.name}'.")

    async def _check_dropdown(self, context: RequestContext, allowed: frozenset[int] | None) -> None:
        """Allow bound clients and query keys a dropdown query only through a query that declares it.

        Redash itself shows a query key the first column of any query on a source of its groups (CONTRACT 12).
        """
        query_id, dropdown = context.match.query_id, context.match.number("dropdown_id")
        credential = context.credential
        if allowed is None and not credential.is_query_key:
            return
        if allowed is not None:
            self._check_query(context.caller, query_id, allowed, Ping())
        if dropdown in (allowed or ()) or query_id is None:
            return
        definition = await self._definitions.get(credential, query_id, context.sender)
        if dropdown not in _declared(definition):
            raise Forbidden(f"Query {dropdown} is no dropdown of query {query_id}.")

    def _check_path(self, context: RequestContext) -> None:
        """Refuse a dashboard before the request to Redash where the path has its id; slugs are checked afterwards."""
        named, boards = context.match.parts["dashboard"], self._boards(context)
        if not boards or (
            named.isdecimal() and int(named) not in boards and "legacy" not in context.request.query_string
        ):
            self.check_dashboard(context, None)

    def check_dashboard(self, context: RequestContext, dashboard_id: int | None) -> None:
        """Refuse a dashboard that is not among the client's, by the id in Redash's response.

        Raises:
            Forbidden: it is not among them, or its id is not known.
        """
        if context.caller.is_bound and dashboard_id not in self._boards(context):
            raise Forbidden(f"This dashboard is not among those of client '{context.caller.name}'.")


def _declared(definition: Definition) -> frozenset[int]:
    return frozenset(p.queryId for p in definition.parameters if p.type == "query" and p.queryId is not None)
