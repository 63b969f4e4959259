"""Query objects and lists of them: reading, searching, creating, editing, archiving, forking, stars, keys
(CONTRACT 5, 11). Executing is in `api_results.py`.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from .access import owns, reaches_query, reaches_source
from .finding import checked_version, need_name, ordered, paged, query_of, tag_counts, with_tags
from .messages import BROKEN, NOT_EDITABLE, Call, Reply, abort, answer
from .moments import stamp
from .objects import Query
from .routing import routes
from .serialise import query_body, query_item, query_object

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


def _visible(call: Call, *, archived: bool = False) -> list[Query]:
    """By the user's groups, admin or not (CONTRACT 5); drafts only of his own."""
    user, world = call.user, call.service.world
    sources = {s.id for s in world.sources.values() if s.org == user.org and set(s.groups) & set(user.groups)}
    return [
        query
        for query in world.queries.values()
        if query.org == user.org
        and query.is_archived == archived
        and query.data_source_id in sources
        and (not query.is_draft or query.user_id == user.id)
    ]


def _listed(call: Call, found: list[Query], default: str = "-created_at") -> Reply:
    """Filtered by words and tags, sorted, cut to a page."""
    world = call.service.world
    found = with_tags(call, _matching(found, call.arg("q")), lambda query: query.tags)

    def newest(query: Query, field: str) -> Any:
        result = world.results.get(query.latest_query_data_id or 0)
        return getattr(result, field) if result else None

    keys = {
        "name": lambda query: query.name.lower(),
        "created_at": lambda query: (query.created_at, query.id),
        "schedule": lambda query: str(query.schedule) if query.schedule else None,
        "runtime": lambda query: newest(query, "runtime"),
        "executed_at": lambda query: newest(query, "retrieved_at"),
        "created_by": lambda query: world.users[query.user_id].name,
        "starred_at": lambda query: world.starred.get(("query", query.id, call.user.id)),
    }
    return paged(call, ordered(call, found, keys, default), lambda query: _item(call, query))


def _matching(found: list[Query], text: str) -> list[Query]:
    """Every word in name, description or SQL; a word with - must not be there. A stand-in for PostgreSQL's search."""
    for sign, word in re.findall(r"(-?)(\w+)", text.lower()):
        found = [q for q in found if (word in f"{q.id} {q.name} {q.description} {q.query}".lower()) == (not sign)]
    return found


def _item(call: Call, query: Query) -> dict[str, Any]:
    return query_item(call.service.world, query, call.user)


@routes.add("GET", "/api/queries")
async def listed(call: Call) -> Reply:
    """All that are not archived."""
    return _listed(call, _visible(call))


@routes.add("GET", "/api/queries/my")
async def mine(call: Call) -> Reply:
    """His own."""
    return _listed(call, [query for query in _visible(call) if query.user_id == call.user.id])


@routes.add("GET", "/api/queries/archive")
async def archived(call: Call) -> Reply:
    """The archived ones."""
    return _listed(call, _visible(call, archived=True))


@routes.add("GET", "/api/queries/favorites")
async def favorites(call: Call) -> Reply:
    """Those he starred, latest first."""
    starred = call.service.world.starred
    reply = [query for query in _visible(call) if ("query", query.id, call.user.id) in starred]
    return _starred(call, reply)


def _starred(call: Call, found: list[Query]) -> Reply:
    found = with_tags(call, _matching(found, call.arg("q")), lambda query: query.tags)
    when = {query.id: call.service.world.starred["query", query.id, call.user.id] for query in found}
    latest_first = sorted(found, key=lambda query: -when[query.id])
    return paged(call, latest_first, lambda query: {**_item(call, query), "starred_at": stamp(when[query.id])})


@routes.add("GET", "/api/queries/recent")
async def recent(call: Call) -> Reply:
    """A bare array of at most ten of his own, drafts too."""
    world, user = call.service.world, call.user
    own = [query for query in _visible(call) if query.user_id == user.id]
    latest = sorted(own, key=lambda query: -query.updated_at)[:10]
    star = ("query", user.id)
    return answer(
        [
            {**query_body(world, query, people=False), "is_favorite": (star[0], query.id, star[1]) in world.starred}
            for query in latest
        ]
    )


@routes.add("GET", "/api/queries/tags")
async def tags(call: Call) -> Reply:
    """With how many queries carry each."""
    return tag_counts([tag for query in _visible(call) for tag in query.tags])


@routes.add("GET", "/api/queries/search")
async def search(call: Call) -> Reply:
    """Moved, with a relative Location; nothing without a word."""
    word = call.arg("q")
    if not word:
        return answer([])
    reply = answer({}, 301)
    reply.headers.append(("Location", f"/api/queries?q={quote(word)}&org_slug={call.slug}&drafts=false"))
    return reply


@routes.add("GET", "/api/queries/<query_id>")
async def read(call: Call) -> Reply:
    """Drafts and archived ones too, for all who reach the source."""
    call.need("view_query")
    query = query_of(call)
    world = call.service.world
    call.require(reaches_query(world, query, call.caller, view_only=True))
    return answer({**query_object(world, query, call.caller), "can_edit": owns(query.user_id, call.caller)})


@routes.add("POST", "/api/queries")
async def create(call: Call) -> Reply:
    """200, a draft; what is missing, unknown or points nowhere is 500."""
    call.need("create_query")
    fields = {name: value for name, value in call.json_object().items() if name not in _FORGED}
    world, user = call.service.world, call.user
    source = world.sources[fields["data_source_id"]]
    call.require(reaches_source(source, call.caller, view_only=False))
    _check_dropdowns(call, fields)
    need_name(fields, "name", "query")
    if not fields.keys() <= _FIELDS:
        abort(500, BROKEN)
    more = {name: value for name, value in fields.items() if name in ("description", "schedule") or value is not None}
    more["is_draft"] = True
    query = world.query(user_id=user.id, org=user.org, **more)
    # As sent: only what was read back from the database has jsonb's order of keys.
    return answer({**query_object(world, query, call.caller), "options": query.options})


def _check_dropdowns(call: Call, fields: dict[str, Any]) -> None:
    world = call.service.world
    for definition in (fields.get("options") or {}).get("parameters") or []:
        if definition.get("type") != "query":
            continue
        other = world.queries.get(definition.get("queryId"))
        source = world.sources.get(other.data_source_id or 0) if other else None
        if not reaches_source(source, call.caller, view_only=True) or other is None:
            abort(400, _NO_GROUP)


@routes.add("POST", "/api/queries/<query_id>")
async def edit(call: Call) -> Reply:
    """Any field given, un-archiving included; `version` never moves, only the number sent must fit."""
    call.need("edit_query")
    query = query_of(call)
    fields = call.json_object()
    call.require(owns(query.user_id, call.caller))
    _check_dropdowns(call, fields)
    checked_version(query.version, fields.get("version"))
    changes = {name: value for name, value in fields.items() if name in _FIELDS}
    world = call.service.world
    world.edit(query, changes, by=call.user.id)
    return answer(query_object(world, query, call.caller))


@routes.add("DELETE", "/api/queries/<query_id>")
async def archive(call: Call) -> Reply:
    """Also when it is archived already; answers null."""
    query = query_of(call)
    call.require(owns(query.user_id, call.caller), NOT_EDITABLE)
    call.service.world.edit(query, {"is_archived": True}, by=call.user.id)
    return answer(None)


@routes.add("POST", "/api/queries/<query_id>/fork")
async def fork(call: Call) -> Reply:
    """A draft of his own; needs full access to the source."""
    call.need("edit_query")
    query = query_of(call)
    world, user = call.service.world, call.user
    call.require(reaches_query(world, query, call.caller, view_only=False))
    made = world.query(
        f"Copy of (#{query.id}) {query.name}",
        query.query,
        query.data_source_id,
        user.id,
        description=query.description,
        options=query.options,
        tags=list(query.tags),
        org=user.org,
    )
    return answer(query_object(world, made, call.caller))


@routes.add("POST", "/api/queries/<query_id>/regenerate_api_key")
async def regenerate(call: Call) -> Reply:
    """The old key is dead at once, and `updated_at` moves."""
    call.need("edit_query")
    query = query_of(call)
    call.require(owns(query.user_id, call.caller), NOT_EDITABLE)
    world = call.service.world
    world.edit(query, {"api_key": world.key()}, by=call.user.id)
    return answer(query_object(world, query, call.caller))


@routes.add("POST", "/api/queries/<query_id>/favorite")
async def star(call: Call) -> Reply:
    """Again is the same; breaks for API users."""
    query = query_of(call)
    world = call.service.world
    call.require(reaches_query(world, query, call.caller, view_only=True))
    world.starred.setdefault(("query", query.id, call.user.id), world.now())
    return answer(None)


@routes.add("DELETE", "/api/queries/<query_id>/favorite")
async def unstar(call: Call) -> Reply:
    """Also when it was not starred."""
    query = query_of(call)
    call.require(reaches_query(call.service.world, query, call.caller, view_only=True))
    call.service.world.starred.pop(("query", query.id, call.user.id), None)
    return answer(None)


@routes.add("GET", "/api/<object_type>/<object_id>/acl")
async def grants(call: Call) -> Reply:
    """No access check (CONTRACT 14)."""
    return answer({})
