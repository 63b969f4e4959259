"""Tells an unhealthy Redash from a request that fails by itself.

While Redash's own database or Redis is unavailable, every response is its generic 500 (CONTRACT 25). Bad input gets the
same 500 (CONTRACT 3). So a second request decides: that of a user's session, which worked before. A query's own key has
none, and gets the same 500 once its query is deleted (CONTRACT 2): a user's key speaks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.concurrency.flights import Flights
from gateway.errors import UpstreamError, UpstreamUnusable
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.redash import calls
from gateway.redash.calls import UpstreamRequest
from gateway.upstream.protocol import UpstreamResponse

VALID_SECONDS: Final = 1.0
"""How long one verdict counts, so that an outage does not double the requests to Redash."""

DEADLINE_SECONDS: Final = 2.0
"""A canary that is silent for so long has failed."""

MOST_CREDENTIALS: Final = 1_000

_Ask = Callable[[Credential, UpstreamRequest, Sender], Awaitable[UpstreamResponse]]


class Canary:
    """One request per user credential that Redash answers while it is healthy."""

    def __init__(self, ask: _Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._worked: dict[str, Credential] = {}  # by scope, the latest last
        self._verdicts: dict[str, tuple[bool, float]] = {}
        self._flights: Flights[bool] = Flights()

    def worked(self, credential: Credential) -> None:
        """Note that Redash gave this credential a response of status 200."""
        if not credential.is_query_key:
            self._worked.pop(credential.scope, None)
            self._worked[credential.scope] = credential
            if len(self._worked) > MOST_CREDENTIALS:
                del self._worked[next(iter(self._worked))]

    async def fails(self, credential: Credential, sender: Sender) -> bool:
        """Whether Redash is unhealthy: a request that works for this credential fails, too.

        False where the credential never worked: then nothing says that the canary would.
        """
        speaker = self._speaker(credential)
        if speaker is None:
            return False
        failed, at = self._verdicts.get(speaker.scope, (False, float("-inf")))
        if self._clock.monotonic() - at <= VALID_SECONDS:
            return failed
        return (await self._flights.share(speaker.scope, lambda: self._try(speaker, sender)))[0]

    def _speaker(self, credential: Credential) -> Credential | None:
        """Return the user credential whose session says how Redash is."""
        if not credential.is_query_key:
            return self._worked.get(credential.scope)
        return next((known for known in reversed(self._worked.values()) if known.url == credential.url), None)

    async def _try(self, credential: Credential, sender: Sender) -> bool:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                failed = (await self._ask(credential, calls.session(), sender)).status == 500
        except (UpstreamError, UpstreamUnusable, TimeoutError):
            failed = True
        self._verdicts[credential.scope] = failed, self._clock.monotonic()
        return failed

    async def aclose(self) -> None:
        """End the request that is under way."""
        await self._flights.aclose()
