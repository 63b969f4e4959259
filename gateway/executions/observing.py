"""The record of an execution that ends, for the observer."""

from __future__ import annotations

from gateway.executions.execution import Ending, Execution
from gateway.outcome import ExecutionEnd


def record_of(execution: Execution, ending: Ending, now: float) -> ExecutionEnd:
    """Return the record of an execution that ends in this way at `now` (monotonic)."""
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
