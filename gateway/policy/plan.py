"""decide(request, client) → Plan, and: does the plan accept this entry now? Pure; freshness is judged only here."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from gateway import config
from gateway.errors import Forbidden, NotAcceptable
from gateway.model import Definition, Entry, Key
from gateway.outcome import MissReason
from gateway.policy.access import Caller, Credential
from gateway.policy.context import RequestContext
from gateway.policy.keys import execution_key
from gateway.policy.memo import IdentityMemo
from gateway.policy.values import fitted
from gateway.redash.parameters import is_raw_sql
from gateway.redash.requests import Execute, ExecuteText, ReadParameterised


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The limits for a request, from the client's table, the rules and the cache section, in that order. Seconds."""

    floor: float = 0.0
    ceiling: float = math.inf
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    any_age_confirm: float = 60.0
    definition_check: float = 60.0
    max_executions: float = math.inf
    """The client's limit of concurrent executions."""

    def effective(self, max_age: int | None) -> float | None:
        """Return the effective max_age; None stands for any age."""
        if max_age is None:
            return None if self.ceiling == math.inf else self.ceiling
        return min(max(max_age, self.floor), self.ceiling)


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
        return "stale" if self.max_age is not None and entry.age(now) > self.max_age else "unconfirmed"

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
        return self.max_age - entry.age(now)

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


_bounds: Final[IdentityMemo[Bounds]] = IdentityMemo(1_024)
_keys: Final[IdentityMemo[Key]] = IdentityMemo(4_096)


def bounds_for(caller: Caller, definition: Definition | None, cache: config.Cache) -> Bounds:
    """Collect the limits for one client and query: client's table, first rule that matches, cache section."""
    rule = next((r for r in cache.rules if definition is not None and _applies(r, definition)), None)
    tables = (caller.settings, rule, cache)

    def first(name: str, otherwise: float) -> float:
        values = (getattr(table, name) for table in tables if table is not None)
        return next((value for value in values if value is not None), otherwise)

    return Bounds(
        floor=first("floor", 0.0),
        ceiling=first("ceiling", math.inf),
        stale_while_revalidate=first("stale_while_revalidate", 0.0),
        stale_if_error=first("stale_if_error", 0.0),
        any_age_confirm=cache.any_age_confirm,
        definition_check=cache.definition_check,
        max_executions=caller.settings.max_executions or math.inf,
    )


def _applies(rule: config.Rule, definition: Definition) -> bool:
    return (
        definition.query_id in rule.queries
        or definition.data_source_id in rule.data_sources
        or not set(definition.tags).isdisjoint(rule.tags)
    )


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
