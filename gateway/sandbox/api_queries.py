"""Query objects and lists of them: reading, searching, creating, editing, archiving, forking, stars, keys
(CONTRACT 5, 11). Executing is in `api_execute.py`.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from .access import owns, reaches_query, reaches_source
from .api_common import check_version, need_fields, ordered, paged, query_of, tag_counts, with_tags
from .objects import Query
from .request import Request
from .response import BROKEN, NOT_EDITABLE, Response, abort, json_response
from .routing import routes
from .serialise import query_body, query_item, query_object
from .timestamps import timestamp

_FORGED = (
    "id",
    "created_at",
    "api_key",
    "visualizations",
    "latest_query_data",
    "last_modified_by",
    "user",
    "updated_at",
)
_FIELDS = frozenset(
    ["name", "query", "data_source_id", "description", "options", "schedule", "tags", "is_archived", "is_draft"]
)
_NO_GROUP = (
    "You are trying to associate a dropdown query that does not have a matching group. "
    "Please verify the dropdown query id you are trying to associate with this query."
)


def _visible(request: Request, *, archived: bool = False) -> list[Query]:
    """The queries on sources of the user's groups, also for admins (CONTRACT 5); no drafts of others."""
    user, database = request.user, request.database
    sources = {s.id for s in database.sources.values() if s.org == user.org and set(s.groups) & set(user.groups)}
    return [
        query
        for query in database.queries.values()
        if query.org == user.org
        and query.is_archived == archived
        and query.data_source_id in sources
        and (not query.is_draft or query.user_id == user.id)
    ]


def _listed(request: Request, found: list[Query], default: str = "-created_at") -> Response:
    """A page of the queries, filtered by words and tags, and sorted."""
    database = request.database
    found = with_tags(request, _matching(found, request.arg("q")), lambda query: query.tags)

    def newest(query: Query, field: str) -> Any:
        result = database.results.get(query.latest_query_data_id or 0)
        return getattr(result, field) if result else None

    keys = {
        "name": lambda query: query.name.lower(),
        "created_at": lambda query: (query.created_at, query.id),
        "schedule": lambda query: str(query.schedule) if query.schedule else None,
        "runtime": lambda query: newest(query, "runtime"),
        "executed_at": lambda query: newest(query, "retrieved_at"),
        "created_by": lambda query: database.users[query.user_id].name,
        "starred_at": lambda query: database.starred.get(("query", query.id, request.user.id)),
    }
    return paged(request, ordered(request, found, keys, default), lambda query: _item(request, query))


def _matching(found: list[Query], text: str) -> list[Query]:
    """Queries with all words in name, description or SQL; "-" excludes a word. Simpler than PostgreSQL's search."""
    for sign, word in re.findall(r"(-?)(\w+)", text.lower()):
        found = [q for q in found if (word in f"{q.id} {q.name} {q.description} {q.query}".lower()) == (not sign)]
    return found


def _item(request: Request, query: Query) -> dict[str, Any]:
    return query_item(request.database, query, request.user)


@routes.add("GET", "/api/queries")
async def listed(request: Request) -> Response:
    """All queries that are not archived."""
    return _listed(request, _visible(request))


@routes.add("GET", "/api/queries/my")
async def mine(request: Request) -> Response:
    """The user's own queries."""
    return _listed(request, [query for query in _visible(request) if query.user_id == request.user.id])


@routes.add("GET", "/api/queries/archive")
async def archived(request: Request) -> Response:
    """The archived queries."""
    return _listed(request, _visible(request, archived=True))


@routes.add("GET", "/api/queries/favorites")
async def favorites(request: Request) -> Response:
    """The user's favorites, latest first."""
    starred = request.database.starred
    favorites = [query for query in _visible(request) if ("query", query.id, request.user.id) in starred]
    return _starred(request, favorites)


def _starred(request: Request, found: list[Query]) -> Response:
    found = with_tags(request, _matching(found, request.arg("q")), lambda query: query.tags)
    when = {query.id: request.database.starred["query", query.id, request.user.id] for query in found}
    latest_first = sorted(found, key=lambda query: -when[query.id])
    return paged(
        request, latest_first, lambda query: {**_item(request, query), "starred_at": timestamp(when[query.id])}
    )


@routes.add("GET", "/api/queries/recent")
async def recent(request: Request) -> Response:
    """A bare array of at most ten of the user's own queries, drafts too."""
    database, user = request.database, request.user
    own = [query for query in _visible(request) if query.user_id == user.id]
    latest = sorted(own, key=lambda query: -query.updated_at)[:10]
    star = ("query", user.id)
    return json_response(
        [
            {
                **query_body(database, query, people=False),
                "is_favorite": (star[0], query.id, star[1]) in database.starred,
            }
            for query in latest
        ]
    )


@routes.add("GET", "/api/queries/tags")
async def tags(request: Request) -> Response:
    """All tags with the number of queries that have them."""
    return tag_counts([tag for query in _visible(request) for tag in query.tags])


@routes.add("GET", "/api/queries/search")
async def search(request: Request) -> Response:
    """301; an empty list without a word."""
    word = request.arg("q")
    if not word:
        return json_response([])
    response = json_response({}, 301)
    slug = f"/{request.slug}" if request.state.multi_org else ""
    organisation = "" if slug else f"&org_slug={request.slug}"
    response.headers.append(("Location", f"{slug}/api/queries?q={quote(word)}{organisation}&drafts=false"))
    return response


@routes.add("GET", "/api/queries/<query_id>")
async def read(request: Request) -> Response:
    """Drafts and archived queries too, for all callers with access to the source."""
    request.need("view_query")
    query = query_of(request)
    database = request.database
    request.require(reaches_query(database, query, request.caller, view_only=True))
    return json_response(
        {**query_object(database, query, request.caller), "can_edit": owns(query.user_id, request.caller)}
    )


@routes.add("POST", "/api/queries")
async def create(request: Request) -> Response:
    """A draft, with status 200; missing and unknown fields and ids are 500."""
    request.need("create_query")
    fields = {name: value for name, value in request.json_object().items() if name not in _FORGED}
    database, user = request.database, request.user
    source = database.sources[fields["data_source_id"]]
    request.require(reaches_source(source, request.caller, view_only=False))
    _check_dropdowns(request, fields)
    need_fields(fields, "name", "query")
    if not fields.keys() <= _FIELDS:
        abort(500, BROKEN)
    more = {name: value for name, value in fields.items() if name in ("description", "schedule") or value is not None}
    more["is_draft"] = True
    query = database.add_query(user_id=user.id, org=user.org, **more)
    # The options as sent: keys have jsonb's order only after PostgreSQL has stored them.
    return json_response({**query_object(database, query, request.caller), "options": query.options})


def _check_dropdowns(request: Request, fields: dict[str, Any]) -> None:
    database = request.database
    for definition in (fields.get("options") or {}).get("parameters") or []:
        if definition.get("type") != "query":
            continue
        other = database.queries.get(definition.get("queryId"))
        source = database.sources.get(other.data_source_id or 0) if other else None
        if not reaches_source(source, request.caller, view_only=True) or other is None:
            abort(400, _NO_GROUP)


@routes.add("POST", "/api/queries/<query_id>")
async def edit(request: Request) -> Response:
    """Changes the given fields, also `is_archived`. `version` never changes, but a given one must match."""
    request.need("edit_query")
    query = query_of(request)
    fields = request.json_object()
    request.require(owns(query.user_id, request.caller))
    _check_dropdowns(request, fields)
    check_version(query.version, fields.get("version"))
    changes = {name: value for name, value in fields.items() if name in _FIELDS}
    database = request.database
    database.edit(query, changes, by=request.user.id)
    return json_response(query_object(database, query, request.caller))


@routes.add("DELETE", "/api/queries/<query_id>")
async def archive(request: Request) -> Response:
    """Succeeds also if it is archived already; the response is null."""
    query = query_of(request)
    request.require(owns(query.user_id, request.caller), NOT_EDITABLE)
    request.database.edit(query, {"is_archived": True}, by=request.user.id)
    return json_response(None)


@routes.add("POST", "/api/queries/<query_id>/fork")
async def fork(request: Request) -> Response:
    """A draft of the user; needs full access to the source."""
    request.need("edit_query")
    query = query_of(request)
    database, user = request.database, request.user
    request.require(reaches_query(database, query, request.caller, view_only=False))
    made = database.add_query(
        f"Copy of (#{query.id}) {query.name}",
        query.query,
        query.data_source_id,
        user.id,
        description=query.description,
        options=query.options,
        tags=list(query.tags),
        org=user.org,
    )
    return json_response(query_object(database, made, request.caller))


@routes.add("POST", "/api/queries/<query_id>/regenerate_api_key")
async def regenerate(request: Request) -> Response:
    """The old key is invalid at once, and `updated_at` moves."""
    request.need("edit_query")
    query = query_of(request)
    request.require(owns(query.user_id, request.caller), NOT_EDITABLE)
    database = request.database
    database.edit(query, {"api_key": database.new_key()}, by=request.user.id)
    return json_response(query_object(database, query, request.caller))


@routes.add("POST", "/api/queries/<query_id>/favorite")
async def star(request: Request) -> Response:
    """Has no effect if it is a favorite already; 500 for API users."""
    query = query_of(request)
    database = request.database
    request.require(reaches_query(database, query, request.caller, view_only=True))
    database.starred.setdefault(("query", query.id, request.user.id), database.now())
    return json_response(None)


@routes.add("DELETE", "/api/queries/<query_id>/favorite")
async def unstar(request: Request) -> Response:
    """Succeeds also if it is not a favorite."""
    query = query_of(request)
    request.require(reaches_query(request.database, query, request.caller, view_only=True))
    request.database.starred.pop(("query", query.id, request.user.id), None)
    return json_response(None)


@routes.add("GET", "/api/<object_type>/<object_id>/acl")
async def grants(request: Request) -> Response:
    """Without an access check (CONTRACT 14)."""
    return json_response({})
