"""Reading and cancelling jobs. Jobs have no owner: every caller may read and cancel every job (CONTRACT 9)."""

from __future__ import annotations

from .jobs import Job
from .request import Request
from .response import BROKEN, Response, abort, json_response
from .routing import routes


def _job(request: Request) -> Job:
    """Unknown, expired and malformed ids are all 500."""
    job = request.state.jobs.get(request.params["job_id"])
    if job is None:
        abort(500, BROKEN)
    return job


@routes.add("GET", "/api/jobs/<job_id>")
async def read(request: Request) -> Response:
    """Any job, for every caller except query keys, because the path has no query id."""
    return json_response(_job(request).body())


@routes.add("GET", "/api/queries/<query_id>/jobs/<job_id>")
async def read_nested(request: Request) -> Response:
    """Any job, for the key of any query."""
    return json_response(_job(request).body())


@routes.add("DELETE", "/api/jobs/<job_id>")
async def cancel(request: Request) -> Response:
    """Works also for finished and cancelled jobs, with the same response."""
    request.state.jobs.cancel(_job(request))
    return json_response(None)


@routes.add("DELETE", "/api/queries/<query_id>/jobs/<job_id>")
async def cancel_nested(request: Request) -> Response:
    """Fails for every caller."""
    abort(500, BROKEN)
