"""Executing: POST …/results, ad hoc SQL, refresh (CONTRACT 6, 7). Reading results is in `api_results.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .access import is_safe, reaches_query, reaches_source
from .api_common import query_of
from .database import Database
from .jobs import Job
from .objects import Query
from .parameters import DetachedError, InvalidParametersError, missing
from .request import Request
from .response import BROKEN, Response, abort, error_response, job_error, json_response
from .results import Result
from .routing import routes
from .warehouse import Table

NO_SOURCE = "Please select data source to run this query."
SOURCE_GONE = "Target data source not available."
NO_PERMISSION = "You do not have permission to run queries with this data source."
UNSAFE_VIEW = (
    "This query contains potentially unsafe parameters and cannot be executed with read-only access to this data"
    " source."
)
UNSAFE_SHARED = (
    "This query contains potentially unsafe parameters and cannot be executed on a shared dashboard or an embedded"
    " visualization."
)
_LONGEST = 9_200_000_000_000
"""Seconds. Beyond them PostgreSQL has no dates, and Redash responds with 500."""


def _loose_object(body: bytes) -> dict[str, Any]:
    """The JSON object in the body. Invalid JSON and empty values (null, [], …) count as {}; other values are 500."""
    try:
        value = json.loads(body) or {}
    except ValueError:
        return {}
    if not isinstance(value, dict):
        abort(500, BROKEN)
    return value


def _max_age(fields: Mapping[str, Any]) -> int:
    """As int() reads it: strings, booleans and fractions are allowed; NaN, lists and the like are 500."""
    value = fields.get("max_age", -1)
    seconds = -1 if value is None else int(value)
    if abs(seconds) > _LONGEST:
        abort(500, BROKEN)
    return seconds


@routes.add("POST", "/api/queries/<query_id>/results")
async def execute(request: Request) -> Response:
    """Checks in this order: JSON, max_age, query, access, source, paused, parameters, cache, job."""
    fields = _loose_object(request.body)
    values, max_age = fields.get("parameters", {}), _max_age(fields)
    query = query_of(request)
    request.state.counters.posted(query.id)
    if not reaches_query(request.database, query, request.caller, view_only=is_safe(query)):
        return _refused(query, request)
    default = query.options.get("apply_auto_limit") if request.version.post_limits_like_query else False
    return await _run(request, _saved(query, values, max_age, bool(fields.get("apply_auto_limit", default))))


def _saved(query: Query, values: Mapping[str, Any], max_age: int, limit: bool) -> ExecutionRequest:
    return ExecutionRequest(query.query, query.parameters, values, query.data_source_id, max_age, limit, query.id)


def _refused(query: Query, request: Request) -> Response:
    if is_safe(query):
        return job_error(403, NO_PERMISSION)
    return job_error(403, UNSAFE_SHARED if request.caller.is_api_user else UNSAFE_VIEW)


@routes.add("POST", "/api/query_results")
async def execute_ad_hoc(request: Request) -> Response:
    """Ad hoc SQL; needs full access to the source."""
    request.need("execute_query")
    fields = request.json_object()
    text, max_age = fields["query"], _max_age(fields)
    values = fields["parameters"] if "parameters" in fields else _url_parameters(request)
    request.state.counters.posted(None)
    source_id = fields.get("data_source_id")
    if source_id is None:
        return job_error(401, NO_SOURCE)
    if not reaches_source(_source(request, source_id), request.caller, view_only=False):
        return job_error(403, NO_PERMISSION)
    query_id = fields.get("query_id", "adhoc")
    limit = bool(fields.get("apply_auto_limit"))
    return await _run(request, ExecutionRequest(text, [], values, source_id, max_age, limit, query_id))


@routes.add("POST", "/api/queries/<query_id>/refresh")
async def refresh(request: Request) -> Response:
    """Always executes; parameters come from the URL as `p_…`."""
    request.require(not request.caller.is_api_user, "Please use a user API key.")
    query = query_of(request)
    request.state.counters.posted(query.id)
    request.require(reaches_query(request.database, query, request.caller, view_only=False))
    limit = bool(query.options.get("apply_auto_limit"))
    return await _run(request, _saved(query, _url_parameters(request), 0, limit))


def _url_parameters(request: Request) -> dict[str, Any]:
    return {name[2:]: value for name, value in reversed(request.query) if name.startswith("p_")}


def _source(request: Request, source_id: Any) -> Any:
    source = request.database.sources.get(source_id)
    if source is None or source.org != request.org:
        abort(500, BROKEN)
    return source


@dataclass(frozen=True)
class ExecutionRequest:
    """A requested execution: SQL template, parameter definitions and values, source, maximum age of a cached result."""

    template: str
    schema: Sequence[Mapping[str, Any]]
    values: Mapping[str, Any]
    source_id: int | None
    max_age: int
    limit: bool
    query_id: Any


async def _run(request: Request, execution: ExecutionRequest) -> Response:
    """The cached result if it is young enough, otherwise a job: a new one or the one in flight."""
    source_id = execution.source_id
    if source_id is None:
        return job_error(401, SOURCE_GONE) if request.version.no_source_is_401 else error_response(500, BROKEN)
    source = request.database.sources[source_id]
    if source.paused:
        reason = f" ({source.pause_reason})" if source.pause_reason else ""
        return job_error(400, f"{source.name} is paused{reason}. Please try later.")
    return await _run_on(request, execution, source_id)


async def _run_on(request: Request, execution: ExecutionRequest, source_id: int) -> Response:
    database = request.database
    try:
        text = database.applied(execution.template, execution.schema, execution.values, request.org_id)
    except (InvalidParametersError, DetachedError) as error:
        return error_response(400, str(error))
    lacking = missing(execution.template, execution.values)
    if lacking:
        return job_error(400, f"Missing parameter value for: {', '.join(lacking)}")
    sql = database.executed(text, execution.limit)
    cached = database.newest(database.hash_of(sql), source_id, execution.max_age) if execution.max_age else None
    if cached is not None:
        return await _inline(request, cached)
    return json_response(_start(request, sql, source_id, execution.query_id).body(request.version))


async def _inline(request: Request, result: Result) -> Response:
    """API users get only data and retrieved_at from a POST (CONTRACT 6)."""
    await _loaded(result)
    return Response(result.reduced() if request.caller.is_api_user else result.full())


async def _loaded(result: Result) -> None:
    if not result.is_loaded:
        await asyncio.to_thread(result.full)


def _start(request: Request, sql: str, source_id: int, query_id: Any) -> Job:
    """A non-numeric query id makes the job fail with an empty error (CONTRACT 6)."""
    known = query_id if isinstance(query_id, int) else int(query_id) if str(query_id).isdigit() else None
    job = Job(sql, request.database.hash_of(sql), source_id, known, partial(store_result, request.database))
    job.typed = request.database.is_typed(source_id)
    job.broken = known is None and query_id not in ("adhoc", None)
    return request.state.jobs.start(job)


async def store_result(database: Database, job: Job, table: Table) -> int:
    """Stores the rows of a run; retrieved_at is the end of the run (CONTRACT 10)."""
    result = database.new_result(job.sql, job.data_source_id, table=table)
    await asyncio.to_thread(result.full)
    database.put_result(result)
    return result.id
