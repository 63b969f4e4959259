"""What web pages of other origins may make a browser send (Fetch standard; CORS does not stop simple requests)."""

from __future__ import annotations

from typing import Final

from gateway.errors import Forbidden
from gateway.model import Request

_HARMLESS: Final = ("GET", "HEAD", "OPTIONS")


def check_origin(request: Request, allowed: tuple[str, ...]) -> None:
    """Refuse what a page of a foreign origin may change: a form can POST without a preflight.

    `allowed` are those of `server.cors_origins`.

    Raises:
        Forbidden: the Origin is neither among them nor the one by which the caller addresses the gateway.
    """
    if request.method not in _HARMLESS and "Origin" in request.headers and not _is_known(request, allowed):
        raise Forbidden("Requests of web pages of this origin are refused: server.cors_origins does not have it.")


def check_cross_site(request: Request, allowed: tuple[str, ...], token_sha256: str) -> None:
    """Refuse a run that an image tag of a foreign page asks for, where the browser itself adds all that it takes.

    That is so for `anonymous` (no token) and for Basic, which a browser remembers.

    Raises:
        Forbidden: the request comes from another site, and its Origin is not allowed.
    """
    if request.headers.get("Sec-Fetch-Site", "").lower() != "cross-site" or _is_known(request, allowed):
        return
    if not token_sha256 or request.headers.get("Authorization", "").lower().startswith("basic "):
        raise Forbidden("A web page of another site may not run queries without a token of its own.")


def _is_known(request: Request, allowed: tuple[str, ...]) -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    return "*" in allowed or origin in allowed or origin.partition("://")[2] == request.headers.get("Host")
