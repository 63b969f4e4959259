"""Reading stored results in every form, and results as dropdowns (CONTRACT 8, 12). Executing is in `api_execute.py`."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from .access import reaches_query, reaches_source
from .finding import query_of, result_of
from .messages import BROKEN, FORBIDDEN, NO_RESULT, Call, Reply, abort, answer, message
from .moments import file_date
from .objects import Query
from .parameters import DetachedError
from .results import Result, as_separated, as_workbook
from .routing import routes


async def _latest(call: Call, filetype: str) -> Reply:
    """What `latest_query_data_id` points at; max_age and parameters are not looked at."""
    query = query_of(call)
    result = call.service.world.results.get(query.latest_query_data_id or 0)
    if result is None or (call.caller.is_api_user and result.query_hash != query.query_hash):
        abort(404, NO_RESULT)
    return await _download(call, result, query, filetype)


@routes.add("GET", "/api/queries/<query_id>/results")
async def latest(call: Call) -> Reply:
    """As JSON."""
    return await _latest(call, "json")


@routes.add("GET", "/api/queries/<query_id>/results.<filetype>")
async def latest_as(call: Call) -> Reply:
    """As json, csv, tsv or xlsx."""
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
    """As json, csv, tsv or xlsx; immutable."""
    return await _download(call, result_of(call), None, call.params["filetype"], by_id=True)


@routes.add("GET", "/api/query_results/<query_result_id>")
async def by_id(call: Call) -> Reply:
    """As JSON; immutable."""
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


def _stem(name: str) -> str:
    shown = "".join(character for character in name if unicodedata.category(character)[0] != "C")
    return re.sub(r"\s+", "_", re.sub(r'[<>:"\\/|?*]+', " ", shown)).strip("_")


def disposition(result: Result, query: Query | None, filetype: str) -> str:
    """Named after the query where its id is in the path; RFC 5987 for what is not ASCII (CONTRACT 4)."""
    stem = _stem(query.name) if query is not None else str(result.id)
    name = f"{stem}_{file_date(result.retrieved_at)}.{filetype}"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    shown = plain if re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", plain, re.ASCII) else f'"{plain}"'
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f"attachment; filename={shown}{extended}"


# -- dropdowns


@routes.add("GET", "/api/queries/<query_id>/dropdown")
async def dropdown(call: Call) -> Reply:
    """The newest result of this query as options."""
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
    except DetachedError as error:
        return message(400, str(error))
