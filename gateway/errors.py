"""The gateway's own errors: one root, one status each. Exceptions of libraries are translated into these at the edge.
Names and statuses are those of RFC 9110 and RFC 6585 where one error has the status for itself (docs/operation.md).
"""

from __future__ import annotations

from typing import ClassVar, Self

from gateway.body import Body


class GatewayError(Exception):
    """The root. `detail` tells the caller what is wrong and what to do; it never contains a key or token.

    `retry_after` (seconds) becomes the `Retry-After` header; `reason` is a label of `redash_gateway_rejected_total`.
    `refused` is for the access log only: the Host or the shape of the path that was not accepted.
    """

    status: int = 500
    title: ClassVar[str] = "Internal error"
    reason: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, retry_after: float | None = None, refused: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.refused = refused

    def copy(self) -> Self:
        """Return it to keep or raise once more, without traceback and causes: their frames hold bodies, and itself."""
        copy = self.__class__.__new__(self.__class__, *self.args)
        copy.__dict__.update(self.__dict__)
        return copy


class ConfigurationError(GatewayError):
    """The configuration has mistakes; `mistakes` has one line for each."""

    status = 400
    title = "Configuration error"

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class StoreError(GatewayError):
    """The store cannot be opened; the operator must act."""

    title = "Store error"


class BadRequest(GatewayError):
    """The path, the body or `max_age` has no valid meaning, or headers are ambiguous."""

    status = 400
    title = "Bad request"
    reason = "bad_request"


class Unauthorized(GatewayError):
    """The token is missing, unknown or expired: one text for all three."""

    status = 401
    title = "Unauthorized"
    reason = "unauthorized"


class Forbidden(GatewayError):
    """The client is known, but has no right to this capability or query."""

    status = 403
    title = "Forbidden"
    reason = "forbidden"


class NotFound(GatewayError):
    """No such route, or an id that this client may not know of."""

    status = 404
    title = "Not found"
    reason = "not_found"


class MethodNotAllowed(GatewayError):
    """The route does not take this method. `allow` becomes the `Allow` header."""

    status = 405
    title = "Method not allowed"
    reason = "method_not_allowed"

    def __init__(self, detail: str, allow: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allow = allow


class NotAcceptable(GatewayError):
    """The requested form cannot be made: with this credential, here, or of so large a result."""

    status = 406
    title = "Not acceptable"
    reason = "not_acceptable"


class RangeNotSatisfiable(GatewayError):
    """The requested range of a body begins behind its end; `size` is that of the whole body."""

    status = 416
    title = "Range not satisfiable"
    reason = "bad_range"
    size: int = 0


class ContentTooLarge(GatewayError):
    """The body is larger than `server.max_request_body`."""

    status = 413
    title = "Content too large"
    reason = "content_too_large"


class UriTooLong(GatewayError):
    """The request target is too long."""

    status = 414
    title = "URI too long"
    reason = "uri_too_long"


class MisdirectedRequest(GatewayError):
    """The `Host` header is not among `server.hosts`."""

    status = 421
    title = "Misdirected request"
    reason = "misdirected"


class QueryFailed(GatewayError):
    """The query of a GET with parameters failed; `detail` is Redash's text."""

    status = 422
    title = "Query failed"
    reason = "query_failed"


class TooManyRequests(GatewayError):
    """The client has reached its rate or its limit of executions."""

    status = 429
    title = "Too many requests"
    reason = "rate_limited"


class BudgetSpent(TooManyRequests):
    """The client has caused as much work in Redash as its budget allows."""

    reason = "budget_spent"


class RequestHeaderFieldsTooLarge(GatewayError):
    """The header fields are too long, one of them or all together."""

    status = 431
    title = "Request header fields too large"
    reason = "headers_too_large"


class UpstreamError(GatewayError):
    """Redash cannot be reached, or fails in a way that allows a stale response (`stale_if_error`)."""

    status = 502
    title = "Bad gateway"
    reason = "upstream_error"


class UpstreamUnhealthy(UpstreamError):
    """Redash fails every request: its own database or Redis is unavailable."""

    reason = "upstream_unhealthy"


class UpstreamBusy(GatewayError):
    """Redash limits the rate of requests (429), and does so for longer than the gateway waits."""

    status = 429
    title = "Too many requests"
    reason = "upstream_busy"


class UpstreamUnusable(GatewayError):
    """Redash's response cannot be used: HTML, broken JSON, an incomplete body, or the result of other SQL."""

    status = 502
    title = "Bad gateway"
    reason = "upstream_unusable"


class UpstreamUnreadable(GatewayError):
    """Redash's result is nested too deeply for any parser here. As it stays the same, nobody requests it again."""

    status = 502
    title = "Bad gateway"
    reason = "upstream_unusable"


class UpstreamRedirected(UpstreamUnusable):
    """Redash, or a proxy, redirects. `leads_to` is for the operator only: the scheme and host of another server."""

    reason = "upstream_unusable"

    def __init__(self, detail: str, leads_to: str) -> None:
        super().__init__(detail)
        self.leads_to = leads_to


class UpstreamRefusedByPage(UpstreamUnusable):
    """Redash refused the request with an HTML page: its status is passed on, in the gateway's words."""

    status = 405
    title = "Refused by Redash"
    reason = "upstream_refused"

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class UpstreamRefused(GatewayError):
    """Redash refused the request or failed; its status and its JSON are passed on unchanged."""

    title = "Refused by Redash"
    reason = "upstream_refused"

    def __init__(self, status: int, body: Body, content_type: str) -> None:
        super().__init__(f"Redash answered {status}.")
        self.status_code = status
        self.body = body
        self.content_type = content_type


class CredentialRejected(GatewayError):
    """Redash does not accept the gateway's key."""

    status = 502
    title = "Bad gateway"
    reason = "credential_rejected"


class ServiceUnavailable(GatewayError):
    """The queue is full, the gateway is stopping, or nothing was ready in time."""

    status = 503
    title = "Service unavailable"
    reason = "unavailable"


class FileLost(ServiceUnavailable):
    """The file of a stored result was removed or changed between look-up and use; the next look-up is a miss."""

    reason = "unavailable"

    def __init__(self) -> None:
        super().__init__("The stored result was removed from the disk a moment ago; try again.", retry_after=1)


class BreakerOpen(UpstreamError):
    """Redash has failed several times in a row; nothing is sent to it for a while."""

    status = 503
    title = "Service unavailable"
    reason = "breaker_open"


class UpstreamTimeout(UpstreamError):
    """Redash did not respond in time."""

    status = 504
    title = "Gateway timeout"
    reason = "upstream_timeout"


def is_denial(error: GatewayError) -> bool:
    """Whether it says that a credential may not see what it has requested, or that there is no such thing."""
    refused = isinstance(error, UpstreamRefused) and error.status_code in (403, 404)
    return refused or isinstance(error, CredentialRejected)


def reasons(root: type[GatewayError] = GatewayError) -> set[str]:
    """Return every reason for which a request can be rejected or fail, or only those of one kind of error."""
    return {kind.reason for kind in _kinds(root)}


def own_failures() -> set[str]:
    """Return every reason for a response of 500 and above that the gateway itself makes; Redash's are passed on."""
    return {kind.reason for kind in _kinds(GatewayError) if kind.status >= 500} - reasons(UpstreamRefused)


def _kinds(root: type[GatewayError]) -> list[type[GatewayError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _kinds(child))]
