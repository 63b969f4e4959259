"""Builds the report from the state of the running parts and the counts of the recorder."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from gateway import __version__, config
from gateway.admin import health, report
from gateway.admin.causes import MISSES, meaning
from gateway.admin.health import Health
from gateway.admin.rows import Rows, by_requests, by_run_time
from gateway.concurrency.slots import FairSlots
from gateway.executions.budgets import Budgets
from gateway.executions.flights import Executions
from gateway.model import TierStats
from gateway.policy.access import Access
from gateway.policy.quotas import Quotas
from gateway.results.definitions import Definitions
from gateway.results.organisation import OrganisationReader
from gateway.telemetry.history import Counts, lookups, rate
from gateway.telemetry.levels import Levels
from gateway.telemetry.recorder import StatusRecorder
from gateway.telemetry.tables import UpstreamRow
from gateway.upstream.client import HttpUpstream
from gateway.warming.state import WarmState
from gateway.warming.warmer import Warmer

MOST_RUNNING: Final = 50
MOST_QUERIES: Final = 10
MOST_CLIENTS: Final = 10
MOST_INCIDENTS: Final = 8
MOST_WARM: Final = 50

MEANINGS: Final = {
    "hit": "from the cache",
    "stale": "from the cache, stale",
    "collapsed": "shared another caller's request",
    "miss": "fetched from Redash, or run",
    "bypass": "never cached: writes and some lists",
    "none": "nothing to cache: job polls, rejected requests, pings",
}


class Parts(NamedTuple):
    """The parts of the running gateway that the report reads."""

    settings: config.Config
    access: Access
    quotas: Quotas
    budgets: Budgets
    definitions: Definitions
    recorder: StatusRecorder
    executions: Executions
    upstream: HttpUpstream
    warmer: Warmer
    organisation: OrganisationReader


def build_report(parts: Parts, levels: Levels, *, ready: bool, now: float, wall: float) -> report.Report:
    """Return the report. `now` is monotonic, `wall` unix seconds."""
    recorder = parts.recorder
    hour, uptime = recorder.history.hour(now), max(0.0, now - recorder.started)
    conditions = _health(parts, levels, now, wall)
    state, text = health.verdict(conditions, hour, uptime, ready=ready)
    rows = rows_of(parts, now, wall)
    running = sorted(parts.executions.running, key=lambda execution: execution.started)
    return report.Report(
        verdict=text,
        state=state,
        name=levels.name,
        version=__version__,
        redash_version=parts.organisation.known_version.number,
        redash=parts.organisation.known_version.meaning(),
        ready=ready,
        uptime_seconds=round(uptime, 1),
        at=round(wall, 3),
        redash_url=parts.settings.upstream.url,
        health=conditions,
        hour=_hour(hour),
        totals=_totals(recorder),
        outcomes=[report.OutcomeCount(o, m, hour.cache[o], recorder.requests[o]) for o, m in MEANINGS.items()],
        misses=[report.MissCount(reason, MISSES[reason], count) for reason, count in recorder.misses.items()],
        reasons=_reasons(recorder, hour),
        failures=rows.failures(MOST_INCIDENTS),
        refusals=rows.refusals(MOST_INCIDENTS),
        slow=rows.slow(MOST_INCIDENTS),
        running=[rows.running(execution) for execution in running[:MOST_RUNNING]],
        running_count=len(running),
        waiting=levels.execution_waiters,
        queries=rows.queries(by_requests, MOST_QUERIES),
        slowest=rows.queries(by_run_time, MOST_QUERIES),
        queries_count=len(recorder.queries),
        clients=rows.clients(MOST_CLIENTS),
        clients_count=len(recorder.clients.keys() | parts.settings.clients.keys()),
        upstream=_routes(recorder.upstream_routes),
        credentials=sorted(parts.access.credentials),
        slots=[_slots("requests", parts.upstream.slots), _slots("executions", parts.executions.slots)],
        cache=[_tier(tier) for tier in levels.tiers],
        gateways=_gateways(levels),
        warm=[_warm(entry) for entry in parts.warmer.states[:MOST_WARM]],
        history=recorder.history.series(now, recorder.started),
    )


def rows_of(parts: Parts, now: float, wall: float) -> Rows:
    """Return what makes the rows of tables at this moment."""
    return Rows(parts.settings, parts.quotas, parts.budgets, parts.definitions, parts.recorder, now, wall)


def _health(parts: Parts, levels: Levels, now: float, wall: float) -> list[Health]:
    recorder, tiers = parts.recorder, levels.tiers
    return [
        health.redash(recorder.reached, recorder.unreached, now, breaker_open=levels.breaker_open),
        health.credentials(list(parts.access.credentials), recorder.accepted),
        health.breaker(is_open=levels.breaker_open),
        health.queue(levels.upstream_queue),
        health.runs(recorder.history.last(health.RUN_SECONDS, now)),
        health.store([(t.tier, t.up) for t in tiers], max((t.entries for t in tiers), default=0)),
        *([health.sharing(levels.sharing)] if levels.sharing is not None else []),
        health.configuration(wall - levels.reloaded_at, successful=levels.reload_successful),
    ]


def _hour(hour: Counts) -> report.Hour:
    return report.Hour(
        requests=hour.requests,
        lookups=lookups(hour.cache),
        hit_rate=hour.hit_rate(),
        saved_seconds=hour.saved,
        p50_seconds=hour.quantile(0.5),
        p99_seconds=hour.quantile(0.99),
        upstream_requests=hour.upstream,
        upstream_errors=hour.upstream_errors,
        executions=hour.executions,
        failed_runs=hour.failures,
        errors=hour.errors,
        refused=hour.refused,
    )


def _totals(recorder: StatusRecorder) -> report.Totals:
    routes = recorder.upstream_routes.values()
    return report.Totals(
        requests=sum(recorder.requests.values()),
        refused=recorder.refused,
        executions=sum(recorder.executions.values()),
        failed_executions=recorder.executions["failure"] + recorder.executions["lost"],
        saved_executions=recorder.saved_executions,
        saved_seconds=recorder.saved_seconds,
        upstream_requests=sum(row.requests for row in routes),
        upstream_errors=sum(row.errors for row in routes),
    )


def _reasons(recorder: StatusRecorder, hour: Counts) -> list[report.ReasonCount]:
    """Return why requests were refused or failed, the most frequent reason first."""
    by_number = sorted(recorder.reasons.items(), key=lambda item: -item[1])
    return [report.ReasonCount(why, meaning(why), hour.reasons.get(why, 0), number) for why, number in by_number]


def _tier(tier: TierStats) -> report.Tier:
    state = "up" if tier.up else "down"
    return report.Tier(tier.tier, state, tier.bytes, tier.limit, tier.entries, tier.evictions)


def _routes(routes: dict[str, UpstreamRow]) -> list[report.UpstreamRoute]:
    by_use = sorted(routes.items(), key=lambda item: -item[1].requests)
    return [
        report.UpstreamRoute(name, row.requests, row.errors, rate(row.seconds, row.requests)) for name, row in by_use
    ]


def _slots(name: str, slots: FairSlots) -> report.Slots:
    return report.Slots(name, slots.taken, slots.size, slots.queued)


def _gateways(levels: Levels) -> list[report.Gateway]:
    if (sharing := levels.sharing) is None:
        return []
    processes = Counter(name for name, _ in sharing.gateways)
    note = {levels.name: "this one"} | {name: "same name" for name, count in processes.items() if count > 1}
    here = [(name, note.get(name, ""), age) for name, age in sharing.gateways]
    away = [(name, "silent", age) for name, age in sharing.silent]
    return [report.Gateway(name, note, round(age, 1)) for name, note, age in sorted(here + away)]


def _warm(entry: WarmState) -> report.Warm:
    state = "failing" if entry.last_error else "fresh" if entry.runs else "not run yet"
    return report.Warm(entry.name, state, entry.every or None, entry.runs, entry.failures, entry.skips)
