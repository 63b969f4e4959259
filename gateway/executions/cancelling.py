"""Cancels a run in Redash, because no caller wants it any more, or because an operator ends it."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.executions.execution import Execution, Phase
from gateway.outcome import Sender
from gateway.redash import calls
from gateway.upstream.protocol import Upstream


async def cancel_run(execution: Execution, running: Iterable[Execution], upstream: Upstream, sender: Sender) -> bool:
    """Cancel a run for all its callers; `running` are all runs in progress. Returns whether it ends now."""
    if execution.phase is Phase.QUEUED and execution.task is not None:
        execution.cancelling = True
        execution.task.cancel()
        return True
    if execution.arriving is not None:
        return False  # the run is over, and other callers may be reading its result
    shared = any(other is not execution and other.upstream_job == execution.upstream_job for other in running)
    if not execution.upstream_job or shared or execution.plan.credential.is_query_key:
        return False  # a query key may not cancel in Redash (CONTRACT 2); the run goes on and its result is stored
    request = calls.cancellation(execution.upstream_job)
    execution.cancelling = True  # no caller joins it from now on
    try:
        await upstream.send(execution.plan.credential, request, sender)
    except BaseException:  # also of a caller that leaves: nobody knows whether Redash has cancelled it
        execution.cancelling = False
        raise
    execution.stopping.set()
    return True
