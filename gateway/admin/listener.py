"""The admin listener: metrics, health, status page, purge and reload. For operators, not for callers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway import config
from gateway.admin.report import Report
from gateway.admin.status_routes import StatusRoutes
from gateway.errors import BadRequest, Forbidden, GatewayError, MisdirectedRequest, Unauthorized
from gateway.http.bodies import Bodies
from gateway.http.request import read_body, unknown_host
from gateway.http.server import Server

MOST_BODIES: Final = 8
"""So many bodies of the largest size are read at once; operators send few and small ones."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Purged(NamedTuple):
    """How many entries a purge has deleted, and what the operator should know of it."""

    entries: int
    notes: list[str]


class Reloaded(NamedTuple):
    """What a reload has changed, as dotted keys, and what the operator should know of it."""

    changed: list[str]
    notes: list[str]


class Operations(Protocol):
    """What an operator can do with the running gateway."""

    def ready(self) -> tuple[bool, Mapping[str, object]]:
        """Return whether requests are served, and the state of the parts."""

    def status(self) -> Report:
        """Return the state of everything, for people and scripts."""

    async def purge(self, what: Mapping[str, object]) -> Purged:
        """Delete results, on all gateways that share the store."""

    async def reload(self, *, everywhere: bool = False) -> Reloaded:
        """Load the configuration again. Raises `ConfigurationError`, and then changes nothing.

        `everywhere`: then also tell the gateways that share the store to load theirs.
        """


class AdminListener:
    """The routes of the admin listener."""

    def __init__(
        self,
        operations: Operations,
        snapshot: Callable[[], CollectorRegistry],
        settings: Callable[[], config.Config],
    ) -> None:
        """`snapshot` returns the metrics as they are now; they are encoded in a thread."""
        self._operations = operations
        self._snapshot = snapshot
        self._settings = settings
        self._bodies = Bodies(lambda: MOST_BODIES * settings().server.max_request_body)

    def application(self) -> web.Application:
        """Return the application to serve."""
        app = web.Application(middlewares=[_errors, self._check_origin])
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/livez", self._live),
                web.get("/readyz", self._ready),
                web.post("/purge", self._purge, expect_handler=_expect),
                web.post("/reload", self._reload),
            ]
        )
        StatusRoutes(self._operations.status).add_to(app)
        return app

    @web.middleware
    async def _check_origin(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse what a foreign web page makes a browser send: DNS rebinding to a loopback listener, and POSTs."""
        settings = self._settings()
        listen = settings.admin.listen
        host = request.headers.get(hdrs.HOST, "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        # "*" opens the listener for callers, who have tokens; here it would let every page on the web act.
        hosts = set(settings.server.hosts) - {"*"}
        known = {"localhost", "127.0.0.1", "[::1]", listen.host, f"[{listen.host}]", *hosts}
        if listen.is_local and not listen.unix and name.lower() not in known:
            raise MisdirectedRequest(f"{unknown_host(host)}, and not the admin listener's own address.")
        origin = request.headers.get("Origin")
        if request.method == "POST" and origin is not None and origin.partition("://")[2] != host:
            raise Forbidden("Requests from other web pages are refused.")
        return await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        except (TypeError, ValueError):  # a version in it that is no number
            encode, content_type = choose_encoder("")
        body = await asyncio.to_thread(encode, self._snapshot())
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        ready, parts = self._operations.ready()
        return web.json_response({"ready": ready, **parts}, status=200 if ready else 503)

    async def _purge(self, request: web.Request) -> web.Response:
        self._authorize(request)
        what = _parse(await self._body(request))
        if not isinstance(what, dict) or len(what) != 1 or not set(what) <= {"query", "dashboard", "scope", "all"}:
            raise BadRequest('Send one of {"query": 42}, {"dashboard": 3}, {"scope": "…"}, {"all": true}.')
        entries, notes = await self._operations.purge(what)
        return web.json_response({"purged": entries, **({"notes": notes} if notes else {})})

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await read_body(request, self._settings().server.max_request_body, self._bodies)
        finally:
            self._bodies.release(request.task)

    async def _reload(self, request: web.Request) -> web.Response:
        self._authorize(request)
        reloaded = await self._operations.reload(everywhere=True)
        return web.json_response({"reloaded": True, "changed": reloaded.changed, "notes": reloaded.notes})

    def _authorize(self, request: web.Request) -> None:
        """Require the admin token if one is configured; without one, only a local listener may change anything."""
        admin = self._settings().admin
        wanted = admin.token_sha256
        if wanted is None:
            if not admin.listen.is_local:
                raise Forbidden("Set admin.token_sha256: the admin listener can be reached from other machines.")
            return
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(hashlib.sha256(given).hexdigest(), wanted):
            raise Unauthorized("This needs the admin token: send 'Authorization: Bearer <token>'.")


class AdminRunner(web.AppRunner):
    """Runs the application on connections as careful as those of callers: deadlines, and nothing repeated in errors."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        # A purge or reload goes on to its end when its caller has left.
        return Server(made.request_handler, make_request=made.request_factory, cancels=False)


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        return _problem(error.status, error.detail)
    except web.HTTPException as error:  # no such path, or not with this method
        error.__traceback__ = None  # the request holds the error, and its frames the request
        return web.Response(status=error.status, reason=error.reason, text=error.text, headers=error.headers)


async def _expect(_: web.Request) -> None:
    """Leave `Expect: 100-continue` to `read_body`, which responds to it after the checks."""


def _parse(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # not UTF-8 and too long numbers are ValueErrors, too
        raise BadRequest("The body is not JSON.") from None


def _problem(status: int, detail: str) -> web.Response:
    body = json.dumps({"status": status, "detail": detail, "message": detail}).encode()
    return web.Response(status=status, body=body, headers={"Content-Type": "application/problem+json"})
