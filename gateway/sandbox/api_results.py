"""Reading stored results in every form, and results as dropdowns (CONTRACT 8, 12). Executing is in `api_execute.py`."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from .access import reaches_query, reaches_source
from .api_common import query_of, result_of
from .database import Database
from .objects import Query
from .parameters import DetachedError
from .request import Request
from .response import BROKEN, FORBIDDEN, NO_RESULT, Response, abort, error_response, json_response
from .results import Result, as_separated, as_workbook
from .routing import routes
from .timestamps import file_date

Form = tuple[str, Callable[[Result, Database], bytes]]
"""The Content-Type of a file, and what writes it."""


async def _latest(request: Request, filetype: str) -> Response:
    """The result that `latest_query_data_id` points at; max_age and parameters are ignored."""
    query = query_of(request)
    result = request.database.results.get(query.latest_query_data_id or 0)
    if result is None or (request.caller.is_api_user and result.query_hash != query.query_hash):
        abort(404, NO_RESULT)
    return await _download(request, result, query, filetype)


@routes.add("GET", "/api/queries/<query_id>/results")
async def latest(request: Request) -> Response:
    """The newest result as JSON."""
    return await _latest(request, "json")


@routes.add("GET", "/api/queries/<query_id>/results.<filetype>")
async def latest_as(request: Request) -> Response:
    """As json, csv, tsv or xlsx."""
    return await _latest(request, request.params["filetype"])


@routes.add("GET", "/api/queries/<query_id>/results/<query_result_id>.<filetype>")
async def nested(request: Request) -> Response:
    """With a user key the result may belong to another query (CONTRACT 2)."""
    result, query = result_of(request), query_of(request)
    if request.caller.is_api_user and result.query_hash != query.query_hash:
        abort(404, NO_RESULT)
    return await _download(request, result, query, request.params["filetype"], by_id=True)


@routes.add("GET", "/api/query_results/<query_result_id>.<filetype>")
async def by_id_as(request: Request) -> Response:
    """As json, csv, tsv or xlsx; immutable."""
    return await _download(request, result_of(request), None, request.params["filetype"], by_id=True)


@routes.add("GET", "/api/query_results/<query_result_id>")
async def by_id(request: Request) -> Response:
    """As JSON; immutable."""
    return await _download(request, result_of(request), None, "json", by_id=True)


async def _broken_post(request: Request) -> Response:
    """500: the resource accepts POST only without a result id and file type."""
    abort(500, BROKEN)


async def _preflight(request: Request) -> Response:
    """OPTIONS needs a key here (CONTRACT 16)."""
    if request.caller_or_none is None:
        abort(403, FORBIDDEN)
    return Response(content_type="text/html; charset=utf-8")


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


async def _download(
    request: Request, result: Result, query: Query | None, filetype: str, *, by_id: bool = False
) -> Response:
    """The result as a file; the groups of the *result's* source decide about access."""
    request.require(request.caller.may("view_query"))
    source = request.database.sources.get(result.data_source_id)
    request.require(reaches_source(source, request.caller, view_only=True))
    kind, make = _form(request, filetype)
    body = await _made(result, make, request.database, filetype)
    response = Response(body, content_type=kind)
    if by_id:
        response.headers.append(("Cache-Control", "private,max-age=31557600"))
    name = _file_name(result, query, filetype)
    shown = _quoted(name) if request.version.quotes_file_names else disposition(name)
    response.headers.append(("Content-Disposition", shown))
    return response


def _form(request: Request, filetype: str) -> Form:
    if filetype in request.version.file_types:
        return _FORMS[filetype]
    if not request.version.other_types_are_csv:
        abort(500, BROKEN)
    return _FORMS["csv"]


async def _made(result: Result, make: Callable[[Result, Database], bytes], database: Database, filetype: str) -> bytes:
    if filetype == "json" and result.is_loaded:
        return result.full()
    return await asyncio.to_thread(make, result, database)


def _separated(delimiter: str) -> Callable[[Result, Database], bytes]:
    return lambda result, d: as_separated(result, delimiter, d.date_format, d.time_format)


_FORMS: dict[str, Form] = {
    "json": ("application/json", lambda result, _: result.full()),
    "csv": ("text/csv; charset=UTF-8", _separated(",")),
    "tsv": ("text/tab-separated-values; charset=UTF-8", _separated("\t")),
    "xlsx": (
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        lambda result, d: as_workbook(result, d.now()),
    ),
}


def _stem(name: str) -> str:
    shown = "".join(character for character in name if unicodedata.category(character)[0] != "C")
    return re.sub(r"\s+", "_", re.sub(r'[<>:"\\/|?*]+', " ", shown)).strip("_")


def _file_name(result: Result, query: Query | None, filetype: str) -> str:
    """The file is named after the query if the path has its id."""
    stem = _stem(query.name) if query is not None else str(result.id)
    return f"{stem}_{file_date(result.retrieved_at)}.{filetype}"


def _quoted(name: str) -> str:
    return f'attachment; filename="{name}"'


def disposition(name: str) -> str:
    """RFC 5987 for names outside ASCII (CONTRACT 4)."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    shown = plain if re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", plain, re.ASCII) else f'"{plain}"'
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f"attachment; filename={shown}{extended}"


# -- dropdowns


@routes.add("GET", "/api/queries/<query_id>/dropdown")
async def dropdown(request: Request) -> Response:
    """The newest result of this query as options."""
    query = query_of(request)
    request.require(reaches_source(_source_of(request, query), request.caller, view_only=True))
    return _options(request, query.id)


@routes.add("GET", "/api/queries/<query_id>/dropdowns/<dropdown_query_id>")
async def dropdowns(request: Request) -> Response:
    """A related dropdown needs access to the query only, any other also to its own *source* (CONTRACT 12)."""
    query, other = query_of(request), query_of(request, "dropdown_query_id")
    database = request.database
    request.require(reaches_query(database, query, request.caller, view_only=True))
    related = {definition.get("queryId") for definition in query.parameters if definition.get("type") == "query"}
    if other.id not in related:
        request.require(reaches_source(_source_of(request, other), request.caller, view_only=True))
    return _options(request, other.id)


def _source_of(request: Request, query: Query) -> Any:
    return request.database.sources.get(query.data_source_id or 0)


def _options(request: Request, query_id: int) -> Response:
    try:
        return json_response(request.database.dropdown_options(query_id, request.org_id))
    except DetachedError as error:
        return error_response(400, str(error))
