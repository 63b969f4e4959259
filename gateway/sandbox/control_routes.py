"""The sandbox's own HTTP routes under /sandbox/, for a stand-alone server: counters, faults, keys. Never under /api."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from .state import State


def respond(state: State, request: web.BaseRequest, body: bytes) -> web.Response:
    """Responds to one request. It is not counted, not logged and not subject to faults."""
    route = f"{request.method} {request.raw_path.partition('?')[0]}"
    try:
        if route == "GET /sandbox/counters":
            return _json(state.counters.as_json())
        if route == "POST /sandbox/counters":
            state.counters.reset()
            return _json(state.counters.as_json())
        if route in ("GET /sandbox/faults", "POST /sandbox/faults"):
            return _json(_change(state, json.loads(body)) if request.method == "POST" else state.faults.as_json())
        if route == "GET /sandbox/keys":
            return _json(keys(state))
    except (ValueError, TypeError) as error:
        return _json({"message": str(error)}, 400)
    return _json({"message": "known: /sandbox/counters, /sandbox/faults, /sandbox/keys"}, 404)


def _change(state: State, changes: dict[str, Any]) -> dict[str, Any]:
    """{"clear": true}, {"clock_skew": seconds}, or the arguments of `Faults.add`."""
    if changes.pop("clear", False):
        state.faults.clear(changes.pop("kind", None))
    state.faults.clock_skew = float(changes.pop("clock_skew", state.faults.clock_skew))
    if changes:
        state.faults.add(**changes)
    return state.faults.as_json()


def keys(state: State) -> dict[str, Any]:
    """All API keys and dashboard tokens by name."""
    database = state.database
    return {
        "users": {user.name: user.api_key for user in database.users.values()},
        "queries": {query.id: {"name": query.name, "api_key": query.api_key} for query in database.queries.values()},
        "dashboards": {board.name: board.tokens for board in database.dashboards.values() if board.tokens},
    }


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)
