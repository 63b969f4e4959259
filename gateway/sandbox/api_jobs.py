"""Reading and cancelling jobs. Jobs have no owner: every caller may read and cancel every job (CONTRACT 9)."""

from __future__ import annotations

from .jobs import job_body
from .request import Request
from .response import BROKEN, Response, abort, json_response
from .routing import routes


def _read(request: Request) -> Response:
    """Unknown, expired and malformed ids are all the same."""
    id, version = request.params["job_id"], request.version
    job = request.state.jobs.get(id)
    if job is None and not version.unknown_job_is_queued:
        abort(500, BROKEN)
    return json_response(job.body(version) if job is not None else job_body(version, id))


@routes.add("GET", "/api/jobs/<job_id>")
async def read(request: Request) -> Response:
    """Any job, for every caller except query keys, because the path has no query id."""
    return _read(request)


@routes.add("GET", "/api/queries/<query_id>/jobs/<job_id>")
async def read_nested(request: Request) -> Response:
    """Any job, for the key of any query."""
    return _read(request)


@routes.add("DELETE", "/api/jobs/<job_id>")
async def cancel(request: Request) -> Response:
    """Works also for finished and cancelled jobs, with the same response."""
    job = request.state.jobs.get(request.params["job_id"])
    if job is not None:
        request.state.jobs.cancel(job)
    elif not request.version.unknown_job_is_queued:
        abort(500, BROKEN)
    return json_response(None)


@routes.add("DELETE", "/api/queries/<query_id>/jobs/<job_id>")
async def cancel_nested(request: Request) -> Response:
    """Fails for every caller."""
    abort(500, BROKEN)
