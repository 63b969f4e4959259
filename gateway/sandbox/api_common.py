"""Helpers of the api modules: objects by the id in the path, pages of lists, checks; 404 and 500 as in Redash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .access import number
from .objects import Dashboard, Query
from .request import Request
from .response import BROKEN, CONFLICT, NOT_FOUND, Response, abort, json_response
from .results import Result

T = TypeVar("T")


def query_of(request: Request, name: str = "query_id") -> Query:
    """The query named in the path, of this organisation."""
    query = request.database.queries.get(number(request.params[name]))
    if query is None or query.org != request.org:
        abort(404, NOT_FOUND)
    return query


def dashboard_of(request: Request) -> Dashboard:
    """The dashboard named in the path, of this organisation."""
    board = request.database.dashboards.get(number(request.params["dashboard_id"]))
    if board is None or board.org != request.org:
        abort(404, NOT_FOUND)
    return board


def result_of(request: Request) -> Result:
    """The result named in the path; its source must belong to this organisation."""
    database = request.database
    result = database.results.get(number(request.params["query_result_id"]))
    source = database.sources.get(result.data_source_id) if result else None
    if result is None or source is None or source.org != request.org:
        abort(404, NOT_FOUND)
    return result


def entry_of(request: Request, table: dict[int, T], name: str) -> T:
    """Any object by the id in the path."""
    found = table.get(number(request.params[name]))
    if found is None:
        abort(404, NOT_FOUND)
    return found


def _whole(text: str, default: int) -> int:
    try:
        return int(text)
    except ValueError:
        return default


def paged(request: Request, found: Sequence[T], body: Callable[[T], Any]) -> Response:
    """A page of a list. A page beyond the end is 400, but 404 if the list is empty (CONTRACT 5)."""
    page, size = _whole(request.arg("page"), 1), _whole(request.arg("page_size"), 25)
    if page < 1:
        abort(400, "Page must be positive integer.")
    if (page - 1) * size + 1 > len(found) > 0:
        abort(400, "Page is out of range.")
    if not 1 <= size <= 250:
        abort(400, "Page size is out of range (1-250).")
    if not found and page > 1:
        abort(404, NOT_FOUND)
    shown = found[(page - 1) * size : page * size]
    return json_response(
        {"count": len(found), "page": page, "page_size": size, "results": [body(item) for item in shown]}
    )


def ordered(request: Request, found: list[T], keys: dict[str, Callable[[T], Any]], default: str) -> list[T]:
    """Sorted by the `order` argument; an unknown value falls back to the default."""
    order = request.arg("order") or default
    if order.lstrip("-") not in keys:
        order = default
    key = keys[order.lstrip("-")]
    known = sorted((item for item in found if key(item) is not None), key=key, reverse=order.startswith("-"))
    unknown = [item for item in found if key(item) is None]
    return unknown + known if order.startswith("-") else known + unknown


def with_tags(request: Request, found: list[T], tags: Callable[[T], list[str]]) -> list[T]:
    """The items that have all tags in the arguments."""
    selected = set(request.args("tags"))
    return [item for item in found if selected <= set(tags(item))]


def check_version(stored: int, given: Any) -> None:
    """409 if the given number differs or has another JSON type (CONTRACT 5)."""
    if given is not None and (isinstance(given, str) or given != stored):
        abort(409, CONFLICT)


def need_fields(fields: dict[str, Any], *names: str) -> None:
    """500 if one of the fields is missing."""
    if any(fields.get(name) is None for name in names):
        abort(500, BROKEN)


def tag_counts(tags: Sequence[str]) -> Response:
    """Tags with their counts, most used first."""
    counts = sorted(((tags.count(tag), tag) for tag in set(tags)), key=lambda pair: (-pair[0], pair[1]))
    return json_response({"tags": [{"name": tag, "count": count} for count, tag in counts]})
