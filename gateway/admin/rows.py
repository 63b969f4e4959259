"""The rows of the report's tables, of all queries, clients, requests and runs; the pages show the first or all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nlargest
from itertools import islice
from operator import itemgetter
from typing import Final

from gateway import config
from gateway.admin import report
from gateway.admin.causes import meaning
from gateway.admin.formats import duration
from gateway.executions.budgets import Budgets
from gateway.executions.execution import Execution, Phase
from gateway.policy.quotas import Quotas
from gateway.results.definitions import Definitions
from gateway.telemetry import log
from gateway.telemetry.exposition import Histogram
from gateway.telemetry.history import lookups, rate, without_run
from gateway.telemetry.incidents import Incident
from gateway.telemetry.recorder import StatusRecorder
from gateway.telemetry.tables import ClientRow, QueryRow

LONGEST_NAME: Final = 80
MOST_FAVOURITES: Final = 10
NO_CLIENT: Final = "(no client)"
PHASES: Final = {
    Phase.QUEUED: "queued here",
    Phase.POSTING: "being submitted to Redash",
    Phase.RUNNING: "running in Redash",
    Phase.ENDED: "ending",
}


def by_requests(row: QueryRow) -> float:
    """Weigh a query by its requests."""
    return float(sum(row.cache.values()))


def by_run_time(row: QueryRow) -> float:
    """Weigh a query by how long a run takes."""
    return row.mean_runtime or 0.0


class Rows:
    """Makes rows from the counts of the recorder, at one moment: `now` is monotonic, `wall` unix seconds."""

    def __init__(
        self,
        settings: config.Config,
        quotas: Quotas,
        budgets: Budgets,
        definitions: Definitions,
        recorder: StatusRecorder,
        now: float,
        wall: float,
    ) -> None:
        self._settings = settings
        self._quotas = quotas
        self._budgets = budgets
        self._definitions = definitions
        self._recorder = recorder
        self._now = now
        self._offset = wall - now

    def name_of(self, query_id: int | None) -> str:
        """Return a query's name without anything that looks like a key; "" where it is not known."""
        name = self._definitions.name_of(query_id) if query_id else ""
        return log.clean(name[:LONGEST_NAME]) if name else ""

    def queries(self, weight: Callable[[QueryRow], float], most: int) -> list[report.Query]:
        """Return the queries of the greatest weight, without those of none."""
        weighed = ((weight(row), query, row) for query, row in self._recorder.queries.items())
        return [self.query(query, row) for heavy, query, row in nlargest(most, weighed, key=itemgetter(0)) if heavy]

    def query(self, query: int, row: QueryRow) -> report.Query:
        """Return the row of one query."""
        return report.Query(
            query=query,
            name=self.name_of(query),
            requests=sum(row.cache.values()),
            hit_rate=rate(without_run(row.cache), lookups(row.cache)),
            runs=row.runs,
            failures=row.failures,
            mean_seconds=row.mean_runtime,
            saved_seconds=row.saved,
        )

    def detail(self, query_id: int) -> report.QueryDetail | None:
        """Return all that is known of one query; None if it was not requested since the start."""
        row = self._recorder.queries.get(query_id)
        if row is None:
            return None
        favourites = nlargest(MOST_FAVOURITES, row.favourites.counts.values())
        return report.QueryDetail(
            row=self.query(query_id, row),
            outcomes=_parts(row.cache.items()),
            misses=_parts(sorted(row.misses.items(), key=itemgetter(1), reverse=True)),
            ages=_parts(_spans(row.ages)),
            runtimes=_parts(_spans(row.runtimes)),
            parameters=_parts([(f"No. {n}", count) for n, count in enumerate(favourites, 1)]),
        )

    def clients(self, most: int) -> list[report.Client]:
        """Return the clients with most requests; those of the configuration that sent none come last."""
        known = self._recorder.clients
        weighed = [(sum(row.cache.values()), name, row) for name, row in known.items()]
        rows = [self._client(name, row) for _, name, row in nlargest(most, weighed, key=itemgetter(0))]
        silent = (name for name in self._settings.clients if name not in known)
        return rows + [self._client(name, None) for name in islice(silent, most - len(rows))]

    def _client(self, name: str, row: ClientRow | None) -> report.Client:
        settings, meter = self._settings.clients.get(name), self._quotas.of(name)
        cache, budgets = row.cache if row is not None else {}, self._budgets.states(name)
        return report.Client(
            client=NO_CLIENT if name == "-" else name,
            requests=sum(cache.values()),
            hit_rate=rate(without_run(cache), lookups(cache)) if cache else None,
            refused=row.refused if row is not None else 0,
            errors=row.errors if row is not None else 0,
            seen_seconds=round(self._now - row.seen, 1) if row is not None else None,
            rate=str(meter.rate) if meter is not None else "",
            remaining=meter.left(self._now).remaining if meter is not None else None,
            budget=" ".join(str(state.budget) for state in budgets),
            budget_left=min((round(state.left, 1) for state in budgets), default=None),
            expires=settings.expires if settings is not None else None,
        )

    def running(self, execution: Execution) -> report.Running:
        """Return the row of a run."""
        return report.Running(
            id=execution.id,
            query=execution.plan.query_id,
            name=self.name_of(execution.plan.query_id),
            state=PHASES[execution.phase],
            seconds=round(self._now - execution.started, 1),
            callers=execution.callers,
            waiting=execution.waiters,
            client=execution.sender.client,
        )

    def failures(self, most: int) -> list[report.Incident]:
        """Return requests and runs that failed, the latest first."""
        return self._incidents(reversed(self._recorder.incidents.failures), most)

    def refusals(self, most: int) -> list[report.Incident]:
        """Return requests that were refused, the latest first."""
        return self._incidents(reversed(self._recorder.incidents.refusals), most)

    def slow(self, most: int) -> list[report.Incident]:
        """Return the slowest requests of the last hour."""
        return self._incidents(self._recorder.incidents.slowest.list(), most)

    def _incidents(self, found: Iterable[Incident], most: int) -> list[report.Incident]:
        return [
            report.Incident(
                at=round(one.ended + self._offset, 3),
                query=one.query_id,
                name=self.name_of(one.query_id),
                client=NO_CLIENT if one.client == "-" else one.client,
                cause=one.cause,
                meaning=meaning(one.cause),
                status=one.status or None,
                seconds=one.seconds,
                upstream_seconds=one.upstream_seconds,
                what=one.route,
                request_id=log.clean(one.request_id),
                run=one.execution_id,
            )
            for one in islice(found, most)
        ]


def _spans(found: Histogram) -> list[tuple[str, int]]:
    """Return the counts of a histogram, each with the span that it is for."""
    labels = [f"up to {duration(bound)}" for bound in found.bounds]
    return [*zip(labels, found.counts, strict=False), (f"over {duration(found.bounds[-1])}", found.counts[-1])]


def _parts(counts: Iterable[tuple[str, int]]) -> list[report.Part]:
    """Return what is not zero, each with its share."""
    some = [(label, count) for label, count in counts if count]
    whole = sum(count for _, count in some)
    return [report.Part(label, count, count / whole) for label, count in some]
