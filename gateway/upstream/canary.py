"""Tells an unhealthy Redash from a request that fails by itself.

While Redash's own database or Redis is unavailable, every response is its generic 500 (CONTRACT 25). Bad input gets the
same 500 (CONTRACT 3). So a second request decides, one that worked before with the same credential.
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

_Ask = Callable[[Credential, UpstreamRequest, Sender], Awaitable[UpstreamResponse]]


class Canary:
    """One request per credential that Redash answers while it is healthy."""

    def __init__(self, ask: _Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._worked: set[str] = set()  # scopes of credentials; there are as many as the configuration has
        self._verdicts: dict[str, tuple[bool, float]] = {}
        self._flights: Flights[bool] = Flights()

    def worked(self, credential: Credential) -> None:
        """Note that Redash gave this credential a response of status 200."""
        self._worked.add(credential.scope)

    async def fails(self, credential: Credential, sender: Sender) -> bool:
        """Whether Redash is unhealthy: a request that works for this credential fails, too.

        False where the credential never worked: then nothing says that the canary would.
        """
        if credential.scope not in self._worked:
            return False
        failed, at = self._verdicts.get(credential.scope, (False, float("-inf")))
        if self._clock.monotonic() - at <= VALID_SECONDS:
            return failed
        return (await self._flights.share(credential.scope, lambda: self._try(credential, sender)))[0]

    async def _try(self, credential: Credential, sender: Sender) -> bool:
        request = calls.session() if credential.query_id is None else calls.query(credential.query_id)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                failed = (await self._ask(credential, request, sender)).status == 500
        except (UpstreamError, UpstreamUnusable, TimeoutError):
            failed = True
        self._verdicts[credential.scope] = failed, self._clock.monotonic()
        return failed

    async def aclose(self) -> None:
        """End the request that is under way."""
        await self._flights.aclose()
