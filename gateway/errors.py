"""Every error of ours: one root, each carries the status it is answered with. Foreign ones become these at the edge."""

from __future__ import annotations

from typing import ClassVar

from gateway.model import Body


class GatewayError(Exception):
    """Root. `detail` is for the caller: says what is wrong and what to do, and never holds a key or token.

    `retry_after` (seconds) becomes the header of that name; `reason` is the label in `redash_gateway_rejected_total`.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    reason: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class ConfigurationError(GatewayError):
    """The configuration has mistakes; `mistakes` holds one line for each."""

    status = 400
    title = "Configuration error"

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class StoreError(GatewayError):
    """The store cannot be opened and the operator must act."""

    title = "Store error"


class BadRequest(GatewayError):
    """Path, body or max_age that cannot mean anything; ambiguous headers."""

    status = 400
    title = "Bad request"
    reason = "bad_request"


class Unauthorized(GatewayError):
    """No token, an unknown or an expired one: one text for all three."""

    status = 401
    title = "Unauthorized"
    reason = "unauthorized"


class Forbidden(GatewayError):
    """Known client; capability or query not granted."""

    status = 403
    title = "Forbidden"
    reason = "forbidden"


class NotFound(GatewayError):
    """No such route, or an id that this client may not know of."""

    status = 404
    title = "Not found"
    reason = "not_found"


class MethodNotAllowed(GatewayError):
    """The route exists, not for this method. `allow` becomes the header of that name."""

    status = 405
    title = "Method not allowed"
    reason = "method_not_allowed"

    def __init__(self, detail: str, allow: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allow = allow


class NotAcceptable(GatewayError):
    """The form asked for cannot be made with this credential."""

    status = 406
    title = "Not acceptable"
    reason = "not_acceptable"


class ContentTooLarge(GatewayError):
    """Body above `server.max_request_body`."""

    status = 413
    title = "Content too large"
    reason = "content_too_large"


class UriTooLong(GatewayError):
    """Request target too long."""

    status = 414
    title = "URI too long"
    reason = "uri_too_long"


class Misdirected(GatewayError):
    """Host header is none of `server.hosts`."""

    status = 421
    title = "Misdirected request"
    reason = "misdirected"


class QueryFailed(GatewayError):
    """GET with parameters: the query failed; `detail` is Redash's text."""

    status = 422
    title = "Query failed"
    reason = "query_failed"


class TooManyRequests(GatewayError):
    """Rate or execution limit of the client."""

    status = 429
    title = "Too many requests"
    reason = "rate_limited"


class HeadersTooLarge(GatewayError):
    """Request head too large."""

    status = 431
    title = "Request header fields too large"
    reason = "headers_too_large"


class UpstreamError(GatewayError):
    """Redash unreachable or failing in a way for which a stale answer may stand in (`stale_if_error`)."""

    status = 502
    title = "Bad gateway"
    reason = "upstream_error"


class UpstreamUnusable(GatewayError):
    """Redash answered, but not with something that can be passed on: HTML, broken JSON, cut short, other SQL."""

    status = 502
    title = "Bad gateway"
    reason = "upstream_unusable"


class UpstreamRefused(GatewayError):
    """Redash's own refusal or failure, passed on as it is: its status, its JSON."""

    title = "Refused by Redash"
    reason = "upstream_refused"

    def __init__(self, status: int, body: Body, content_type: str) -> None:
        super().__init__(f"Redash answered {status}.")
        self.status_code = status
        self.body = body
        self.content_type = content_type


class CredentialRejected(GatewayError):
    """Redash does not accept the key that the gateway holds."""

    status = 502
    title = "Bad gateway"
    reason = "credential_rejected"


class Unavailable(GatewayError):
    """Queue full, draining, not ready in time."""

    status = 503
    title = "Service unavailable"
    reason = "unavailable"


class BreakerOpen(UpstreamError):
    """Redash has failed too often just now; nothing is sent for a while."""

    status = 503
    title = "Service unavailable"
    reason = "breaker_open"


class UpstreamTimeout(UpstreamError):
    """Redash too slow."""

    status = 504
    title = "Gateway timeout"
    reason = "upstream_timeout"
