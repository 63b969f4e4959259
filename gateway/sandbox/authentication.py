"""The caller of a request: by the key in the query string, the header or the path, else by the session (CONTRACT 1)."""

from __future__ import annotations

from .access import UnknownOwnerError, as_caller, find_caller
from .objects import Caller
from .request import Request
from .timestamps import SECOND

_MINUTE = 60 * SECOND


def session_of(request: Request) -> str | None:
    """The session cookie, whether it is valid or not."""
    cookies = dict(part.strip().partition("=")[::2] for part in request.headers.get("Cookie", "").split(";"))
    return cookies.get("session")


def caller_of(request: Request) -> Caller | None:
    """A key in the query string hides the header, even when it is empty; a valid session comes last.

    Raises UnknownOwnerError.
    """
    key = request.arg("api_key") if request.has_arg("api_key") else _header_key(request)
    if key is None and request.path.startswith(("/api/dashboards/public/", "/public/dashboards/")):
        key = request.path.rsplit("/", 1)[-1]
    return _by_key(request, key or "") or _by_session(request)


def _header_key(request: Request) -> str | None:
    """The first "Key " is removed wherever it stands; two headers are joined, so they never match."""
    values = [value for name, value in request.headers.items() if name.lower() == "authorization"]
    return ",".join(values).replace("Key ", "", 1) if values else None


def _by_key(request: Request, key: str) -> Caller | None:
    if request.org is None and key and request.path.startswith("/api/"):
        raise UnknownOwnerError(request.slug)
    return find_caller(request.database, key, request.org, request.params.get("query_id"))


def _by_session(request: Request) -> Caller | None:
    database, sessions = request.database, request.state.sessions
    user = database.users.get(sessions.get(request.session or "", 0))
    if user is None or user.disabled_at is not None or user.org != request.org:
        return None
    return as_caller(database, user)


def note_activity(request: Request) -> None:
    """Moves the caller's `active_at`, so that query and dashboard bodies are not stable (CONTRACT 5)."""
    caller = request.caller_or_none
    if caller is not None and caller.user is not None:
        caller.user.active_at = request.database.now() // _MINUTE * _MINUTE
