"""Says what the gateway would do with a request, and why, without running or asking anything.

It goes the way of `pipeline.py` with what is known here. What only Redash knows is unknown; where Redash would be asked
first, the explanation holds for the case that it says the same as last time.
"""

from __future__ import annotations

import json
import math
from typing import Final

from gateway.errors import BadRequest, GatewayError, UpstreamRefused
from gateway.executions.explanation import WHY, Bound, Explanation, Question, Stored
from gateway.executions.flights import Executions
from gateway.executions.guard import check_size
from gateway.executions.limits import Limits
from gateway.executions.lookup import ResultLookup
from gateway.model import Clock, Definition, Request
from gateway.outcome import Outcome
from gateway.policy.access import Caller, Credential, check_operation
from gateway.policy.bounds import origins_of
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext
from gateway.policy.plan import Plan, plan_for
from gateway.policy.values import fit
from gateway.redash.matching import Match, execution_of
from gateway.redash.max_age import parse_max_age
from gateway.redash.requests import Execute, ReadParameterised
from gateway.results.cache import StoredResult
from gateway.results.definitions import LATE_SECONDS
from gateway.results.parts import ResultParts
from gateway.upstream.protocol import Upstream

_RECHECK: Final = f"whether the query has changed (for {LATE_SECONDS:g} s at most)"


class Explainer:
    """Explains requests of the clients in the configuration in force."""

    def __init__(
        self,
        live: Live,
        results: ResultParts,
        flights: Executions,
        lookup: ResultLookup,
        limits: Limits,
        upstream: Upstream,
        clock: Clock,
    ) -> None:
        self._live = live
        self._results = results
        self._flights = flights
        self._lookup = lookup
        self._limits = limits
        self._upstream = upstream
        self._clock = clock

    async def explain(self, question: Question) -> Explanation:
        """Explain one request.

        Raises:
            BadRequest: there is no such client, or the question cannot be a request.
        """
        caller = self._live.access.callers.get(question.client)
        if caller is None:
            known = ", ".join(sorted(self._live.access.callers)) or "none"
            raise BadRequest(f"There is no client '{question.client[:100]}'; the clients are: {known}.")
        found = execution_of(question.query)
        explained = Explanation(
            decision="refused", why="", client=caller.name, query_id=question.query, max_age_seconds=question.max_age
        )
        if caller.has_expired(self._clock.wall()):
            explained.why = f"401: the tokens of client '{caller.name}' have expired (clients.{caller.name}.expires)"
            return explained
        try:
            await self._follow(explained, _context(self._live, caller, found, question, self._clock), question)
        except GatewayError as error:
            explained.decide("refused", _words(error))
        return explained

    async def _follow(self, explained: Explanation, context: RequestContext, question: Question) -> None:
        """Go the way of the request as far as it leads."""
        operation = _operation(question)
        check_operation(context.caller, operation)
        explained.credential_why = _choice(context)
        credential = context.credential
        explained.credential = credential.name
        allowed = self._results.bindings.foresee(context)
        if allowed is None:
            explained.asks_first.append("the client's dashboards, to learn whether this query is on one of them")
        elif not allowed:
            explained.why = f"Query {question.query} is not among those of client '{context.caller.name}'."
            return
        definition = await self._definition(explained, credential, question.query)
        if definition is None:
            explained.decide("unknown", "Redash would be asked for the query first: it is not known here")
            return
        run = fit(operation, definition, context)
        plan = await self._lookup.adapted(plan_for(context, operation, run, definition))
        self._describe(explained, context, plan, definition)
        refusal, age = self._results.pauses.known(plan)
        if age > self._live.settings.cache.definition_check:
            explained.asks_first.append("whether the data source is paused")
        if refusal:
            explained.why = refusal
            return
        await self._decide(explained, plan)

    async def _definition(self, explained: Explanation, credential: Credential, query_id: int) -> Definition | None:
        known, age = await self._results.definitions.known(credential, query_id)
        cache = self._live.settings.cache
        if known is None or self._clock.monotonic() - known.checked > cache.definition_check + cache.stale_if_error:
            return None
        if age > cache.definition_check and not self._upstream.is_unavailable:
            explained.asks_first.append(_RECHECK)
        return known

    def _describe(self, explained: Explanation, context: RequestContext, plan: Plan, definition: Definition) -> None:
        explained.query = definition.name
        explained.key = plan.key.hex()
        run = plan.operation
        explained.values = sorted(run.parameters) if isinstance(run, Execute) else []
        explained.effective_max_age_seconds = plan.max_age
        origins = origins_of(context.caller, definition, context.configured.settings.cache)
        explained.bounds = [Bound(name, _shown(value), origin) for name, (value, origin) in origins.items()]

    async def _decide(self, explained: Explanation, plan: Plan) -> None:
        """Decide as the look-up does; see `ResultLookup.find` and `join_or_execute`."""
        stored = await self._results.cache.get(plan.key)
        now = self._clock.monotonic()
        slack = plan.accepts(stored.entry, now) if stored is not None else None
        if stored is not None:
            explained.stored = _stored(stored, slack, now)
        asks_newest = plan.max_age is None and _RECHECK in explained.asks_first
        if stored is not None and asks_newest and now - stored.entry.confirmed > plan.bounds.any_age_confirm:
            explained.decide("unknown", "Redash would be asked for the query, which names its newest result")
            return
        if stored is not None and slack is not None and slack >= 0:
            explained.decide("hit", "what is stored is fresh enough")
            return
        usable = stored is not None and slack is not None
        late = math.inf if slack is None else -slack
        if usable and late <= plan.bounds.stale_while_revalidate:  # saved queries only: free SQL needs more
            explained.decide("stale", "what is stored is not fresh; it is used (stale_while_revalidate) and renewed")
            return
        check = usable and self._results.cache.needs_check(plan)
        reason = self._results.cache.why(plan, stored, now)
        because = WHY[reason]
        if self._upstream.is_unavailable:
            self._decide_in_outage(explained, plan, because, late if usable else math.inf)
        elif self._flights.failures.get(plan) is not None:
            explained.decide(
                "collapsed",
                f"{because}; the same run failed a moment ago (cache.failure_ttl)",
            )
        elif self._flights.current.would_join(plan, check=check) is not None:
            explained.decide("collapsed", f"{because}; the request joins a run that is in progress")
        elif self._flights.current.blocking(plan, check=check) is not None:
            explained.decide(
                "unknown",
                f"{because}; another run is just being sent to Redash, and it waits",
            )
        else:
            self._limits.check(plan, explained.client)
            check_size(plan)
            await self._decide_by_budget(explained, plan, because, late if usable else math.inf)

    async def _decide_by_budget(self, explained: Explanation, plan: Plan, because: str, late: float) -> None:
        await self._limits.refresh(explained.client)
        refusal = self._limits.refusal(plan, explained.client)
        if refusal is None:
            explained.decide("miss", f"{because}; the query runs in Redash")
        elif late <= plan.bounds.stale_over_budget:
            explained.decide("stale", f"{because}; {refusal.detail} So it is used (stale_over_budget)")
        else:
            explained.decide("refused", f"{because}; {refusal.detail}")

    def _decide_in_outage(self, explained: Explanation, plan: Plan, because: str, late: float) -> None:
        if late <= plan.bounds.stale_if_error:
            explained.decide(
                "stale",
                f"{because}; Redash does not work, so it is used (stale_if_error)",
            )
        elif late <= plan.bounds.stale_over_budget and self._limits.refusal(plan, explained.client) is not None:
            explained.decide("stale", f"{because}; the budget is spent, so it is used (stale_over_budget)")
        else:
            explained.decide("refused", f"{because}, and Redash does not work")


def _context(live: Live, caller: Caller, found: Match, question: Question, clock: Clock) -> RequestContext:
    request = Request(method="POST", path=found.path(), query_string="", headers={}, accepts_gzip=False)
    outcome = Outcome(request_id="-", client=caller.name, query_id=question.query, started=clock.monotonic())
    chosen = live.access.grant(caller, found)
    return RequestContext(request, found, caller, outcome, live.configured, clock.wall(), chosen)


def _operation(question: Question) -> Execute | ReadParameterised:
    if question.arguments is not None and question.parameters is not None:
        raise BadRequest("Give arguments or parameters, not both.")
    if question.parameters is not None:
        return Execute(question.query, parse_max_age(question.max_age), question.parameters, None)
    given = tuple((f"p_{name}", value) for name, value in question.arguments or ())
    return ReadParameterised(question.query, "json", parse_max_age(question.max_age), given)


def _choice(context: RequestContext) -> str:
    """Say why the credential was chosen: the first in the client's list that can run the query."""
    names = context.caller.settings.credentials
    if context.chosen is None:
        return f"none of {', '.join(names)} can run this query"
    if context.chosen.name == names[0] or len(names) == 1:
        return "the first of the client's credentials"
    kind = "the query's own key" if context.chosen.is_query_key else "a user's key"
    return f"{kind}; the first of {', '.join(names)} that can run this query"


def _stored(stored: StoredResult, slack: float | None, now: float) -> Stored:
    entry = stored.entry
    fresh_for = slack if slack is not None and math.isfinite(slack) else None
    return Stored(entry.result_id, entry.age(now), entry.runtime, entry.size, fresh_for)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g} s" if isinstance(value, int | float) else str(value)


def _words(error: GatewayError) -> str:
    """Return the reason of a refusal; where it would be Redash's, in Redash's words."""
    if not isinstance(error, UpstreamRefused):
        return error.detail
    try:
        body = json.loads(error.body.load())
        return str(body.get("message") or body["job"]["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return error.detail
