"""What callers see of their jobs (CONTRACT 9)."""

from __future__ import annotations

import json
import math

import msgspec

from gateway.errors import UpstreamError
from gateway.executions.ending import CANCELLED_TEXT
from gateway.executions.execution import Execution
from gateway.model import ExecutionRecord, JobRecord


class JobView(msgspec.Struct, frozen=True):
    """What a caller sees of its job."""

    id: str
    status: int
    error: str
    result_id: int | None
    updated_at: object
    execution_id: str
    query_id: int
    not_before: float = -math.inf
    """Its rows are older than that (wall-clock unix seconds) if it ended because Redash did not answer."""

    @property
    def pending(self) -> bool:
        """Whether it has not ended."""
        return self.status in (1, 2)

    def body(self) -> bytes:
        """Return the job as Redash writes it; it begins with the bytes `{"job":`, which clients test for."""
        job = {
            "id": self.id,
            "updated_at": self.updated_at,
            "status": self.status,
            "error": self.error,
            "result": self.result_id,
            "query_result_id": self.result_id,
        }
        return json.dumps({"job": job}, separators=(", ", ": ")).encode()


def view_of(job: JobRecord, execution: Execution | None) -> JobView:
    """Return how a job stands whose execution is known here; None for one that is over."""
    if job.fell_back:
        return _stale_view(job)
    if job.cancelled or execution is None:
        return JobView(job.id, 4, CANCELLED_TEXT, None, 0, job.execution_id, job.query_id)
    if (ending := execution.ending) is not None:
        if job.fallback is not None and isinstance(ending.failure, UpstreamError):
            return _stale_view(job)
        return JobView(job.id, ending.status, ending.error, ending.result_id, 0, execution.id, job.query_id)
    status = execution.upstream_status
    return JobView(job.id, status, "", None, execution.updated_at if status == 2 else 0, execution.id, job.query_id)


def recorded_view(job: JobRecord, record: ExecutionRecord) -> JobView:
    """Return how a job stands, as the ledger says."""
    if job.fallback is not None and record.unavailable:
        return _stale_view(job)
    return JobView(job.id, record.status, record.error, record.result_id, 0, record.id, job.query_id)


def _stale_view(job: JobRecord) -> JobView:
    """Return a job that has ended with the stored result, because Redash does not answer requests about its run."""
    return JobView(job.id, 3, "", job.fallback, 0, job.execution_id, job.query_id, job.not_before)


def pending_view(job: JobRecord) -> JobView:
    """Return a job that waits for its run."""
    return JobView(job.id, 1, "", None, 0, job.execution_id, job.query_id)
