"""The routes of the console for readers: pages, assets, JSON and streams. `actions` has those that act."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.admin import lists, query_page, run_page, settings_page
from gateway.admin import page as overview
from gateway.admin.actions import page as html_response
from gateway.admin.cells import Order, Page
from gateway.admin.events import EventStream
from gateway.admin.gate import Gate, Handler
from gateway.admin.operations import Operations
from gateway.admin.rows import Rows
from gateway.admin.shell import Frame
from gateway.http.head import SERVER

CONTENT_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without any, browsers send forms with "Origin: null"
}
List = Callable[[Frame, Rows, Page, Order], str]

_TYPES: Final = {"css": "text/css", "js": "text/javascript"}


class Asset:
    """A file of the package, at a path that changes with its content."""

    def __init__(self, name: str) -> None:
        stem, _, kind = name.partition(".")
        self.body = (files("gateway.admin") / "assets" / name).read_bytes()
        self.etag = hashlib.sha256(self.body).hexdigest()[:16]
        self.path = f"assets/{stem}.{self.etag}.{kind}"
        self._headers = {
            "Content-Type": f"{_TYPES[kind]}; charset=utf-8",
            "Cache-Control": "public, max-age=31536000, immutable",
            "ETag": f'"{self.etag}"',
        }

    async def handle(self, request: web.Request) -> web.Response:
        """Send the file, or 304 if the browser has it."""
        known = request.if_none_match
        if known is not None and any(tag.value in (self.etag, "*") for tag in known):
            return web.Response(status=304, headers=self._headers)
        return web.Response(body=self.body, headers=self._headers)


class StatusRoutes:
    """Serves the report as page, JSON and stream, and the pages that show more of it."""

    def __init__(self, operations: Operations, gate: Gate) -> None:
        self._operations = operations
        self._gate = gate
        self._events = EventStream(lambda: msgspec.json.encode(operations.status()), gate.still_reads)
        self._live = EventStream(lambda: msgspec.json.encode(overview.live(operations.status())), gate.still_reads)
        self._style, self._script = Asset("page.css"), Asset("page.js")

    def add_to(self, app: web.Application) -> None:
        """Add the routes, and security headers to every response; the streams end when the application shuts down."""
        pages = (
            web.get("/", self._overview),
            web.get("/queries", self._list(lists.queries)),
            web.get("/queries/{query:\\d{1,16}}", self._query),
            web.get("/clients", self._list(lists.clients)),
            web.get("/requests", self._list(lists.requests)),
            web.get("/runs/{run}", self._run),
            web.get("/configuration", self._configuration),
        )
        assets = [web.get(f"/{asset.path}", asset.handle) for asset in (self._style, self._script)]
        streams = [web.get(path, one.handle, allow_head=False) for path, one in self._streams.items()]
        app.add_routes([*pages, web.get("/api/status", self._json), *streams, *assets])
        app.on_response_prepare.append(_add_security_headers)
        app.on_shutdown.append(self._close)

    @property
    def _streams(self) -> dict[str, EventStream]:
        return {"/events": self._events, "/live": self._live}

    def frame(self, request: web.Request) -> Frame:
        """Return what the page for this request has around it; this shows the session's notice."""
        session = self._gate.session(request)
        return Frame(
            self._style.path,
            self._script.path,
            root_of(request),
            session.csrf if session is not None else "",
            session.take_notice() if session is not None else "",
            self._gate.has_token,
        )

    async def _overview(self, request: web.Request) -> web.Response:
        return html_response(overview.render(self._operations.status(), self.frame(request)))

    def _list(self, render: List) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            order = lists.order_of(request.query)
            return html_response(render(self.frame(request), self._operations.rows(), self._page(request), order))

        return handle

    async def _query(self, request: web.Request) -> web.Response:
        query_id, rows = int(request.match_info["query"]), self._operations.rows()
        detail, name = rows.detail(query_id), rows.name_of(query_id)
        return html_response(query_page.render(self.frame(request), query_id, detail, self._page(request), name))

    async def _run(self, request: web.Request) -> web.Response:
        run = self._operations.run(request.match_info["run"])
        return html_response(run_page.render(self.frame(request), run, self._page(request)))

    async def _configuration(self, request: web.Request) -> web.Response:
        return html_response(settings_page.render(self.frame(request), self._gate.settings()))

    def _page(self, request: web.Request) -> Page:
        return Page(root_of(request), self._gate.settings().upstream.url, time.time())

    async def _json(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return web.Response(body=msgspec.json.encode(self._operations.status()), headers=headers)

    async def _close(self, _: web.Application) -> None:
        for stream in self._streams.values():
            await stream.close()


def root_of(request: web.Request) -> str:
    """Return the way from the path of this request to the console's first page."""
    return "../" * (request.path.count("/") - 1)


async def _add_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)
    response.headers[hdrs.SERVER] = SERVER
