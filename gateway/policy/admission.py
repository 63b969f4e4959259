"""The first step of the way: find the route and the client of a request, and check the client's rate."""

from __future__ import annotations

import contextlib

from gateway.errors import BadRequest, GatewayError, Unauthorized
from gateway.model import Clock, Request
from gateway.outcome import Outcome
from gateway.policy.access import NOBODY, Access, Caller
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext, honoured_wait
from gateway.policy.origins import check_origin
from gateway.policy.quotas import Quotas
from gateway.redash.matching import match


class Admission:
    """Admits requests by the configuration in force."""

    def __init__(self, live: Live, quotas: Quotas, clock: Clock) -> None:
        self.settle = quotas.settle
        self._live = live
        self._quotas = quotas
        self._clock = clock

    def admit(self, request: Request, outcome: Outcome) -> RequestContext:
        """Return what is requested and by which client; count it against the client's rate.

        Raises:
            GatewayError: there is no such route, or the client may not use it.
            TokensNeeded: as `Quotas.take` raises it.
        """
        configured, wall = self._live.configured, self._clock.wall()
        access, server = configured.access, configured.settings.server
        outcome.method = request.method
        try:
            found = match(request.method, request.path, configured.slug, server.path_prefix)
        except GatewayError:  # no such route: it counts against the rate all the same
            self._count(request, outcome, access, wall)
            raise
        outcome.route = found.route.template
        caller, credential = NOBODY, None
        if found.route.kind != "ping":
            caller = self._identify(request, outcome, access, wall)
            self._quotas.take(caller, outcome)
            check_origin(request, server.cors_origins)
            credential = access.grant(caller, found)
        outcome.query_id = found.query_id
        wait = honoured_wait(request, server.max_wait)
        return RequestContext(request, found, caller, outcome, configured, wall, credential, wait)

    def _identify(self, request: Request, outcome: Outcome, access: Access, wall: float) -> Caller:
        caller, outcome.token_sha256 = access.admit(request.token, request.query_string, wall)
        outcome.client = caller.name
        return caller

    def _count(self, request: Request, outcome: Outcome, access: Access, wall: float) -> None:
        """Count a request that has no route; one without a good token has no rate to count against."""
        with contextlib.suppress(Unauthorized, BadRequest):
            self._quotas.take(self._identify(request, outcome, access, wall), outcome)
