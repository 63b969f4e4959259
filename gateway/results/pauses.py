"""Paused data sources. Redash then refuses even what it has cached (CONTRACT 6), and no definition shows the pause."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.concurrency.flights import Flights
from gateway.errors import GatewayError, UpstreamError
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.policy.plan import Plan
from gateway.redash import calls
from gateway.redash.objects import parse_pause
from gateway.redash.responses import refused_job
from gateway.upstream.protocol import Upstream

MOST_KNOWN: Final = 1_000
LATE_SECONDS: Final = 2.0
"""How long a response waits for a check; a later one counts for the next request."""

PAUSED_SECONDS: Final = 1.0
"""How long a pause is refused without asking again: what Redash would run must not wait for long."""


class SourceState(msgspec.Struct, frozen=True):
    """What a credential knows of a data source. Times are monotonic."""

    refusal: str
    """Redash's text while the source is paused, else empty."""
    seen: float
    """When Redash was asked and said so."""
    checked: float
    """When Redash was asked last, whatever came back."""


class Pauses:
    """The known states of data sources, by scope: as old as definitions may be, one request for many callers.

    Query keys cannot read data sources, and old versions show them to administrators only: then nothing is known here,
    and only runs meet the refusal.
    """

    def __init__(self, upstream: Upstream, live: Live, clock: Clock) -> None:
        self._upstream = upstream
        self._live = live
        self._clock = clock
        self._known: LRUCache[tuple[str, int], SourceState] = LRUCache(MOST_KNOWN)
        self._flights: Flights[None] = Flights()
        self._generation = 0
        self.on_dropped: Callable[[], None] = lambda: None
        """Called when all that is known was dropped."""

    async def check(self, plan: Plan, sender: Sender) -> None:
        """Refuse every execution on a data source that is known to be paused, as Redash does.

        Raises:
            UpstreamRefused: it is paused; with Redash's status and text.
        """
        source_id = plan.data_source_id
        if source_id is None or plan.credential.is_query_key:
            return
        await self._renew(plan, source_id, sender)
        known = self._known.get((plan.credential.scope, source_id))
        if known is not None and known.refusal:
            raise refused_job(400, known.refusal)

    def known(self, plan: Plan) -> tuple[str, float]:
        """Return the text with which the plan is refused, as far as is known, and how old that is; inf: unknown."""
        if plan.data_source_id is None or plan.credential.is_query_key:
            return "", 0.0
        known = self._known.get((plan.credential.scope, plan.data_source_id))
        return (known.refusal, self._clock.monotonic() - known.checked) if known is not None else ("", math.inf)

    def good_until(self, plan: Plan) -> float:
        """Return until when (monotonic) this plan needs no check, not even in the background."""
        if plan.data_source_id is None or plan.credential.is_query_key:
            return math.inf
        known = self._known.get((plan.credential.scope, plan.data_source_id))
        return known.checked + self._live.settings.cache.definition_check / 2 if known is not None else -math.inf

    def drop_all(self) -> None:
        """Drop what is known: a data source was changed."""
        self._generation += 1
        self._known.clear()
        self.on_dropped()

    async def aclose(self) -> None:
        """Cancel the requests in progress."""
        await self._flights.aclose()

    async def _renew(self, plan: Plan, source_id: int, sender: Sender) -> None:
        """Ask Redash again: in the background from half of the longest age on, first when older than that.

        While Redash is known not to work, it is asked in the background only.
        """
        longest, now = self._live.settings.cache.definition_check, self._clock.monotonic()
        if plan.definition is not None and now - plan.definition.checked > longest:
            return  # Redash is unavailable, or the definition would not be that old
        known = self._known.get((plan.credential.scope, source_id))
        age = now - known.checked if known is not None else math.inf
        longest = min(longest, PAUSED_SECONDS) if known is not None and known.refusal else longest
        if age <= longest / 2:
            return
        # A request sent before a change must not serve callers that come after it.
        flight = (plan.credential.scope, source_id, self._generation)
        read = partial(self._read, plan.credential, source_id, sender)
        if age <= longest or self._upstream.is_unavailable:
            self._flights.start(flight, read)
            return
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with (
                self._upstream.until_unavailable(),
                asyncio.timeout(LATE_SECONDS - self._flights.seconds(flight)),
            ):
                await self._flights.share(flight, read, sender.outcome)

    async def _read(self, credential: Credential, source_id: int, sender: Sender) -> None:
        """Note what Redash says now. If it does not say, what is known stays, as long as a definition would."""
        place, generation, asked = (credential.scope, source_id), self._generation, self._clock.monotonic()
        cache = self._live.settings.cache
        known = self._known.get(place)
        if known is None or asked - known.seen > cache.definition_check + cache.stale_if_error:
            known = SourceState("", asked, asked)
        known = msgspec.structs.replace(known, checked=asked)
        with contextlib.suppress(GatewayError):
            response = await self._upstream.send(credential, calls.data_source(source_id), sender)
            if response.status == 200:
                known = SourceState(parse_pause(response.body.load(), source_id), asked, asked)
        if generation == self._generation:
            self._known[place] = known
