"""From an execution to its records: for the observer, and for the ledger, from which another process goes on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from gateway.errors import UpstreamError
from gateway.executions.ending import Ending
from gateway.executions.execution import Execution
from gateway.executions.standing import served_by
from gateway.model import ExecutionRecord, JobRecord
from gateway.outcome import ExecutionEnd, Sender
from gateway.policy.plan import Plan
from gateway.redash import calls

log = logging.getLogger("gateway.executions")


def end_of(execution: Execution, ending: Ending, now: float) -> ExecutionEnd:
    """Return what observers learn of its end."""
    return ExecutionEnd(
        id=execution.id,
        query_id=execution.plan.query_id,
        result=ending.result,
        seconds=now - execution.started,
        callers=execution.callers,
        runtime=ending.stored.entry.runtime if ending.stored is not None else 0.0,
        ran=bool(execution.upstream_job),
        resumed=execution.resumed,
        started=execution.started,
        trace=execution.sender.trace,
        client=execution.sender.client,
        request_id=execution.sender.request_id,
        cause=ending.cause,
        refused=ending.is_refusal,
    )


def record_of(
    execution: Execution, wall: float, now: float, ending: Ending | None = None, *, whole: bool = False
) -> ExecutionRecord:
    """Return the record of an execution, as it is now or as it is about to end.

    What has ended is not sent again, so its body is left out, unless `whole`: it may have callers elsewhere who need
    newer rows.
    """
    whole = whole or ending is None
    plan, standing = execution.plan, execution.standing
    request = calls.execution(plan.operation, plan.upstream_max_age())
    follow_up = execution.follow_up
    return ExecutionRecord(
        id=execution.id,
        key=plan.key,
        scope=plan.credential.scope,
        credential=plan.credential.name,
        query_id=plan.query_id,
        path=request.target if whole else request.path,
        body=(request.body or b"") if whole else b"",
        marker=plan.marker,
        started_at=wall - (now - execution.started),
        upstream_job=execution.upstream_job,
        status=execution.status if ending is None else ending.status,
        error="" if ending is None else ending.error,
        result_id=None if ending is None else ending.result_id,
        purged=execution.purged,
        abandoned=execution.abandoned,
        fence=standing.written_under,
        unavailable=ending is not None and isinstance(ending.failure, UpstreamError),
        follow_up="" if ending is None or follow_up is None else follow_up.id,
        served=() if ending is None else served_by(standing.needs, execution.rows_from),
        heard=() if ending is None else standing.heard,
    )


def revived(record: ExecutionRecord, plan: Plan, sender: Sender, now: float, wall: float) -> Execution:
    """Return an execution that another process began."""
    execution = Execution(plan, sender, now - max(0.0, wall - record.started_at), record.id)
    execution.is_known = execution.resumed = execution.standing.inherits = True
    mirror(execution, record)
    _note_start(execution)
    return execution


def mirror(execution: Execution, record: ExecutionRecord) -> None:
    """Take over how far its leader has come."""
    execution.recorded = True
    execution.upstream_job, execution.upstream_status = record.upstream_job, min(record.status, 2)
    execution.purged, execution.abandoned = execution.purged or record.purged, record.abandoned
    execution.standing.fence = max(execution.standing.fence, record.fence)
    execution.can_respond.set()


def inherit(execution: Execution, record: ExecutionRecord, jobs: Iterable[JobRecord], now: float, wall: float) -> None:
    """Go on with a run that another process has led, and with the jobs that it has given out."""
    execution.is_known = True
    execution.started = min(execution.started, now - max(0.0, wall - record.started_at))
    mirror(execution, record)
    _note_start(execution)
    adopt_jobs(execution, jobs, now, wall)


def log_takeover(execution: Execution) -> None:
    """Log that this gateway goes on with a run, unless it has led that itself before."""
    if execution.upstream_job and not execution.standing.led:
        fields = {"execution": execution.id, "query": execution.plan.query_id, "upstream_job": execution.upstream_job}
        text = "taking a run over that another gateway or process led, with the same job in Redash"
        log.info(text, extra={"fields": fields})


def adopt_jobs(execution: Execution, jobs: Iterable[JobRecord], now: float, wall: float) -> None:
    """Take the jobs over that are not over."""
    for job in jobs:
        if not job.is_over and job.id not in execution.not_before:
            execution.seen[job.id], execution.not_before[job.id] = now, job.not_before - wall + now
    execution.attach(max(execution.not_before.values(), default=-math.inf))


def _note_start(execution: Execution) -> None:
    # Its first caller came before that, by the wall clock in both records, read some microseconds apart.
    execution.rows_from = execution.started + 0.001 if execution.upstream_job else -math.inf
