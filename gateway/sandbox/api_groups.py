"""Groups, their members and their data sources; for admins (CONTRACT 2)."""

from __future__ import annotations

from typing import Any

from .api_common import entry_of
from .objects import Group
from .request import Request
from .response import Response, json_response
from .routing import routes
from .serialise import source_body, user_body
from .timestamps import timestamp


def _body(group: Group) -> dict[str, Any]:
    return {
        "id": group.id,
        "name": group.name,
        "permissions": list(group.permissions),
        "type": group.type,
        "created_at": timestamp(group.created_at),
    }


def _group(request: Request) -> Group:
    return entry_of(request, request.database.groups, "group_id")


@routes.add("GET", "/api/groups")
async def listed(request: Request) -> Response:
    """All groups for admins, otherwise the caller's own."""
    database = request.database
    seen = tuple(database.groups) if request.caller.may("admin") else request.caller.groups
    return json_response([_body(database.groups[id]) for id in sorted(seen) if database.groups[id].org == request.org])


@routes.add("POST", "/api/groups")
async def create(request: Request) -> Response:
    """A group with the default permissions."""
    request.need("admin")
    return json_response(_body(request.database.add_group(request.json_object()["name"])))


@routes.add("POST", "/api/groups/<group_id>/data_sources")
async def add_source(request: Request) -> Response:
    """Members of the group get full access at once."""
    request.need("admin")
    group = _group(request)
    source = request.database.sources[request.json_object()["data_source_id"]]
    source.groups[group.id] = False
    return json_response({**source_body(source, request.version), "view_only": False})


@routes.add("POST", "/api/groups/<group_id>/data_sources/<data_source_id>")
async def limit_source(request: Request) -> Response:
    """Makes the access view-only or full."""
    request.need("admin")
    group = _group(request)
    source = entry_of(request, request.database.sources, "data_source_id")
    source.groups[group.id] = bool(request.json_object()["view_only"])
    return json_response({**source_body(source, request.version), "view_only": source.groups[group.id]})


@routes.add("DELETE", "/api/groups/<group_id>/data_sources/<data_source_id>")
async def remove_source(request: Request) -> Response:
    """Takes effect on the next request."""
    request.need("admin")
    entry_of(request, request.database.sources, "data_source_id").groups.pop(_group(request).id, None)
    return json_response(None)


@routes.add("POST", "/api/groups/<group_id>/members")
async def add_member(request: Request) -> Response:
    """The response is the user with all groups."""
    request.need("admin")
    user = request.database.users[request.json_object()["user_id"]]
    user.groups = sorted({*user.groups, _group(request).id})
    return json_response(user_body(user))


@routes.add("DELETE", "/api/groups/<group_id>/members/<user_id>")
async def remove_member(request: Request) -> Response:
    """Takes effect on the next request."""
    request.need("admin")
    user = entry_of(request, request.database.users, "user_id")
    user.groups = [id for id in user.groups if id != _group(request).id]
    return json_response(None)
