"""The sandbox's own HTTP routes under /sandbox/, for a stand-alone server: counters, faults, keys. Never under /api."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from .service import Service


def answer(service: Service, request: web.BaseRequest, body: bytes) -> web.Response:
    """Not counted, not logged, not subject to faults."""
    route = f"{request.method} {request.raw_path.partition('?')[0]}"
    try:
        if route == "GET /sandbox/counters":
            return _json(service.counters.as_json())
        if route == "POST /sandbox/counters":
            service.counters.reset()
            return _json(service.counters.as_json())
        if route in ("GET /sandbox/faults", "POST /sandbox/faults"):
            return _json(_change(service, json.loads(body)) if request.method == "POST" else service.faults.as_json())
        if route == "GET /sandbox/keys":
            return _json(keys(service))
    except (ValueError, TypeError) as error:
        return _json({"message": str(error)}, 400)
    return _json({"message": "known: /sandbox/counters, /sandbox/faults, /sandbox/keys"}, 404)


def _change(service: Service, wanted: dict[str, Any]) -> dict[str, Any]:
    """{"clear": true}, {"clock_skew": seconds}, or the arguments of `Faults.add`."""
    if wanted.pop("clear", False):
        service.faults.clear(wanted.pop("kind", None))
    service.faults.clock_skew = float(wanted.pop("clock_skew", service.faults.clock_skew))
    if wanted:
        service.faults.add(**wanted)
    return service.faults.as_json()


def keys(service: Service) -> dict[str, Any]:
    """All keys and tokens by name."""
    world = service.world
    return {
        "users": {user.name: user.api_key for user in world.users.values()},
        "queries": {query.id: {"name": query.name, "api_key": query.api_key} for query in world.queries.values()},
        "dashboards": {board.name: board.tokens for board in world.dashboards.values() if board.tokens},
    }


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)
