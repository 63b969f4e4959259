"""The admin listener: metrics, health, console, purge and reload. For operators, not for callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway import config
from gateway.admin.actions import Actions
from gateway.admin.gate import Gate, Handler
from gateway.admin.operations import PURGED, Operations
from gateway.admin.status_routes import StatusRoutes, root_of
from gateway.errors import BadRequest, GatewayError, Unauthorized
from gateway.executions.explanation import Question
from gateway.http.bodies import Bodies
from gateway.http.request import read_body
from gateway.http.server import Server
from gateway.model import Clock
from gateway.redash.json_text import load_strict_json

MOST_BODIES: Final = 8
"""So many bodies of the largest size are read at once; operators send few and small ones."""


class AdminListener:
    """The routes of the admin listener."""

    def __init__(
        self,
        operations: Operations,
        snapshot: Callable[[], CollectorRegistry],
        settings: Callable[[], config.Config],
        clock: Clock,
    ) -> None:
        """`snapshot` returns the metrics as they are now; they are encoded in a thread."""
        self._operations = operations
        self._snapshot = snapshot
        self._settings = settings
        self._gate = Gate(settings, clock)
        self._bodies = Bodies(lambda: MOST_BODIES * settings().server.max_request_body)

    def application(self) -> web.Application:
        """Return the application to serve."""
        app = web.Application(middlewares=[_errors, self._gate.check])
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/livez", self._live),
                web.get("/readyz", self._ready),
                web.post("/purge", self._purge, expect_handler=_expect),
                web.post("/reload", self._reload),
                web.post("/api/explain", self._explain, expect_handler=_expect),
            ]
        )
        console = StatusRoutes(self._operations, self._gate)
        console.add_to(app)
        Actions(self._operations, self._gate, self._bodies, console.frame).add_to(app)
        return app

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
        self._gate.check_token(request)
        what = _parse(await self._body(request))
        if not isinstance(what, dict) or len(what) != 1:
            raise BadRequest(f"Send one of {PURGED}.")
        entries, notes = await self._operations.purge(what)
        return web.json_response({"purged": entries, **({"notes": notes} if notes else {})})

    async def _explain(self, request: web.Request) -> web.Response:
        self._gate.check_token(request)
        try:
            question = msgspec.convert(_parse(await self._body(request)), Question)
        except msgspec.ValidationError as error:
            raise BadRequest(f'{error}. Send {{"client": "...", "query": 42, "max_age": 600}}.') from None
        explanation = await self._operations.explain(question)
        return web.Response(body=msgspec.json.encode(explanation), content_type="application/json")

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await read_body(request, self._settings().server.max_request_body, self._bodies)
        finally:
            self._bodies.release(request.task)

    async def _reload(self, request: web.Request) -> web.Response:
        self._gate.check_token(request)
        reloaded = await self._operations.reload(everywhere=True)
        return web.json_response({"reloaded": True, "changed": reloaded.changed, "notes": reloaded.notes})


class AdminRunner(web.AppRunner):
    """Runs the application on connections as careful as those of callers: deadlines, and nothing repeated in errors."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        # A purge or reload goes on to its end when its caller has left.
        return Server(made.request_handler, make_request=made.request_factory, cancels=False)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        if isinstance(error, Unauthorized) and _is_browser(request):
            return web.Response(status=303, headers={"Location": f"{root_of(request)}sign-in"})
        return _problem(error.status, error.detail)
    except web.HTTPException as error:  # no such path, or not with this method
        error.__traceback__ = None  # the request holds the error, and its frames the request
        return web.Response(status=error.status, reason=error.reason, text=error.text, headers=error.headers)


def _is_browser(request: web.Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get(hdrs.ACCEPT, "")


async def _expect(_: web.Request) -> None:
    """Leave `Expect: 100-continue` to `read_body`, which responds to it after the checks."""


def _parse(body: bytes) -> object:
    try:
        return load_strict_json(body)
    except ValueError:  # not UTF-8 and too long numbers are ValueErrors, too
        raise BadRequest("The body is not JSON, or a key is repeated in it.") from None


def _problem(status: int, detail: str) -> web.Response:
    body = json.dumps({"status": status, "detail": detail, "message": detail}).encode()
    return web.Response(status=status, body=body, headers={"Content-Type": "application/problem+json"})
