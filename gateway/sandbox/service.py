"""From bytes to a handler and back: finds the caller, the route and the faults, and puts Redash's headers on every
answer. What the routes do is in the api modules; the socket is opened in `sandbox.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from urllib.parse import quote

from aiohttp import web

from . import control
from .access import UnknownOwnerError, as_caller, find_caller
from .counters import Counters, LoggedRequest
from .faults import Fault, Faults
from .jobs import Jobs
from .messages import (
    BROKEN,
    FORBIDDEN,
    NO_LOGIN,
    NOT_ALLOWED,
    AbortError,
    Call,
    Reply,
    compact,
    front_end,
    message,
    page,
    redirect,
    split_target,
)
from .moments import SECOND, cookie_date, http_date
from .objects import Caller
from .routing import Resource, routes
from .world import World
from .wreck import wreck_of

_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-eval'; font-src 'self' data:; "
    "img-src 'self' http: https: data: blob:; object-src 'none'; frame-ancestors 'none'; frame-src redash.io;"
)
_SECURITY = (
    ("X-Frame-Options", "deny"),
    ("X-XSS-Protection", "1; mode=block"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Download-Options", "noopen"),
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
)
_IN_FRAMES = _POLICY.replace("frame-ancestors 'none'", "frame-ancestors *")
_EMBEDDABLE = tuple(
    (name, _IN_FRAMES if value == _POLICY else value) for name, value in _SECURITY if name != "X-Frame-Options"
)
_UNSCOPED = ("/ping", "/status.json", "/api/config", "/api/admin/", "/login", "/static/")
_UNKNOWN = Resource("(unknown)", rest=False)
_SESSION_SECONDS = 6 * 3600


class Service:
    """One Redash behind one socket."""

    def __init__(
        self,
        world: World,
        jobs: Jobs,
        counters: Counters,
        faults: Faults,
        schema: Callable[[], list[dict[str, object]]],
        *,
        multi_org: bool,
        csrf: bool = False,
    ) -> None:
        self.world = world
        self.jobs = jobs
        self.counters = counters
        self.faults = faults
        self.schema = schema
        self.multi_org = multi_org
        self.csrf = csrf
        self.sessions: dict[str, int] = {}

    @property
    def schemas_asked(self) -> bool:
        """A queue for schemas shows once somebody asked for one."""
        return any(source.schema_known for source in self.world.sources.values())

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request; an answer that a fault wrecks is written by `wreck.py`."""
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await request.content.read()
        if request.raw_path.startswith("/sandbox/"):
            return control.answer(self, request, body)
        call, resource = self._understand(request, body)
        self.counters.arrived(request.method, resource.template)
        faults = self.faults.take(request.method, resource.template)
        await self._delay(faults)
        response = self._dress(call, resource, await self._reply(call, resource, faults))
        wreck = wreck_of(faults)
        self._log(request, call, resource, wreck.status(response.status) if wreck else response.status)
        return response if wreck is None else await wreck.send(request, response)

    def _understand(self, request: web.BaseRequest, body: bytes) -> tuple[Call, Resource]:
        path, query = split_target(request.raw_path)
        org, slug, path = self._organisation(path)
        headers = request.headers
        call = Call(self, request.method, request.raw_path, path, query, headers, body, org, slug)
        found = routes.find(path)
        if found is None:
            return call, _UNKNOWN
        resource, call.params = found
        return call, resource

    def _organisation(self, path: str) -> tuple[int | None, str, str]:
        """With several organisations the first segment is the slug, on all but a few routes (CONTRACT 17)."""
        if not self.multi_org or path.startswith(_UNSCOPED):
            return 1, "default", path
        slug, _, rest = path[1:].partition("/")
        return self.world.orgs.get(slug), slug, "/" + rest

    async def _delay(self, faults: list[Fault]) -> None:
        for fault in faults:
            if fault.kind == "latency":
                await asyncio.sleep(fault.seconds)
            elif fault.kind == "hang":
                await fault.released.wait()
            elif fault.kind == "lose_jobs":
                self.jobs.lose()

    async def _reply(self, call: Call, resource: Resource, faults: list[Fault]) -> Reply:
        rejected = any(fault.kind == "reject_keys" for fault in faults)
        try:
            call.session = self._session(call)
            call.caller_or_none = None if rejected else self._caller(call)
            self._note_activity(call.caller_or_none)
            return await self._route(call, resource)
        except AbortError as abort:
            return abort.reply
        except UnknownOwnerError:
            return self._unlasting(message(500, BROKEN))
        except Exception:
            # Redash answers 500 to most bad input (CONTRACT 3): a KeyError or TypeError here is one there, too.
            return message(500, BROKEN) if resource.rest else page(500)

    def _caller(self, call: Call) -> Caller | None:
        """The key of the query string hides the header, even when empty; a valid session comes last (CONTRACT 1)."""
        key = call.arg("api_key") if call.has_arg("api_key") else self._header_key(call)
        if key is None and call.path.startswith(("/api/dashboards/public/", "/public/dashboards/")):
            key = call.path.rsplit("/", 1)[-1]
        return self._by_key(call, key or "") or self._by_session(call)

    def _header_key(self, call: Call) -> str | None:
        """The first "Key " is cut out wherever it stands; two headers are joined and so never match."""
        values = [value for name, value in call.headers.items() if name.lower() == "authorization"]
        return ",".join(values).replace("Key ", "", 1) if values else None

    def _by_key(self, call: Call, key: str) -> Caller | None:
        if call.org is None and key and call.path.startswith("/api/"):
            raise UnknownOwnerError(call.slug)
        return find_caller(self.world, key, call.org, call.params.get("query_id"))

    def _session(self, call: Call) -> str | None:
        cookies = dict(part.strip().partition("=")[::2] for part in call.headers.get("Cookie", "").split(";"))
        return cookies.get("session")

    def _by_session(self, call: Call) -> Caller | None:
        user = self.world.users.get(self.sessions.get(call.session or "", 0))
        if user is None or user.disabled_at is not None or user.org != call.org:
            return None
        return as_caller(self.world, user)

    def _note_activity(self, caller: Caller | None) -> None:
        """Moves `active_at`, so that query and dashboard bodies are not stable (CONTRACT 5)."""
        if caller is not None and caller.user is not None:
            caller.user.active_at = self.world.now() // (60 * SECOND) * 60 * SECOND

    async def _route(self, call: Call, resource: Resource) -> Reply:
        handler = resource.handler(call.method)
        if call.method == "OPTIONS" and handler is None:
            return Reply(type="text/html; charset=utf-8", headers=[("Allow", resource.allow)])
        if handler is None:
            return self._no_handler(call, resource)
        if self.csrf and call.method == "POST" and call.caller_or_none is None:
            return self._unlasting(message(400, "The CSRF token is missing."))
        if resource.login and call.caller_or_none is None:
            return self._please_login(call, resource.rest)
        return await handler(call)

    def _unlasting(self, reply: Reply) -> Reply:
        reply.lasting_session = False
        return reply

    def _no_handler(self, call: Call, resource: Resource) -> Reply:
        """GET of anything unknown is the front-end page; other methods are not allowed."""
        if call.method in ("GET", "HEAD"):
            return front_end() if call.caller_or_none else self._please_login(call, rest=False)
        return self._not_allowed(resource)

    def _not_allowed(self, resource: Resource) -> Reply:
        reply = message(405, NOT_ALLOWED) if resource.rest else page(405)
        reply.headers.append(("Allow", resource.allow))
        return reply

    def _please_login(self, call: Call, rest: bool) -> Reply:
        """404 on API paths, where the two kinds of routes write JSON differently; elsewhere a redirect (CONTRACT 1)."""
        if call.method == "OPTIONS":
            return message(403, FORBIDDEN)
        if "/api/" in call.target.partition("?")[0] or call.headers.get("X-Requested-With") == "XMLHttpRequest":
            return message(404, NO_LOGIN) if rest else compact({"message": NO_LOGIN}, 404)
        return redirect("/login?next=" + quote(call.host_url + call.target, safe=":/?"))

    def _dress(self, call: Call, resource: Resource, reply: Reply) -> web.Response:
        response = web.Response(status=reply.status, body=reply.body)
        headers = response.headers
        for name, value in (("Server", "gunicorn"), ("Date", http_date(self.world.now())), *reply.headers):
            headers.add(name, value)
        headers["Content-Type"] = reply.type
        framed = resource.embeddable and resource.handler(call.method) is not None
        headers.extend(_EMBEDDABLE if framed else _SECURITY)
        for name, value in self._cookies(call, reply):
            headers.add(name, value)
        response.force_close()
        return response

    def _cookies(self, call: Call, reply: Reply) -> list[tuple[str, str]]:
        """On every answer, whoever asks (CONTRACT 4)."""
        session = (
            reply.session or (call.session if call.session in self.sessions else None) or secrets.token_urlsafe(60)
        )
        expires = f"Expires={cookie_date(self.world.now() + _SESSION_SECONDS * SECOND)}; "
        return [
            ("Set-Cookie", f"csrf_token={secrets.token_urlsafe(60)}; Path=/"),
            ("Vary", "Cookie"),
            ("Set-Cookie", f"session={session}; {expires if reply.lasting_session else ''}HttpOnly; Path=/"),
        ]

    def _log(self, request: web.BaseRequest, call: Call, resource: Resource, status: int) -> None:
        headers = dict(request.headers)
        self.counters.request(
            LoggedRequest(request.method, request.raw_path, headers, call.body, status, resource.template)
        )
