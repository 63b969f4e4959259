"""Reading and cancelling jobs. Nobody owns a job: whoever is logged in reads and cancels any (CONTRACT 9)."""

from __future__ import annotations

from .jobs import Job
from .request import Request
from .response import BROKEN, Response, abort, json_response
from .routing import routes


def _job(request: Request) -> Job:
    """Unknown, expired and malformed ids alike are 500."""
    job = request.state.jobs.get(request.params["job_id"])
    if job is None:
        abort(500, BROKEN)
    return job


@routes.add("GET", "/api/jobs/<job_id>")
async def read(request: Request) -> Response:
    """Any job, for anybody who is logged in; not for query keys, whose path lacks the query id."""
    return json_response(_job(request).body())


@routes.add("GET", "/api/queries/<query_id>/jobs/<job_id>")
async def read_nested(request: Request) -> Response:
    """Any job, for the key of any query."""
    return json_response(_job(request).body())


@routes.add("DELETE", "/api/jobs/<job_id>")
async def cancel(request: Request) -> Response:
    """Also a finished job, and again; the answer is the same."""
    request.state.jobs.cancel(_job(request))
    return json_response(None)


@routes.add("DELETE", "/api/queries/<query_id>/jobs/<job_id>")
async def cancel_nested(request: Request) -> Response:
    """Broken for everybody."""
    abort(500, BROKEN)
