"""Requests and replies as the handlers see them, and Redash's ways of saying no (CONTRACT 3). No routes, no rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl, unquote

from .objects import Caller, User
from .results import dumps

if TYPE_CHECKING:
    from .service import Service

JSON = "application/json"
HTML = "text/html; charset=utf-8"

FORBIDDEN = (
    "You don't have the permission to access the requested resource. "
    "It is either read-protected or not readable by the server."
)
NOT_EDITABLE = "You don't have permission to edit this resource."
NOT_FOUND = (
    "The requested URL was not found on the server. "
    "If you entered the URL manually please check your spelling and try again."
)
NO_LOGIN = "Couldn't find resource. Please login and try again."
NO_RESULT = "No cached result found for this query."
BAD_REQUEST = "The browser (or proxy) sent a request that this server could not understand."
CONFLICT = (
    "A conflict happened while processing the request. "
    "The resource might have been modified while the request was being processed."
)
NOT_ALLOWED = "The method is not allowed for the requested URL."
BROKEN = "Internal Server Error"

_TITLES = {403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
_PAGES = {
    403: FORBIDDEN,
    404: NOT_FOUND,
    405: NOT_ALLOWED,
    500: "The server encountered an internal error and was unable to complete your request. "
    "Either the server is overloaded or there is an error in the application.",
}
FRONT_END = (
    '<!doctype html><html><head><base href="/"><title>Redash</title></head><body>'
    '<div id="application-root">stub front-end (not built)</div></body></html>\n'
)


@dataclass
class Reply:
    """An answer before it gets its common headers."""

    body: bytes = b""
    status: int = 200
    type: str = JSON
    headers: list[tuple[str, str]] = field(default_factory=list)
    session: str | None = None
    """A session cookie to hand out, after a login."""
    lasting_session: bool = True
    """Whether the session cookie says when it expires; not where Redash breaks before it knows the caller."""


class AbortError(Exception):
    """Ends a request with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def answer(value: Any, status: int = 200) -> Reply:
    """JSON of a REST route."""
    return Reply(dumps(value).encode(), status)


def message(status: int, text: str) -> Reply:
    """An error of a REST route."""
    return answer({"message": text}, status)


def compact(value: Any, status: int = 200) -> Reply:
    """As Flask's own jsonify writes, on the routes that are not REST resources."""
    return Reply(json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n", status)


def page(status: int, title: str | None = None, text: str | None = None) -> Reply:
    """An error page, as on the routes that are not REST resources."""
    title = title or _TITLES[status]
    shown = (text or _PAGES[status]).replace("'", "&#39;")
    head = f"{status} {title}" if text is None else title
    body = f"<!doctype html>\n<html lang=en>\n<title>{head}</title>\n<h1>{title}</h1>\n<p>{shown}</p>\n"
    return Reply(body.encode(), status, HTML)


def redirect(location: str) -> Reply:
    """302 with the page that says so."""
    body = (
        "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n"
        "<p>You should be redirected automatically to the target URL: "
        f'<a href="{location}">{location}</a>. If not, click the link.\n'
    )
    return Reply(body.encode(), 302, HTML, [("Location", location)])


def front_end() -> Reply:
    """What an unknown path shows to those who are logged in (CONTRACT 3)."""
    headers = [
        ("Content-Disposition", "inline; filename=index.html"),
        ("Last-Modified", "Mon, 03 Aug 2026 08:00:00 GMT"),
        ("Cache-Control", "no-cache, max-age=0"),
        ("ETag", '"1785744000.0-150-127735686"'),
    ]
    return Reply(FRONT_END.encode(), 200, HTML, headers)


def failed_job(status: int, error: str) -> Reply:
    """A refusal in the shape of a job, without an id."""
    return answer({"job": {"status": 4, "error": error}}, status)


def abort(status: int, text: str) -> NoReturn:
    """Ends the request with an error."""
    raise AbortError(message(status, text))


@dataclass
class Call:
    """One request. `path` is decoded and without the organisation's slug; `org` is None for an unknown slug."""

    service: Service
    method: str
    target: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes
    org: int | None
    slug: str
    params: dict[str, str] = field(default_factory=dict)
    caller_or_none: Caller | None = None
    session: str | None = None

    @property
    def caller(self) -> Caller:
        """Who asks; 404 for nobody."""
        if self.caller_or_none is None:
            abort(404, NO_LOGIN)
        return self.caller_or_none

    @property
    def user(self) -> User:
        """Routes that need a person break on API users (CONTRACT 2)."""
        user = self.caller.user
        if user is None:
            abort(500, BROKEN)
        return user

    @property
    def org_id(self) -> int:
        """The organisation, 0 for an unknown one."""
        return self.org or 0

    @property
    def host_url(self) -> str:
        """Forwarded headers are trusted from anyone (CONTRACT 18)."""
        scheme = self.headers.get("X-Forwarded-Proto", "http")
        return f"{scheme}://{self.headers.get('X-Forwarded-Host') or self.headers.get('Host', 'localhost')}"

    def arg(self, name: str, default: str = "") -> str:
        """The first of repeated arguments counts."""
        return next((value for key, value in self.query if key == name), default)

    def has_arg(self, name: str) -> bool:
        """Whether the argument is there, even empty."""
        return any(key == name for key, _ in self.query)

    def args(self, name: str) -> list[str]:
        """All values of a repeated argument."""
        return [value for key, value in self.query if key == name]

    def json(self) -> Any:
        """The body, whatever its Content-Type says; 400 if it cannot be read."""
        try:
            return json.loads(self.body)
        except ValueError:
            abort(400, BAD_REQUEST)

    def json_object(self) -> dict[str, Any]:
        """500 for JSON that is no object: Redash asks it for its fields."""
        value = self.json()
        if not isinstance(value, dict):
            abort(500, BROKEN)
        return value

    def need(self, permission: str) -> None:
        """403 without this permission."""
        if not self.caller.may(permission):
            abort(403, FORBIDDEN)

    def require(self, granted: bool, text: str = FORBIDDEN) -> None:
        """403 unless granted."""
        if not granted:
            abort(403, text)


def split_target(target: str) -> tuple[str, list[tuple[str, str]]]:
    """Decoded path and arguments of a raw target: absolute form is cut, leading slashes collapse (CONTRACT 20)."""
    raw, _, query = target.partition("?")
    if "://" in raw[:8]:
        raw = "/" + raw.split("/", 3)[-1]
    path = "/" + unquote(raw, errors="replace").lstrip("/")
    return path, parse_qsl(query, keep_blank_values=True)
