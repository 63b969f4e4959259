"""The first step of the way: find the route and the client of a request, and check the client's rate."""

from __future__ import annotations

from gateway.model import Clock, Request
from gateway.outcome import Outcome
from gateway.policy.access import NOBODY, check_capability
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext, honoured_wait
from gateway.policy.quotas import Quotas
from gateway.redash.matching import match


class Admission:
    """Admits requests by the configuration in force."""

    def __init__(self, live: Live, quotas: Quotas, clock: Clock) -> None:
        self._live = live
        self._quotas = quotas
        self._clock = clock

    def admit(self, request: Request, outcome: Outcome) -> RequestContext:
        """Return what is requested and by which client; count it against the client's rate.

        Raises:
            GatewayError: there is no such route, or the client may not use it.
        """
        configured, wall = self._live.configured, self._clock.wall()
        access = configured.access
        outcome.method = request.method
        matched = match(request.method, request.path, configured.slug)
        outcome.route = matched.route.template
        caller, credential = NOBODY, None
        if matched.route.kind != "ping":
            caller, outcome.token_sha256 = access.admit(request.headers, request.query_string, wall)
            outcome.client = caller.name
            credential = access.credential(caller, matched)
            self._quotas.take(caller, outcome)
            check_capability(caller, matched)
        outcome.query_id = matched.query_id
        wait = honoured_wait(request, configured.settings.server.max_wait)
        return RequestContext(request, matched, caller, outcome, configured, wall, credential, wait)
