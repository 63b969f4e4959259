"""The limits on freshness that apply to one client and query: from its table, the rules and the cache section. Pure."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from gateway import config
from gateway.config.units import RuntimeFloor
from gateway.model import Definition
from gateway.policy.access import Caller


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The limits for a request, from the client's table, the rules and the cache section, in that order. Seconds."""

    floor: float = 0.0
    runtimes: RuntimeFloor | None = None
    """A floor by the runtime of the last run, in place of `floor`."""
    ceiling: float = math.inf
    follow_schedule: bool = False
    """A result of a query that Redash refreshes by schedule stands in until the next one is due."""
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    stale_over_budget: float = 0.0
    any_age_confirm: float = 60.0
    definition_check: float = 60.0
    max_executions: float = math.inf
    """The client's limit of concurrent executions."""

    def effective(self, max_age: int | None, runtime: float = 0.0) -> float | None:
        """Return the effective max_age after a run of so many seconds (0: unknown); None stands for any age."""
        if max_age is None:
            return None if self.ceiling == math.inf else self.ceiling
        floor = self.floor if self.runtimes is None else self.runtimes.seconds(runtime)
        return min(max(max_age, floor), self.ceiling)


def bounds_for(caller: Caller, definition: Definition | None, cache: config.Cache) -> Bounds:
    """Collect the limits for one client and query: client's table, first rule that matches, cache section."""
    rule = next((r for r in cache.rules if definition is not None and _applies(r, definition)), None)
    tables = (caller.settings, rule, cache)

    def first(name: str, otherwise: Any) -> Any:
        values = (getattr(table, name) for table in tables if table is not None)
        return next((value for value in values if value is not None), otherwise)

    floor = first("floor", 0.0)
    by_runtime = isinstance(floor, RuntimeFloor)
    return Bounds(
        floor=0.0 if by_runtime else floor,
        runtimes=floor if by_runtime else None,
        follow_schedule=first("follow_schedule", False),
        ceiling=first("ceiling", math.inf),
        stale_while_revalidate=first("stale_while_revalidate", 0.0),
        stale_if_error=first("stale_if_error", 0.0),
        stale_over_budget=caller.settings.stale_over_budget or 0.0,
        any_age_confirm=cache.any_age_confirm,
        definition_check=cache.definition_check,
        max_executions=caller.settings.max_executions or math.inf,
    )


def origins_of(caller: Caller, definition: Definition | None, cache: config.Cache) -> dict[str, tuple[object, str]]:
    """Return each limit that is set, as it is configured, and the table that it comes from."""
    found: dict[str, tuple[object, str]] = {}
    for place, table in _tables(caller, definition, cache):
        for name in _NAMES:
            if (value := getattr(table, name)) is not None:
                found.setdefault(name, (value, place))
    client, place = caller.settings, f"clients.{caller.name}"
    if client.budget:
        found["budget"] = (", ".join(map(str, client.budget)), place)
        found["stale_over_budget"] = (client.stale_over_budget or 0.0, place)
    return found | {name: (getattr(cache, name), "cache") for name in ("any_age_confirm", "definition_check")}


_NAMES: Final = ("floor", "follow_schedule", "ceiling", "stale_while_revalidate", "stale_if_error")


def _tables(
    caller: Caller, definition: Definition | None, cache: config.Cache
) -> list[tuple[str, config.Client | config.Rule | config.Cache]]:
    """Return the tables that limit a request, as in `bounds_for`, each with its name in the file."""
    rules = enumerate(cache.rules, start=1) if definition is not None else ()
    applying = ((f"cache.rules, number {n}", rule) for n, rule in rules if definition and _applies(rule, definition))
    rule = next(applying, None)
    return [(f"clients.{caller.name}", caller.settings), *([rule] if rule is not None else []), ("cache", cache)]


def _applies(rule: config.Rule, definition: Definition) -> bool:
    return (
        definition.query_id in rule.queries
        or definition.data_source_id in rule.data_sources
        or not set(definition.tags).isdisjoint(rule.tags)
    )
