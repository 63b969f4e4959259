"""decide(request, client) → Plan, and: does the plan accept this entry now? Pure; freshness is judged only here."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway import config
from gateway.errors import Forbidden, NotAcceptable
from gateway.model import Definition, Entry, Key, Schedule
from gateway.outcome import MissReason
from gateway.policy.access import Caller, Credential
from gateway.policy.bounds import Bounds, bounds_for
from gateway.policy.context import RequestContext
from gateway.policy.keys import execution_key
from gateway.policy.memo import IdentityMemo
from gateway.policy.values import fitted
from gateway.redash.parameters import is_raw_sql
from gateway.redash.requests import Execute, ExecuteText, ReadParameterised
from gateway.redash.responses import parse_time
from gateway.redash.schedule import longest_age, stands_for


class Standing(msgspec.Struct, frozen=True):
    """What a query's schedule in Redash means for its results."""

    schedule: Schedule
    otherwise: float
    """The effective max_age of a result that does not stand in, because Redash has a newer one."""

    def lasts(self, entry: Entry, latest: int | None) -> float:
        """Return up to which age a result is accepted. `latest` is the one that the definition names, None: unknown."""
        if latest is not None and entry.result_id < latest:
            return self.otherwise
        return max(self.otherwise, stands_for(self.schedule, parse_time(entry.retrieved_at)))


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision for one execution request."""

    key: Key
    credential: Credential
    query_id: int
    marker: str
    max_age: float | None
    """Effective: after floor and ceiling; None for any age."""
    forced: bool
    """The caller requested an execution, so it must get a job even when the floor lets an entry satisfy it."""
    bounds: Bounds
    operation: Execute | ExecuteText
    definition: Definition | None = None
    standing: Standing | None = None
    """Set where the query's schedule is followed, once `adapted`."""

    @property
    def is_adaptive(self) -> bool:
        """Whether its bounds depend on what is stored, or on the time: see `adapted`."""
        return self.bounds.runtimes is not None or self.bounds.follow_schedule

    @property
    def data_source_id(self) -> int | None:
        """Return the source of the query, or of the free SQL; None for queries that have none."""
        if isinstance(self.operation, ExecuteText):
            return self.operation.data_source_id
        return self.definition.data_source_id if self.definition is not None else None

    def accepts(self, entry: Entry, now: float) -> float | None:
        """Judge an entry: seconds for which it stays acceptable, negative since it no longer is, None if it never was.

        Rules (docs/freshness.md): a numeric max_age is inclusive, as in Redash (CONTRACT 10); any age requires that
        the entry was confirmed as the newest; both require the marker of the definition in force, and free SQL, which
        has no definition, that Redash has given the rows to this key lately.
        """
        if entry.marker != self.marker:
            return None
        slack = self._freshness(entry, now)
        return slack if slack is None else min(slack, self.shown_lately(entry, now))

    def rejection(self, entry: Entry, now: float) -> MissReason:
        """Say why `accepts` does not accept the entry."""
        if entry.marker != self.marker:
            return "marker_changed"
        stale = self.max_age is not None and (self._freshness(entry, now) or 0.0) < 0
        return "stale" if stale else "unconfirmed"

    def shown_lately(self, entry: Entry, now: float) -> float:
        """Return for how many seconds free SQL needs no new check of its rights in Redash; inf for saved queries."""
        if self.definition is not None:
            return math.inf
        return self.bounds.definition_check - (now - entry.confirmed)

    def _freshness(self, entry: Entry, now: float) -> float | None:
        if self.max_age is None:
            confirmed = max(entry.confirmed, self._checked_as_latest(entry))
            return self.bounds.any_age_confirm - (now - confirmed) if confirmed > -math.inf else -math.inf
        if self.max_age <= 0:
            return None
        lasts = self.max_age
        if self.standing is not None and self.definition is not None:
            lasts = min(self.standing.lasts(entry, self.definition.latest_result_id), self.bounds.ceiling)
        return lasts - entry.age(now)

    def not_before(self, now: float) -> float:
        """Return the moment (monotonic) from which on rows must be, for a caller that requests them now."""
        return -math.inf if self.max_age is None else now - max(0.0, self.max_age)

    def _checked_as_latest(self, entry: Entry) -> float:
        """Return when a definition named the entry as the query's latest (an archived query's may be out of date)."""
        definition = self.definition
        if definition is None or definition.is_archived or definition.latest_result_id != entry.result_id:
            return -math.inf
        return definition.checked

    def upstream_max_age(self) -> int | None:
        """Return the max_age for Redash: floors and ceilings apply there, too."""
        return None if self.max_age is None else math.floor(self.max_age)

    def at_least_as_lenient(self, max_age: float | None) -> bool:
        """Whether a result that satisfies `max_age` satisfies this plan, too."""
        if self.max_age is None:
            return True
        return max_age is not None and self.max_age >= max_age


def adapted(plan: Plan, last: Entry | None, wall: float) -> Plan:
    """Return the plan with the bounds that depend on the last run of its query and values, and on the schedule.

    `last` is what is stored under its key; `wall` is unix seconds.
    """
    bounds = plan.bounds
    runtime = last.runtime if last is not None and last.marker == plan.marker else 0.0
    max_age, standing = bounds.effective(plan.operation.max_age, runtime), None
    schedule = _followed(plan)
    if schedule is not None and max_age is not None:
        standing = Standing(schedule, max_age)
        max_age = min(max(max_age, longest_age(schedule, wall)), bounds.ceiling)
    forced = plan.operation.max_age == 0 and max_age != 0
    return msgspec.structs.replace(plan, max_age=max_age, standing=standing, forced=forced)


def _followed(plan: Plan) -> Schedule | None:
    """Return the schedule that brings results for this plan: Redash refreshes a query with its default values only."""
    definition, operation = plan.definition, plan.operation
    if not plan.bounds.follow_schedule or definition is None or definition.is_archived:
        return None
    if not isinstance(operation, Execute) or operation.refresh:
        return None
    defaults = {parameter.name: parameter.value for parameter in definition.parameters}
    if any(name not in defaults or defaults[name] != value for name, value in operation.parameters.items()):
        return None
    return definition.schedule


_bounds: Final[IdentityMemo[Bounds]] = IdentityMemo(1_024)
_keys: Final[IdentityMemo[Key]] = IdentityMemo(4_096)


def plan_for(
    context: RequestContext,
    operation: Execute | ExecuteText | ReadParameterised,
    run: Execute | ExecuteText,
    definition: Definition | None,
) -> Plan:
    """Decide how to respond to a request for the result of `run`. `definition` is None for free SQL.

    Raises:
        Forbidden: the query uses the caller's text as SQL, and the client may not send any.
        NotAcceptable: the form cannot be made with this credential.
    """
    if isinstance(operation, ReadParameterised) and operation.form == "xlsx" and context.credential.is_query_key:
        raise NotAcceptable("A query key's result cannot be made into XLSX; request csv, tsv or json.")
    plan = decide(run, context.caller, context.credential, definition, context.configured.settings.cache)
    if definition is not None:
        check_raw_sql(context.caller, run, definition)
    return plan


def replanned(plan: Plan, definition: Definition) -> Plan:
    """Return the plan of a run by the definition as it is now: what the earlier one allowed is judged again.

    Raises:
        Forbidden: the query has come to take text that becomes SQL, and nobody has judged who may send some.
        BadRequest, UpstreamRefused: a value does not fit the definition, or is missing.
    """
    if definition.marker == plan.marker:
        return msgspec.structs.replace(plan, definition=definition)
    if is_raw_sql(definition) and (plan.definition is None or not is_raw_sql(plan.definition)):
        raise Forbidden(
            f"Query {definition.query_id} was edited meanwhile, and now takes text that becomes SQL as it is."
        )
    made = fitted(plan.operation, definition)
    return msgspec.structs.replace(plan, definition=definition, marker=definition.marker, operation=made)


def check_raw_sql(caller: Caller, operation: Execute | ExecuteText | ReadParameterised, definition: Definition) -> None:
    """Refuse queries that put the caller's text into the SQL unescaped (CONTRACT 2, 20.10).

    Raises:
        Forbidden: names the setting that would allow it.
    """
    if caller.may("adhoc") or caller.settings.text_parameters:
        return
    arguments = isinstance(operation, Execute) and operation.refresh and operation.arguments
    if arguments or is_raw_sql(definition):
        raise Forbidden(
            f"Query {definition.query_id} takes text that becomes SQL unescaped (a parameter of type 'text' or of an "
            f"unknown type, or one without definition). Client '{caller.name}' needs the capability 'adhoc' or "
            "'text_parameters = true'."
        )


def decide(
    operation: Execute | ExecuteText,
    caller: Caller,
    credential: Credential,
    definition: Definition | None,
    cache: config.Cache,
) -> Plan:
    """Decide how to respond to one execution request. `definition` is None for free SQL."""
    bounds = _bounds.get((caller, definition, cache), lambda: bounds_for(caller, definition, cache))
    max_age = bounds.effective(operation.max_age)
    return Plan(
        key=_keys.get((operation, credential), lambda: execution_key(credential.scope, operation)),
        credential=credential,
        query_id=operation.query_id if isinstance(operation, Execute) else 0,
        marker=definition.marker if definition else "",
        max_age=max_age,
        forced=operation.max_age == 0 and max_age != 0,
        bounds=bounds,
        operation=operation,
        definition=definition,
    )


def stricter(one: float | None, other: float | None) -> float | None:
    """Return the smaller of two effective max_ages; None stands for any age."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def age_on_arrival(retrieved_at: float, received_at: float, date: float | None) -> float:
    """Age of a result on arrival: by our own clock where Redash's `Date` agrees with it within 2 s, else by `Date`.

    All times are unix seconds. `Date` has whole seconds and may be late by one, hence the added second. Never negative.
    """
    if date is None or abs(date - received_at) <= 2.0:
        return max(0.0, received_at - retrieved_at)
    return max(0.0, date + 1.0 - retrieved_at)
