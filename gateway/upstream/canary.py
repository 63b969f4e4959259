"""Tells a Redash that does not work from a request that fails, or takes long, by itself: a second request decides.

While Redash's own database or Redis is unavailable, every response is its generic 500 (CONTRACT 25). Bad input gets the
same 500 (CONTRACT 3). And a request without a response may be a slow one, or Redash hangs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from gateway.concurrency.flights import Flights
from gateway.errors import GatewayError, UpstreamError, UpstreamUnusable
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.redash.calls import UpstreamRequest
from gateway.upstream.protocol import UpstreamResponse

VALID_SECONDS: Final = 1.0
"""How long one verdict counts, so that an outage does not double the requests to Redash."""

PAUSE_SECONDS: Final = 0.1
"""Between two canaries for 500s, while Redash works: whoever sends bad input causes no more."""

DEADLINE_SECONDS: Final = 2.0
"""A canary that is silent for so long has failed."""

MOST_CREDENTIALS: Final = 1_000

HasWorked = Callable[[str], Awaitable[bool]]
"""Whether Redash has ever accepted the key of a scope, also in an earlier process."""

_Ask = Callable[[Credential, UpstreamRequest, Sender], Awaitable[UpstreamResponse]]


class _Verdict(NamedTuple):
    failed: bool
    began: float
    at: float


_UNKNOWN: Final = _Verdict(failed=False, began=-math.inf, at=-math.inf)


class Canary:
    """One request per credential that Redash answers while it works: a user's session, a query key's definition."""

    def __init__(self, ask: _Ask, live: Live, has_worked: HasWorked, clock: Clock) -> None:
        self._ask = ask
        self._live = live
        self._has_worked = has_worked
        self._clock = clock
        self._worked: dict[str, Credential] = {}  # users' only, by scope, the latest last
        self._verdicts: dict[str, _Verdict] = {}
        self._flights: Flights[bool] = Flights()

    def worked(self, credential: Credential) -> None:
        """Note that Redash gave this credential a response of status 200."""
        if not credential.is_query_key:
            self._worked.pop(credential.scope, None)
            self._worked[credential.scope] = credential
            if len(self._worked) > MOST_CREDENTIALS:
                del self._worked[next(iter(self._worked))]

    async def shares_failure(self, credential: Credential, sender: Sender) -> bool:
        """Whether a 500 is an outage: a request that works for this credential fails, too.

        False where no user's key ever worked: then nothing says that the canary would.
        """
        speaker = self._speaker(credential) or await self._earlier_speaker(credential)
        return speaker is not None and await self._fails_since(self._clock.monotonic(), speaker, sender)

    async def _fails_since(self, moment: float, speaker: Credential, sender: Sender) -> bool:
        """Whether the canary fails now. That it worked before the moment of the 500 says nothing of an outage."""
        verdict = self._verdicts.get(speaker.scope, _UNKNOWN)
        while verdict.began < moment:
            now = self._clock.monotonic()
            if verdict.failed and now - verdict.at <= VALID_SECONDS:
                return True
            if now - verdict.at < PAUSE_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
            await self._flights.share(speaker.scope, lambda: self._try(speaker, sender))
            verdict = self._verdicts[speaker.scope]
        return verdict.failed

    async def fails(self, credential: Credential, sender: Sender) -> bool:
        """Whether the canary gets no response in time, or one that shows an outage."""
        speaker = self._speaker(credential) or credential
        verdict = self._verdicts.get(speaker.scope, _UNKNOWN)
        if self._clock.monotonic() - verdict.at <= VALID_SECONDS:
            return verdict.failed
        return (await self._flights.share(speaker.scope, lambda: self._try(speaker, sender)))[0]

    def _speaker(self, credential: Credential) -> Credential | None:
        """Return a user's credential that worked, if possible this one: its session says how Redash is."""
        if credential.scope in self._worked:
            return credential
        return next((known for known in reversed(self._worked.values()) if known.url == credential.url), None)

    async def _earlier_speaker(self, credential: Credential) -> Credential | None:
        """Return a user's credential that worked for an earlier process."""
        for known in self._live.access.credentials.values():
            if not known.is_query_key and known.url == credential.url and await self._has_worked(known.scope):
                self.worked(known)
                return known
        return None

    async def _try(self, credential: Credential, sender: Sender) -> bool:
        query_id, began = credential.query_id, self._clock.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                request = calls.session() if query_id is None else calls.query(query_id)
                await self._ask(credential, request, sender)
            failed = False
        except (UpstreamError, UpstreamUnusable, TimeoutError):
            failed = True
        except GatewayError:  # Redash limits the rate, or has come to refuse the key: it works
            failed = False
        self._verdicts[credential.scope] = _Verdict(failed, began, self._clock.monotonic())
        return failed

    async def aclose(self) -> None:
        """End the request that is under way."""
        await self._flights.aclose()
