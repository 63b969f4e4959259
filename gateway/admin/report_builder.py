"""Builds the report from the state of the running parts and the counts of the recorder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from gateway import __version__
from gateway.admin import health, report
from gateway.admin.health import Health
from gateway.concurrency.slots import FairSlots
from gateway.executions.execution import Execution, Phase
from gateway.executions.flights import Executions
from gateway.policy.access import Access
from gateway.results.organisation import OrganisationReader
from gateway.telemetry.history import Counts, lookups, rate, without_run
from gateway.telemetry.metrics import Levels
from gateway.telemetry.recorder import StatusRecorder
from gateway.telemetry.tables import ClientRow, QueryRow, UpstreamRow
from gateway.upstream.client import HttpUpstream
from gateway.warm import Warmer, WarmState

MOST_RUNNING: Final = 50
MOST_QUERIES: Final = 15
MOST_CLIENTS: Final = 30
MOST_WARM: Final = 50

MEANINGS: Final = {
    "hit": "from the cache",
    "stale": "from the cache, stale",
    "collapsed": "shared another caller's request",
    "miss": "fetched from Redash, or run",
    "bypass": "never cached: writes and some lists",
    "none": "nothing to cache: job polls, rejected requests, pings",
}
PHASES: Final = {
    Phase.QUEUED: "queued here",
    Phase.POSTING: "being submitted to Redash",
    Phase.RUNNING: "running in Redash",
    Phase.ENDED: "ending",
}
NO_CLIENT: Final = "(no client)"


class Parts(NamedTuple):
    """The parts of the running gateway that the report reads."""

    access: Access
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
    running = sorted(parts.executions.running, key=lambda execution: execution.started)
    return report.Report(
        verdict=text,
        state=state,
        version=__version__,
        redash_version=parts.organisation.known_version.number,
        redash=parts.organisation.known_version.meaning(),
        ready=ready,
        uptime_seconds=round(uptime, 1),
        at=round(wall, 3),
        health=conditions,
        hour=_hour(hour),
        totals=_totals(recorder),
        outcomes=[report.OutcomeCount(o, m, hour.cache[o], recorder.requests[o]) for o, m in MEANINGS.items()],
        running=[_running(execution, now) for execution in running[:MOST_RUNNING]],
        running_count=len(running),
        waiting=levels.execution_waiters,
        queries=_queries(recorder, lambda row: float(sum(row.cache.values()))),
        slowest=_queries(recorder, lambda row: row.mean_runtime or 0.0),
        queries_count=len(recorder.queries),
        clients=_clients(recorder, now),
        clients_count=len(recorder.clients),
        upstream=_routes(recorder.upstream_routes),
        credentials=sorted(parts.access.credentials),
        slots=[_slots("requests", parts.upstream.slots), _slots("executions", parts.executions.slots)],
        cache=[report.Tier(t.tier, "up" if t.up else "down", t.bytes, t.entries, t.evictions) for t in levels.tiers],
        warm=[_warm(entry) for entry in parts.warmer.states[:MOST_WARM]],
        history=recorder.history.series(now),
    )


def _health(parts: Parts, levels: Levels, now: float, wall: float) -> list[Health]:
    recorder, tiers = parts.recorder, levels.tiers
    return [
        health.redash(recorder.reached, recorder.unreached, now, breaker_open=levels.breaker_open),
        health.credentials(list(parts.access.credentials), recorder.accepted),
        health.breaker(is_open=levels.breaker_open),
        health.queue(levels.upstream_queue),
        health.runs(recorder.history.last(health.RUN_STEPS, now)),
        health.store([(t.tier, t.up) for t in tiers], max((t.entries for t in tiers), default=0)),
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


def _running(execution: Execution, now: float) -> report.Running:
    seconds = round(now - execution.started, 1)
    return report.Running(
        execution.plan.query_id,
        PHASES[execution.phase],
        seconds,
        execution.callers,
        execution.waiters,
        execution.sender.client,
    )


def _queries(recorder: StatusRecorder, weight: Callable[[QueryRow], float]) -> list[report.Query]:
    """Return the queries of the greatest weight, without those of none."""
    weighed = sorted(((weight(row), query, row) for query, row in recorder.queries.items()), key=lambda w: -w[0])
    return [_query(query, row) for heavy, query, row in weighed[:MOST_QUERIES] if heavy]


def _query(query: int, row: QueryRow) -> report.Query:
    return report.Query(
        query=query,
        requests=sum(row.cache.values()),
        hit_rate=rate(without_run(row.cache), lookups(row.cache)),
        runs=row.runs,
        failures=row.failures,
        mean_seconds=row.mean_runtime,
        saved_seconds=row.saved,
    )


def _clients(recorder: StatusRecorder, now: float) -> list[report.Client]:
    weighed = sorted(((sum(row.cache.values()), name, row) for name, row in recorder.clients.items()), reverse=True)
    return [_client(name, row, now) for _, name, row in weighed[:MOST_CLIENTS]]


def _client(name: str, row: ClientRow, now: float) -> report.Client:
    return report.Client(
        client=NO_CLIENT if name == "-" else name,
        requests=sum(row.cache.values()),
        hit_rate=rate(without_run(row.cache), lookups(row.cache)),
        refused=row.refused,
        seen_seconds=round(now - row.seen, 1),
    )


def _routes(routes: dict[str, UpstreamRow]) -> list[report.UpstreamRoute]:
    by_use = sorted(routes.items(), key=lambda item: -item[1].requests)
    return [
        report.UpstreamRoute(name, row.requests, row.errors, rate(row.seconds, row.requests)) for name, row in by_use
    ]


def _slots(name: str, slots: FairSlots) -> report.Slots:
    return report.Slots(name, slots.taken, slots.size, slots.queued)


def _warm(entry: WarmState) -> report.Warm:
    state = "failing" if entry.last_error else "fresh" if entry.runs else "not run yet"
    return report.Warm(entry.name, state, entry.every, entry.runs, entry.failures, entry.skips)
