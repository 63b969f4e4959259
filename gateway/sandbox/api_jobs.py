"""Reading and cancelling jobs. Nobody owns a job: whoever is logged in reads and cancels any (CONTRACT 9)."""

from __future__ import annotations

from .jobs import Job
from .messages import BROKEN, Call, Reply, abort, answer
from .routing import routes


def _job(call: Call) -> Job:
    """Unknown, expired and malformed ids alike are 500."""
    job = call.service.jobs.get(call.params["job_id"])
    if job is None:
        abort(500, BROKEN)
    return job


@routes.add("GET", "/api/jobs/<job_id>")
async def read(call: Call) -> Reply:
    """Any job, for anybody who is logged in; not for query keys, whose path lacks the query id."""
    return answer(_job(call).body())


@routes.add("GET", "/api/queries/<query_id>/jobs/<job_id>")
async def read_nested(call: Call) -> Reply:
    """Any job, for the key of any query."""
    return answer(_job(call).body())


@routes.add("DELETE", "/api/jobs/<job_id>")
async def cancel(call: Call) -> Reply:
    """Also a finished job, and again; the answer is the same."""
    call.service.jobs.cancel(_job(call))
    return answer(None)


@routes.add("DELETE", "/api/queries/<query_id>/jobs/<job_id>")
async def cancel_nested(call: Call) -> Reply:
    """Broken for everybody."""
    abort(500, BROKEN)
