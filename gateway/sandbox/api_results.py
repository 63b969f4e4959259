"""Executing queries and reading results: POST …/results, ad hoc, refresh, results in every form, dropdowns
(CONTRACT 6, 7, 8, 12).
"""

from __future__ import annotations

import asyncio
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from .access import is_safe, reaches_query, reaches_source
from .finding import query_of, result_of
from .jobs import Job
from .messages import BROKEN, FORBIDDEN, NO_RESULT, Call, Reply, abort, answer, failed_job, message
from .moments import file_date
from .objects import Query
from .parameters import Detached, InvalidParameters, applied, missing
from .results import Result, as_separated, as_workbook
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
    return await _run(call, query.query, query.parameters, values, query.data_source_id, max_age, bool(limit), query.id)


def _refused(query: Query, call: Call) -> Reply:
    if is_safe(query):
        return failed_job(403, NO_PERMISSION)
    return failed_job(403, UNSAFE_SHARED if call.caller.is_api_user else UNSAFE_VIEW)


@routes.add("POST", "/api/query_results")
async def execute_ad_hoc(call: Call) -> Reply:
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
    return await _run(call, text, [], values, source_id, max_age, bool(fields.get("apply_auto_limit")), query_id)


@routes.add("POST", "/api/queries/<query_id>/refresh")
async def refresh(call: Call) -> Reply:
    call.require(not call.caller.is_api_user, "Please use a user API key.")
    query = query_of(call)
    call.service.counters.posted(query.id)
    call.require(reaches_query(call.service.world, query, call.caller, view_only=False))
    limit = bool(query.options.get("apply_auto_limit"))
    values = _url_parameters(call)
    return await _run(call, query.query, query.parameters, values, query.data_source_id, 0, limit, query.id)


def _url_parameters(call: Call) -> dict[str, Any]:
    return {name[2:]: value for name, value in reversed(call.query) if name.startswith("p_")}


def _source(call: Call, source_id: Any) -> Any:
    source = call.service.world.sources.get(source_id)
    if source is None or source.org != call.org:
        abort(500, BROKEN)
    return source


async def _run(
    call: Call,
    template: str,
    schema: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    source_id: int | None,
    max_age: int,
    limit: bool,
    query_id: Any,
) -> Reply:
    world = call.service.world
    if source_id is None:
        return failed_job(401, NO_SOURCE)
    source = world.sources[source_id]
    if source.paused:
        reason = f" ({source.pause_reason})" if source.pause_reason else ""
        return failed_job(400, f"{source.name} is paused{reason}. Please try later.")
    try:
        text = applied(template, schema, values, world.dropdown(call.org_id))
    except (InvalidParameters, Detached) as error:
        return message(400, str(error))
    lacking = missing(template, values)
    if lacking:
        return failed_job(400, f"Missing parameter value for: {', '.join(lacking)}")
    sql = with_auto_limit(text, limit)
    cached = world.newest(query_hash(sql), source_id, max_age) if max_age else None
    if cached is not None:
        return await _inline(call, cached)
    return answer(_start(call, sql, source_id, query_id).body())


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


# -- reading


async def _latest(call: Call, filetype: str) -> Reply:
    """What `latest_query_data_id` points at; max_age and parameters are not looked at."""
    query = query_of(call)
    result = call.service.world.results.get(query.latest_query_data_id or 0)
    if result is None or (call.caller.is_api_user and result.query_hash != query.query_hash):
        abort(404, NO_RESULT)
    return await _download(call, result, query, filetype)


@routes.add("GET", "/api/queries/<query_id>/results")
async def latest(call: Call) -> Reply:
    return await _latest(call, "json")


@routes.add("GET", "/api/queries/<query_id>/results.<filetype>")
async def latest_as(call: Call) -> Reply:
    return await _latest(call, call.params["filetype"])


@routes.add("GET", "/api/queries/<query_id>/results/<query_result_id>.<filetype>")
async def nested(call: Call) -> Reply:
    """For user keys query and result need have nothing to do with each other (CONTRACT 2)."""
    result, query = result_of(call), query_of(call)
    if call.caller.is_api_user and result.query_hash != query.query_hash:
        abort(404, NO_RESULT)
    return await _download(call, result, query, call.params["filetype"], by_id=True)


@routes.add("GET", "/api/query_results/<query_result_id>.<filetype>")
async def by_id_as(call: Call) -> Reply:
    return await _download(call, result_of(call), None, call.params["filetype"], by_id=True)


@routes.add("GET", "/api/query_results/<query_result_id>")
async def by_id(call: Call) -> Reply:
    return await _download(call, result_of(call), None, "json", by_id=True)


async def _broken_post(call: Call) -> Reply:
    """The same resource takes POST only without a result id or file type."""
    abort(500, BROKEN)


async def _preflight(call: Call) -> Reply:
    """OPTIONS here demands a key (CONTRACT 16)."""
    if call.caller_or_none is None:
        abort(403, FORBIDDEN)
    return Reply(type="text/html; charset=utf-8")


_READ = (
    "/api/queries/<query_id>/results",
    "/api/queries/<query_id>/results.<filetype>",
    "/api/queries/<query_id>/results/<query_result_id>.<filetype>",
    "/api/query_results/<query_result_id>.<filetype>",
    "/api/query_results/<query_result_id>",
)
for _template in _READ:
    routes.add("OPTIONS", _template)(_preflight)
for _template in _READ[1:]:
    routes.add("POST", _template)(_broken_post)


async def _download(call: Call, result: Result, query: Query | None, filetype: str, *, by_id: bool = False) -> Reply:
    """Access is by the groups of the *result's* source."""
    call.require(call.caller.may("view_query"))
    source = call.service.world.sources.get(result.data_source_id)
    call.require(reaches_source(source, call.caller, view_only=True))
    kind, make = _FORMS.get(filetype, (None, None))
    if kind is None or make is None:
        abort(500, BROKEN)
    body = await _made(result, make, call.service.world.now(), filetype)
    reply = Reply(body, type=kind)
    if by_id:
        reply.headers.append(("Cache-Control", "private,max-age=31557600"))
    reply.headers.append(("Content-Disposition", disposition(result, query, filetype)))
    return reply


async def _made(result: Result, make: Callable[[Result, int], bytes], now: int, filetype: str) -> bytes:
    if filetype == "json" and result.is_loaded:
        return result.full()
    return await asyncio.to_thread(make, result, now)


_FORMS: dict[str, tuple[str, Callable[[Result, int], bytes]]] = {
    "json": ("application/json", lambda result, _: result.full()),
    "csv": ("text/csv; charset=UTF-8", lambda result, _: as_separated(result, ",")),
    "tsv": ("text/tab-separated-values; charset=UTF-8", lambda result, _: as_separated(result, "\t")),
    "xlsx": ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", as_workbook),
}


def disposition(result: Result, query: Query | None, filetype: str) -> str:
    """Named after the query where its id is in the path; RFC 5987 for what is not ASCII (CONTRACT 4)."""
    stem = re.sub(r"[\s/\"]+", "_", query.name) if query is not None else str(result.id)
    stem = re.sub("_+", "_", stem)
    name = f"{stem}_{file_date(result.retrieved_at)}.{filetype}"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    shown = plain if re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", plain, re.ASCII) else f'"{plain}"'
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name)}"
    return f"attachment; filename={shown}{extended}"


# -- dropdowns


@routes.add("GET", "/api/queries/<query_id>/dropdown")
async def dropdown(call: Call) -> Reply:
    query = query_of(call)
    call.require(reaches_source(_source_of(call, query), call.caller, view_only=True))
    return _options(call, query.id)


@routes.add("GET", "/api/queries/<query_id>/dropdowns/<dropdown_query_id>")
async def dropdowns(call: Call) -> Reply:
    """A related dropdown needs access to the query only; any other, access to the other's *source* (CONTRACT 12)."""
    query, other = query_of(call), query_of(call, "dropdown_query_id")
    world = call.service.world
    call.require(reaches_query(world, query, call.caller, view_only=True))
    related = {definition.get("queryId") for definition in query.parameters if definition.get("type") == "query"}
    if other.id not in related:
        call.require(reaches_source(_source_of(call, other), call.caller, view_only=True))
    return _options(call, other.id)


def _source_of(call: Call, query: Query) -> Any:
    return call.service.world.sources.get(query.data_source_id or 0)


def _options(call: Call, query_id: int) -> Reply:
    try:
        return answer(call.service.world.dropdown_options(query_id, call.org_id))
    except Detached as error:
        return message(400, str(error))
