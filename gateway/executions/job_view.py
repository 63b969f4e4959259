"""What a caller sees of its job."""

from __future__ import annotations

import json
import math
from typing import Final

import msgspec

from gateway.executions.execution import CANCELLED_TEXT, Execution
from gateway.model import JobRecord

_OVERHEAD_BYTES: Final = 1_500


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
    """Its rows should not be older (wall-clock unix seconds). They are if Redash did not answer."""

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
    """Return how a job stands while this process knows its execution; None for a job that was cancelled."""
    if job.cancelled or execution is None:
        return JobView(job.id, 4, CANCELLED_TEXT, None, 0, job.execution_id, job.query_id)
    if (ending := execution.ending) is not None:
        shown = (ending.status, ending.error, ending.result_id)
        return JobView(job.id, *shown, 0, execution.id, job.query_id, job.not_before)
    status = execution.upstream_status
    return JobView(job.id, status, "", None, execution.updated_at if status == 2 else 0, execution.id, job.query_id)


def weight_of(recent: tuple[JobRecord, Execution | JobView]) -> int:
    """Return how many bytes a remembered job counts: an execution is counted by `Executions` while it runs."""
    _, known = recent
    return _OVERHEAD_BYTES + (len(known.error) if isinstance(known, JobView) else 0)
