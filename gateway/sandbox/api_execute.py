"""Executing: POST …/results, ad hoc SQL, refresh (CONTRACT 6, 7). Reading results is in `api_results.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .access import is_safe, reaches_query, reaches_source
from .finding import query_of
from .jobs import Job
from .messages import BROKEN, Call, Reply, abort, answer, failed_job, message
from .objects import Query
from .parameters import DetachedError, InvalidParametersError, applied, missing
from .results import Result
from .routing import routes
from .sqltext import query_hash, with_auto_limit
from .warehouse import Table

NO_SOURCE = "Please select data source to run this query."
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
"""Seconds; beyond them PostgreSQL's dates end, and Redash answers 500."""


def _loose_object(body: bytes) -> dict[str, Any]:
    """What cannot be read counts as {}, so do null, [] and the like; other things that are no object are 500."""
    try:
        value = json.loads(body) or {}
    except ValueError:
        return {}
    if not isinstance(value, dict):
        abort(500, BROKEN)
    return value


def _max_age(fields: Mapping[str, Any]) -> int:
    """As int() has it: strings, booleans and fractions; NaN, lists and the like break."""
    value = fields.get("max_age", -1)
    seconds = -1 if value is None else int(value)
    if abs(seconds) > _LONGEST:
        abort(500, BROKEN)
    return seconds


@routes.add("POST", "/api/queries/<query_id>/results")
async def execute(call: Call) -> Reply:
    """JSON, max_age, query, access, source, paused, parameters, cache, job: in this order."""
    fields = _loose_object(call.body)
    values, max_age = fields.get("parameters", {}), _max_age(fields)
    query = query_of(call)
    call.service.counters.posted(query.id)
    if not reaches_query(call.service.world, query, call.caller, view_only=is_safe(query)):
        return _refused(query, call)
    limit = fields["apply_auto_limit"] if "apply_auto_limit" in fields else query.options.get("apply_auto_limit")
    return await _run(call, _saved(query, values, max_age, bool(limit)))


def _saved(query: Query, values: Mapping[str, Any], max_age: int, limit: bool) -> Wanted:
    return Wanted(query.query, query.parameters, values, query.data_source_id, max_age, limit, query.id)


def _refused(query: Query, call: Call) -> Reply:
    if is_safe(query):
        return failed_job(403, NO_PERMISSION)
    return failed_job(403, UNSAFE_SHARED if call.caller.is_api_user else UNSAFE_VIEW)


@routes.add("POST", "/api/query_results")
async def execute_ad_hoc(call: Call) -> Reply:
    """Free SQL, with full access to the source."""
    call.need("execute_query")
    fields = call.json_object()
    text, max_age = fields["query"], _max_age(fields)
    values = fields["parameters"] if "parameters" in fields else _url_parameters(call)
    call.service.counters.posted(None)
    source_id = fields.get("data_source_id")
    if source_id is None:
        return failed_job(401, NO_SOURCE)
    if not reaches_source(_source(call, source_id), call.caller, view_only=False):
        return failed_job(403, NO_PERMISSION)
    query_id = fields.get("query_id", "adhoc")
    limit = bool(fields.get("apply_auto_limit"))
    return await _run(call, Wanted(text, [], values, source_id, max_age, limit, query_id))


@routes.add("POST", "/api/queries/<query_id>/refresh")
async def refresh(call: Call) -> Reply:
    """Always executes; parameters from the URL as `p_…`."""
    call.require(not call.caller.is_api_user, "Please use a user API key.")
    query = query_of(call)
    call.service.counters.posted(query.id)
    call.require(reaches_query(call.service.world, query, call.caller, view_only=False))
    limit = bool(query.options.get("apply_auto_limit"))
    return await _run(call, _saved(query, _url_parameters(call), 0, limit))


def _url_parameters(call: Call) -> dict[str, Any]:
    return {name[2:]: value for name, value in reversed(call.query) if name.startswith("p_")}


def _source(call: Call, source_id: Any) -> Any:
    source = call.service.world.sources.get(source_id)
    if source is None or source.org != call.org:
        abort(500, BROKEN)
    return source


@dataclass(frozen=True)
class Wanted:
    """An execution asked for: the text with its definitions, the values, where it runs and how old it may be."""

    template: str
    schema: Sequence[Mapping[str, Any]]
    values: Mapping[str, Any]
    source_id: int | None
    max_age: int
    limit: bool
    query_id: Any


async def _run(call: Call, wanted: Wanted) -> Reply:
    """From the cache if it is young enough, else a job: a new one or the one in flight."""
    source_id = wanted.source_id
    if source_id is None:
        return failed_job(401, NO_SOURCE)
    source = call.service.world.sources[source_id]
    if source.paused:
        reason = f" ({source.pause_reason})" if source.pause_reason else ""
        return failed_job(400, f"{source.name} is paused{reason}. Please try later.")
    return await _run_on(call, wanted, source_id)


async def _run_on(call: Call, wanted: Wanted, source_id: int) -> Reply:
    world = call.service.world
    try:
        text = applied(wanted.template, wanted.schema, wanted.values, world.dropdown(call.org_id))
    except (InvalidParametersError, DetachedError) as error:
        return message(400, str(error))
    lacking = missing(wanted.template, wanted.values)
    if lacking:
        return failed_job(400, f"Missing parameter value for: {', '.join(lacking)}")
    sql = with_auto_limit(text, wanted.limit)
    cached = world.newest(query_hash(sql), source_id, wanted.max_age) if wanted.max_age else None
    if cached is not None:
        return await _inline(call, cached)
    return answer(_start(call, sql, source_id, wanted.query_id).body())


async def _inline(call: Call, result: Result) -> Reply:
    """API users get only data and retrieved_at from a POST (CONTRACT 6)."""
    await _loaded(result)
    return Reply(result.reduced() if call.caller.is_api_user else result.full())


async def _loaded(result: Result) -> None:
    if not result.is_loaded:
        await asyncio.to_thread(result.full)


def _start(call: Call, sql: str, source_id: int, query_id: Any) -> Job:
    """A non-numeric query id makes the job fail with an empty error (CONTRACT 6)."""
    known = query_id if isinstance(query_id, int) else int(query_id) if str(query_id).isdigit() else None
    job = Job(sql, query_hash(sql), source_id, known, partial(store, call.service.world))
    job.typed = call.service.world.is_typed(source_id)
    job.broken = known is None and query_id not in ("adhoc", None)
    return call.service.jobs.start(job)


async def store(world: Any, job: Job, table: Table) -> int:
    """retrieved_at is the end of the run, before storing (CONTRACT 10)."""
    result: Result = world.new_result(job.sql, job.data_source_id, table=table)
    await asyncio.to_thread(result.full)
    world.keep(result)
    return result.id
