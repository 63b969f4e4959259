"""Groups: who is in them and which sources they reach; for admins (CONTRACT 2)."""

from __future__ import annotations

from typing import Any

from .finding import entry_of
from .messages import Call, Reply, answer
from .moments import stamp
from .objects import Group
from .routing import routes
from .serialise import source_body, user_body


def _body(group: Group) -> dict[str, Any]:
    return {
        "id": group.id,
        "name": group.name,
        "permissions": list(group.permissions),
        "type": group.type,
        "created_at": stamp(group.created_at),
    }


def _group(call: Call) -> Group:
    return entry_of(call, call.service.world.groups, "group_id")


@routes.add("GET", "/api/groups")
async def listed(call: Call) -> Reply:
    """All for admins, else one's own."""
    world = call.service.world
    seen = tuple(world.groups) if call.caller.may("admin") else call.caller.groups
    return answer([_body(world.groups[id]) for id in sorted(seen) if world.groups[id].org == call.org])


@routes.add("POST", "/api/groups")
async def create(call: Call) -> Reply:
    """A group with the default permissions."""
    call.need("admin")
    return answer(_body(call.service.world.group(call.json_object()["name"])))


@routes.add("POST", "/api/groups/<group_id>/data_sources")
async def add_source(call: Call) -> Reply:
    """Full access for the group's members, at once."""
    call.need("admin")
    group = _group(call)
    source = call.service.world.sources[call.json_object()["data_source_id"]]
    source.groups[group.id] = False
    return answer({**source_body(source), "view_only": False})


@routes.add("POST", "/api/groups/<group_id>/data_sources/<data_source_id>")
async def limit_source(call: Call) -> Reply:
    """View-only or full."""
    call.need("admin")
    group = _group(call)
    source = entry_of(call, call.service.world.sources, "data_source_id")
    source.groups[group.id] = bool(call.json_object()["view_only"])
    return answer({**source_body(source), "view_only": source.groups[group.id]})


@routes.add("DELETE", "/api/groups/<group_id>/data_sources/<data_source_id>")
async def remove_source(call: Call) -> Reply:
    """Acts on the next request."""
    call.need("admin")
    entry_of(call, call.service.world.sources, "data_source_id").groups.pop(_group(call).id, None)
    return answer(None)


@routes.add("POST", "/api/groups/<group_id>/members")
async def add_member(call: Call) -> Reply:
    """The user with all his groups."""
    call.need("admin")
    user = call.service.world.users[call.json_object()["user_id"]]
    user.groups = sorted({*user.groups, _group(call).id})
    return answer(user_body(user))


@routes.add("DELETE", "/api/groups/<group_id>/members/<user_id>")
async def remove_member(call: Call) -> Reply:
    """Acts on the next request."""
    call.need("admin")
    user = entry_of(call, call.service.world.users, "user_id")
    user.groups = [id for id in user.groups if id != _group(call).id]
    return answer(None)
