"""What the words mean that say why a request failed, was refused, or was a miss. Pure."""

from __future__ import annotations

from typing import Final

CAUSES: Final = {
    "bad_range": "Range begins behind the end of the result",
    "bad_request": "path, body or max_age means nothing",
    "unauthorized": "no token, or one that is unknown or expired",
    "forbidden": "the client may not do this",
    "not_found": "no such route, job or result for this client",
    "method_not_allowed": "the route does not take this method",
    "not_acceptable": "the form cannot be made here, or not of this result",
    "content_too_large": "the body is over server.max_request_body",
    "uri_too_long": "the request target is too long",
    "misdirected": "the Host is not among server.hosts",
    "headers_too_large": "the header fields are too long",
    "query_failed": "the query failed in Redash",
    "budget_spent": "over the client's budget of execution seconds",
    "rate_limited": "over the client's rate or its executions",
    "upstream_error": "Redash cannot be reached",
    "upstream_unhealthy": "Redash fails every request",
    "upstream_busy": "Redash limits the rate of requests",
    "upstream_unusable": "Redash's response cannot be used",
    "upstream_refused": "Redash refused, or failed itself",
    "upstream_timeout": "Redash did not respond in time",
    "credential_rejected": "Redash does not accept the gateway's key",
    "breaker_open": "Redash failed several times and is left alone",
    "unavailable": "queue full, gateway stopping, or nothing ready in time",
    "internal": "an error of the gateway itself; see its log",
    "lost": "Redash has lost the job",
}
"""By the `reason` of `redash_gateway_rejected_total`; `lost` is that of runs only."""

MISSES: Final = {
    "not_stored": "nothing stored for this query and these parameters",
    "stale": "the stored result is too old",
    "unconfirmed": "not confirmed lately as the newest",
    "unproven": "not proven to be one of the client's queries",
    "marker_changed": "the query was edited",
    "purged": "purged by an operator or a client",
    "evicted": "removed to make room, or lost",
    "forced": "the caller required a run",
    "continued": "a caller came back for its run",
}


def meaning(cause: str) -> str:
    """Return what a cause means; "" for one that needs no words."""
    return CAUSES.get(cause) or MISSES.get(cause) or ""
