"""The `Upstream` protocol and its response, as plain values: only the client behind it knows HTTP."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from gateway.body import Body
from gateway.concurrency.spool import Spool
from gateway.errors import UpstreamRefused
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.redash.calls import UpstreamRequest
from gateway.redash.redaction import refusal_without_keys


class UpstreamResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Redash's response. `sent` is monotonic seconds, `received` and `date` (Redash's own clock) unix seconds.

    `ahead` is how far Redash's clock (unix seconds) may be ahead of the own monotonic one at most.
    """

    status: int
    content_type: str
    body: Body
    sent: float
    received: float
    date: float | None
    ahead: float = math.inf
    location: str = ""
    disposition: str = ""
    retry_after: str = ""


Early = Callable[[UpstreamResponse, Spool], Awaitable[None]]
"""Called once when a large response of status 200 begins: `body` holds the first bytes, the spool receives all."""


def refusal(response: UpstreamResponse) -> UpstreamRefused:
    """Turn a response that is not 200 into an error for the caller: Redash's own body, without keys.

    Raises:
        UpstreamUnusable: it is not JSON, so keys could not be removed.
    """
    body = Body.of(refusal_without_keys(response.body.load()))
    return UpstreamRefused(response.status, body, response.content_type)


class Upstream(Protocol):
    """Redash, as the configured credentials see it."""

    @property
    def is_unavailable(self) -> bool:
        """Whether Redash is known not to work: no response has come since the breaker opened.

        Who has a stale response uses it at once. A request may be the probe then: it is sent in the background.
        """

    def until_unavailable(self) -> AbstractAsyncContextManager[None]:
        """Let what is awaited within end when Redash is known not to work: for those who have a stale response.

        Raises:
            BreakerOpen: it does not work now, or came to do so meanwhile.
        """

    def is_stuck_since(self, moment: float) -> bool:
        """Whether requests wait for long, and nobody has got a response since then, by the clock of the event loop."""

    async def send(
        self, credential: Credential, request: UpstreamRequest, sender: Sender, *, early: Early | None = None
    ) -> UpstreamResponse:
        """Send the request once; send a GET a second time if its connection broke.

        Only routes that have results may bring large responses: with `early`, these arrive in a file.

        Raises:
            UpstreamError: unreachable, reset, incomplete, 502 or 503, or the breaker is open.
            UpstreamTimeout: too slow, or 504.
            UpstreamUnusable: an HTML page, a redirect elsewhere, a 2xx but 200, or larger than allowed.
            CredentialRejected: Redash does not know the key.
            ServiceUnavailable: no free slot among `upstream.max_requests` in time, although others got responses.

        Unless it is a large result, the response is there after `upstream.read_timeout`, or an error.
        """
