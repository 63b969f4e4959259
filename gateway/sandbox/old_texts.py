"""The texts of errors as older versions write them. The newest version's are in `response.py`."""

from __future__ import annotations

from dataclasses import replace

from .request import Request
from .response import CONFLICT, NO_LOGIN, NOT_FOUND, Json, Response
from .routing import Resource, routes

_OF_WERKZEUG = (NOT_FOUND, CONFLICT)
_BOARD, _BOARD_BY_SLUG = "/api/dashboards/<dashboard_id>", "/api/dashboards/<dashboard_slug>"


def worded(request: Request, resource: Resource, response: Response) -> Response:
    """The error of a handler in the words of the version."""
    text = _message(response)
    if text is None or text == NO_LOGIN:
        return response
    if request.version.two_blanks and text in _OF_WERKZEUG:
        text = text.replace(". ", ".  ")
    if request.version.suggests_routes and response.status == 404 and resource.rest:
        text += _suggestion(request)
    return replace(response, body=Json({"message": text}))


def _message(response: Response) -> str | None:
    value = response.body.value if isinstance(response.body, Json) else None
    return value.get("message") if isinstance(value, dict) else None


def _suggestion(request: Request) -> str:
    """Flask-RESTful's help for people who mistyped a path."""
    found = routes.similar(request.path, request.version.missing_routes)
    if request.version.dashboards_by_slug:
        found = [_BOARD_BY_SLUG if template == _BOARD else template for template in found]
    listed = " or ".join(found)
    return f" You have requested this URI [{request.path}] but did you mean {listed} ?" if found else ""
