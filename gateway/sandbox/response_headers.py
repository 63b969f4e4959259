"""The headers that Redash puts on every response: server, date, security and cookies (CONTRACT 4)."""

from __future__ import annotations

import secrets

from .request import Request
from .response import Response
from .timestamps import SECOND, cookie_date, http_date
from .versions import Version

_SESSION_SECONDS = 6 * 3600

Headers = list[tuple[str, str]]


def headers_of(request: Request, response: Response, *, framed: bool) -> Headers:
    """All headers in Redash's order; `framed` where other sites may show the response in a frame."""
    return [
        ("Server", request.version.server),
        ("Date", http_date(request.database.now())),
        *(_absolute(request, name, value) for name, value in response.headers),
        ("Content-Type", response.content_type),
        *_security(request.version, framed=framed),
        *(_cookies(request, response) if request.version.sends_cookies or response.session else []),
    ]


def _absolute(request: Request, name: str, value: str) -> tuple[str, str]:
    """Old versions complete the target of every redirect."""
    completed = request.version.absolute_redirects and name == "Location" and value.startswith("/")
    return name, request.host_url + value if completed else value


def _security(version: Version, *, framed: bool) -> Headers:
    policy = version.content_policy
    if framed:
        policy = policy.replace("frame-ancestors 'none'", "frame-ancestors *")
    return [
        *([] if framed else [("X-Frame-Options", "deny")]),
        ("X-XSS-Protection", "1; mode=block"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Download-Options", "noopen"),
        ("Content-Security-Policy", policy),
        ("X-Content-Security-Policy", policy),
        ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ]


def _cookies(request: Request, response: Response) -> Headers:
    """On every response, whoever the caller is; old versions only after a login."""
    known = request.session if request.session in request.state.sessions else None
    session = response.session or known or secrets.token_urlsafe(60)
    end = cookie_date(request.database.now() + _SESSION_SECONDS * SECOND, request.version.cookie_date_separator)
    expires = f"Expires={end}; "
    return [
        ("Set-Cookie", f"csrf_token={secrets.token_urlsafe(60)}; Path=/"),
        ("Vary", "Cookie"),
        ("Set-Cookie", f"session={session}; {expires if response.session_expires else ''}HttpOnly; Path=/"),
    ]
