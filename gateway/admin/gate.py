"""Who may read and who may act on the admin listener: an operator with the admin token, or a browser with a session.

On loopback everybody may read, because only this machine reaches it. Acting always needs the token: what comes over
loopback may come from a reverse proxy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import hdrs, web

from gateway import config
from gateway.admin.sessions import Session, Sessions
from gateway.errors import Forbidden, MisdirectedRequest, Unauthorized
from gateway.http.request import unknown_host
from gateway.model import Clock

COOKIE: Final = "redash_gateway_session"
OPEN: Final = frozenset({"/metrics", "/livez", "/readyz", "/sign-in"})
"""Paths that need no token, wherever the listener is; so do the style and the script of the sign-in page."""

_NONE_SET: Final = "Set admin.token_sha256 (`redash-gateway token` makes a token): {what}."
_ACTING: Final = "purging, reloading, explaining and ending a run always need the admin token"
_READING: Final = "the admin listener can be reached from other machines"
_MISSING: Final = "This needs the admin token: send 'Authorization: Bearer <token>'."

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Lets requests through, or refuses them."""

    def __init__(self, settings: Callable[[], config.Config], clock: Clock) -> None:
        self.settings = settings
        self._monotonic = clock.monotonic
        self._sessions = Sessions()

    @property
    def has_token(self) -> bool:
        """Whether an admin token is configured."""
        return self.settings().admin.token_sha256 is not None

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what a foreign web page makes a browser send, and what needs a token and has none."""
        self._check_origin(request)
        self._check_reader(request)
        return await handler(request)

    def _check_origin(self, request: web.Request) -> None:
        """Refuse DNS rebinding to a loopback listener, and POSTs of other pages."""
        settings = self.settings()
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

    def _check_reader(self, request: web.Request) -> None:
        admin, path = self.settings().admin, request.path
        if admin.listen.is_local or path in OPEN or path.startswith("/assets/"):
            return
        if admin.token_sha256 is None:
            raise Forbidden(_NONE_SET.format(what=_READING))
        if not self._has_token(request) and self._find(request, use=True) is None:
            raise Unauthorized(_MISSING)

    def still_reads(self, request: web.Request) -> bool:
        """Whether a stream that began with this request may go on; the stream itself keeps no session alive."""
        if self.settings().admin.listen.is_local:
            return True
        return self._has_token(request) or self._find(request, use=False) is not None

    def check_token(self, request: web.Request) -> None:
        """Let only a request with the admin token act.

        Raises:
            Forbidden: none is configured.
            Unauthorized: the request has none, or another one.
        """
        if not self.has_token:
            raise Forbidden(_NONE_SET.format(what=_ACTING))
        if not self._has_token(request):
            raise Unauthorized(_MISSING)

    def check_form(self, request: web.Request, fields: Mapping[str, str]) -> Session:
        """Let only a form of the console act, sent by a browser with a session; returns that session.

        Raises:
            Unauthorized: no session, or not a form of it.
        """
        session = self.session(request)
        if session is None or not session.is_form_of(fields.get("csrf", "")):
            raise Unauthorized("This needs a session of the console: sign in, and send the form again.")
        return session

    def _has_token(self, request: web.Request) -> bool:
        return self.is_token(request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer "))

    def is_token(self, given: str) -> bool:
        """Whether this is the admin token; takes the same time for every text that is not."""
        wanted = self.settings().admin.token_sha256
        hashed = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
        return wanted is not None and hmac.compare_digest(hashed, wanted)

    def session(self, request: web.Request) -> Session | None:
        """Return the session of the browser that sends the request, None without one."""
        return self._find(request, use=True)

    def _find(self, request: web.Request, *, use: bool) -> Session | None:
        value = request.cookies.get(COOKIE)
        if value is None:
            return None
        return self._sessions.find(value, self.settings().admin.token_sha256, self._monotonic(), use=use)

    def sign_in(self, request: web.Request, response: web.Response) -> None:
        """Begin a session; the response brings its cookie.

        Without a `Path` the cookie is for the folder that the browser knows the console under, behind any proxy. A page
        that came over https says so in the form's `Origin`.
        """
        hashed = self.settings().admin.token_sha256 or ""
        value = self._sessions.begin(hashed, self._monotonic())
        secure = "; Secure" if request.headers.get("Origin", "").startswith("https://") else ""
        response.headers[hdrs.SET_COOKIE] = f"{COOKIE}={value}; HttpOnly; SameSite=Strict{secure}"

    def sign_out(self, request: web.Request, response: web.Response) -> None:
        """End the session of the browser that sends the request."""
        self._sessions.end(request.cookies.get(COOKIE, ""))
        response.headers[hdrs.SET_COOKIE] = f"{COOKIE}=; Max-Age=0; HttpOnly; SameSite=Strict"
