"""The routes of the status page on the admin listener: page, assets, JSON and stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.admin import page
from gateway.admin.actions import page as html_response
from gateway.admin.events import EventStream
from gateway.admin.gate import Gate
from gateway.admin.report import Report
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
    """Serves the report in three forms: page, JSON, stream."""

    def __init__(self, report: Callable[[], Report], gate: Gate) -> None:
        self._report = report
        self._gate = gate
        self._events = EventStream(report)
        self._style, self._script = Asset("page.css"), Asset("page.js")

    def add_to(self, app: web.Application) -> None:
        """Add the routes, and security headers to every response; the streams end when the application shuts down."""
        assets = [web.get(f"/{asset.path}", asset.handle) for asset in (self._style, self._script)]
        stream = web.get("/events", self._events.handle, allow_head=False)
        app.add_routes([web.get("/", self._page), web.get("/api/status", self._json), stream, *assets])
        app.on_response_prepare.append(_add_security_headers)
        app.on_shutdown.append(self._close)

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

    async def _page(self, request: web.Request) -> web.Response:
        return html_response(page.render(self._report(), self.frame(request)))

    async def _json(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return web.Response(body=msgspec.json.encode(self._report()), headers=headers)

    async def _close(self, _: web.Application) -> None:
        await self._events.close()


def root_of(request: web.Request) -> str:
    """Return the way from the path of this request to the console's first page."""
    return "../" * (request.path.count("/") - 1)


async def _add_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)
    response.headers[hdrs.SERVER] = SERVER
