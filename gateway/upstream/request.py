"""What is said to Redash and what it answers, as values. Who says it is an interface: only the edge knows HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from gateway.concurrency.spool import Spool
from gateway.errors import UpstreamRefused
from gateway.model import Body
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.redash.redaction import without_keys


class UpstreamResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What Redash answered. `sent` is monotonic seconds, `received` and `date` (Redash's own clock) unix seconds."""

    status: int
    content_type: str
    body: Body
    sent: float
    received: float
    date: float | None
    location: str = ""
    disposition: str = ""


Early = Callable[[UpstreamResponse, Spool], Awaitable[None]]
"""What is told of a large answer of status 200 when it begins: its body is the first bytes, all comes in the spool."""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request for Redash. `path` is below the organisation's URL; `route` is its template, for the metrics."""

    method: str
    path: str
    route: str
    query: str = ""
    body: bytes | None = None
    early: Early | None = None
    """Set where results are expected: only those may be large, and arrive in a file."""


def refusal(response: UpstreamResponse) -> UpstreamRefused:
    """Turn an answer that is not 200 into what the caller is told: Redash's words, without any key in them.

    Raises:
        UpstreamUnusable: it is not JSON, so that nobody can say what is in it.
    """
    return UpstreamRefused(response.status, Body.of(without_keys(response.body.load())), response.content_type)


class Upstream(Protocol):
    """Redash, as far as the configured credentials reach."""

    async def send(self, credential: Credential, call: UpstreamRequest, sender: Sender) -> UpstreamResponse:
        """Ask Redash once; a GET whose connection broke is asked a second time.

        Raises:
            UpstreamError: unreachable, reset, cut short, 502 or 503, or the breaker is open.
            UpstreamTimeout: too slow.
            UpstreamUnusable: an HTML page.
            CredentialRejected: Redash does not know the key.
            ServiceUnavailable: no free place among `upstream.max_requests` in time.
        """
