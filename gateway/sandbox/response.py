"""A response as the handlers make it, and the errors and texts of Redash (CONTRACT 3). No routes, no rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

from .json_text import dumps, jsonify
from .versions import Version

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


@dataclass(frozen=True)
class Json:
    """A value that is written as JSON when the response is sent; `by_flask` on routes that are not REST resources."""

    value: Any
    by_flask: bool = False

    def encoded(self, version: Version) -> bytes:
        """As the version writes it."""
        return (jsonify if self.by_flask else dumps)(self.value, version).encode()


@dataclass
class Response:
    """A response before it gets the headers of `response_headers.py`."""

    body: bytes | Json = b""
    status: int = 200
    content_type: str = JSON
    headers: list[tuple[str, str]] = field(default_factory=list)
    session: str | None = None
    """The new session cookie, after a login."""
    session_expires: bool = True
    """Whether the session cookie has an expiry; not where Redash breaks before it knows the caller."""

    def encoded(self, version: Version) -> bytes:
        """The body as the version writes it."""
        return self.body.encoded(version) if isinstance(self.body, Json) else self.body


class AbortError(Exception):
    """Ends the request with this response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def json_response(value: Any, status: int = 200) -> Response:
    """JSON of a REST route."""
    return Response(Json(value), status)


def error_response(status: int, text: str) -> Response:
    """An error of a REST route."""
    return json_response({"message": text}, status)


def flask_json_response(value: Any, status: int = 200) -> Response:
    """JSON of a route that is not a REST resource."""
    return Response(Json(value, by_flask=True), status)


def error_page(status: int, title: str | None = None, text: str | None = None) -> Response:
    """An error page, as on the routes that are not REST resources."""
    title = title or _TITLES[status]
    shown = (text or _PAGES[status]).replace("'", "&#39;")
    head = f"{status} {title}" if text is None else title
    body = f"<!doctype html>\n<html lang=en>\n<title>{head}</title>\n<h1>{title}</h1>\n<p>{shown}</p>\n"
    return Response(body.encode(), status, HTML)


def redirect(location: str) -> Response:
    """302 with a page that links to the target."""
    body = (
        "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n"
        "<p>You should be redirected automatically to the target URL: "
        f'<a href="{location}">{location}</a>. If not, click the link.\n'
    )
    return Response(body.encode(), 302, HTML, [("Location", location)])


def front_end_page(version: Version) -> Response:
    """The page for an unknown path, for users who are logged in (CONTRACT 3)."""
    headers = [
        *version.front_end_headers,
        ("Last-Modified", "Mon, 03 Aug 2026 08:00:00 GMT"),
        ("ETag", '"1785744000.0-150-127735686"'),
    ]
    return Response(FRONT_END.encode(), 200, HTML, headers)


def job_error(status: int, error: str) -> Response:
    """An error in the shape of a job, without an id."""
    return json_response({"job": {"status": 4, "error": error}}, status)


def abort(status: int, text: str) -> NoReturn:
    """Ends the request with an error."""
    raise AbortError(error_response(status, text))
