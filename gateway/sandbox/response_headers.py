"""The headers that Redash puts on every response: server, date, security and cookies (CONTRACT 4)."""

from __future__ import annotations

import secrets

from .request import Request
from .response import Response
from .timestamps import SECOND, cookie_date, http_date

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
_POLICY_IN_FRAMES = _POLICY.replace("frame-ancestors 'none'", "frame-ancestors *")
_SECURITY_IN_FRAMES = tuple(
    (name, _POLICY_IN_FRAMES if value == _POLICY else value) for name, value in _SECURITY if name != "X-Frame-Options"
)
_SESSION_SECONDS = 6 * 3600

Headers = list[tuple[str, str]]


def headers_of(request: Request, response: Response, *, framed: bool) -> Headers:
    """All headers in Redash's order; `framed` where other sites may show the response in a frame."""
    return [
        ("Server", "gunicorn"),
        ("Date", http_date(request.database.now())),
        *response.headers,
        ("Content-Type", response.content_type),
        *(_SECURITY_IN_FRAMES if framed else _SECURITY),
        *_cookies(request, response),
    ]


def _cookies(request: Request, response: Response) -> Headers:
    """On every response, whoever the caller is."""
    known = request.session if request.session in request.state.sessions else None
    session = response.session or known or secrets.token_urlsafe(60)
    expires = f"Expires={cookie_date(request.database.now() + _SESSION_SECONDS * SECOND)}; "
    return [
        ("Set-Cookie", f"csrf_token={secrets.token_urlsafe(60)}; Path=/"),
        ("Vary", "Cookie"),
        ("Set-Cookie", f"session={session}; {expires if response.session_expires else ''}HttpOnly; Path=/"),
    ]
