"""Receives every request of the sandbox: finds the route, the caller and the faults, and calls the handler. What the
routes do is in the api modules; the socket is opened in `sandbox.py`.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from aiohttp import web

from . import control_routes
from .access import UnknownOwnerError
from .authentication import caller_of, note_activity, session_of
from .broken_responses import broken_response
from .counters import LoggedRequest
from .faults import Fault
from .old_texts import worded
from .request import Request, split_target
from .response import (
    BROKEN,
    FORBIDDEN,
    HTML,
    NO_LOGIN,
    NOT_ALLOWED,
    AbortError,
    Response,
    error_page,
    error_response,
    flask_json_response,
    front_end_page,
    redirect,
)
from .response_headers import headers_of
from .routing import Resource, routes
from .state import State

_UNSCOPED = ("/ping", "/status.json", "/api/config", "/api/admin/", "/login", "/static/")
_UNKNOWN = Resource("(unknown)", rest=False)


class Dispatcher:
    """The request handler of the HTTP server."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """Responds to one request; a response that a fault breaks is written by `broken_responses.py`."""
        if incoming.headers.get("Expect", "").lower() == "100-continue" and incoming.transport is not None:
            incoming.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await incoming.content.read()
        if incoming.raw_path.startswith("/sandbox/"):
            return control_routes.respond(self._state, incoming, body)
        request, resource = self._parse(incoming, body)
        self._state.counters.request_arrived(request.method, resource.template)
        faults = self._state.faults.take(request.method, resource.template)
        await self._delay(faults)
        response = self._finish(request, resource, await self._respond(request, resource, faults))
        broken = broken_response(faults)
        self._log(request, resource, broken.status(response.status) if broken else response.status)
        return response if broken is None else await broken.send(incoming, response)

    def _parse(self, incoming: web.BaseRequest, body: bytes) -> tuple[Request, Resource]:
        target = incoming.raw_path
        path, query = split_target(target)
        org, slug, path = self._organisation(path)
        request = Request(self._state, incoming.method, target, path, query, incoming.headers, body, org, slug)
        found = routes.find(path, self._state.version.missing_routes)
        if found is None:
            return request, _UNKNOWN
        resource, request.params = found
        return request, resource

    def _organisation(self, path: str) -> tuple[int | None, str, str]:
        """With several organisations the first segment is the slug, except on a few routes (CONTRACT 17)."""
        if not self._state.multi_org or path.startswith(_UNSCOPED):
            return 1, "default", path
        slug, _, rest = path[1:].partition("/")
        return self._state.database.orgs.get(slug), slug, "/" + rest

    async def _delay(self, faults: list[Fault]) -> None:
        for fault in faults:
            if fault.kind == "latency":
                await asyncio.sleep(fault.seconds)
            elif fault.kind == "hang":
                await fault.released.wait()
            elif fault.kind == "lose_jobs":
                self._state.jobs.lose()

    async def _respond(self, request: Request, resource: Resource, faults: list[Fault]) -> Response:
        rejected = any(fault.kind == "reject_keys" for fault in faults)
        try:
            request.session = session_of(request)
            request.caller_or_none = None if rejected else caller_of(request)
            note_activity(request)
            return await self._route(request, resource)
        except AbortError as abort:
            return worded(request, resource, abort.response)
        except UnknownOwnerError:
            return _without_expiry(error_response(500, BROKEN))
        except Exception:
            # Redash responds to most bad input with 500 (CONTRACT 3): a KeyError or TypeError here is one there, too.
            return error_response(500, BROKEN) if resource.rest else error_page(500)

    async def _route(self, request: Request, resource: Resource) -> Response:
        handler = resource.handler(request.method)
        if request.method == "OPTIONS" and handler is None:
            return Response(content_type=HTML, headers=[("Allow", resource.allow)])
        if handler is None:
            return _no_handler(request, resource)
        if self._state.csrf and request.method == "POST" and request.caller_or_none is None:
            return _without_expiry(error_response(400, "The CSRF token is missing."))
        if resource.login and request.caller_or_none is None:
            return _login_required(request, resource.rest)
        return await handler(request)

    def _finish(self, request: Request, resource: Resource, response: Response) -> web.Response:
        finished = web.Response(status=response.status, body=response.encoded(request.version))
        framed = resource.embeddable and resource.handler(request.method) is not None
        for name, value in headers_of(request, response, framed=framed):
            finished.headers.add(name, value)
        finished.force_close()
        return finished

    def _log(self, request: Request, resource: Resource, status: int) -> None:
        headers = dict(request.headers)
        self._state.counters.request_finished(
            LoggedRequest(request.method, request.target, headers, request.body, status, resource.template)
        )


def _without_expiry(response: Response) -> Response:
    response.session_expires = False
    return response


def _no_handler(request: Request, resource: Resource) -> Response:
    """An unknown GET shows the front-end page; other methods are not allowed."""
    if request.method in ("GET", "HEAD"):
        return front_end_page(request.version) if request.caller_or_none else _login_required(request, rest=False)
    is_page = not resource.rest or request.version.not_allowed_is_page
    response = error_page(405) if is_page else error_response(405, NOT_ALLOWED)
    response.headers.append(("Allow", resource.allow))
    return response


def _login_required(request: Request, rest: bool) -> Response:
    """404 on API paths, where the two kinds of routes write JSON differently; elsewhere a redirect (CONTRACT 1)."""
    if request.method == "OPTIONS":
        return error_response(403, FORBIDDEN)
    is_xhr = request.headers.get("X-Requested-With") == "XMLHttpRequest"
    if is_xhr or "/api/" in request.target.partition("?")[0]:
        by_flask = not rest or request.version.no_login_by_flask
        return flask_json_response({"message": NO_LOGIN}, 404) if by_flask else error_response(404, NO_LOGIN)
    return redirect("/login?next=" + quote(request.host_url + request.target, safe=":/?"))
