"""The organisation's date formats: the gateway's own CSV must have the same as Redash's (CONTRACT 8)."""

from __future__ import annotations

import logging
import math

from gateway.concurrency.flights import Flights
from gateway.errors import GatewayError
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.redash.objects import parse_date_formats
from gateway.redash.renderings import DateFormats
from gateway.upstream.protocol import Upstream

log = logging.getLogger("gateway.results")


class OrganisationFormats:
    """Reads the formats with the first user credential, at most once in `cache.rendered_ttl`.

    Without a user credential, or while Redash does not show them, they are taken from the configuration.
    """

    def __init__(self, live: Live, upstream: Upstream, clock: Clock) -> None:
        self._live = live
        self._upstream = upstream
        self._clock = clock
        self._read: tuple[DateFormats | None, float] = (None, -math.inf)
        self._flights: Flights[DateFormats | None] = Flights()

    async def get(self, sender: Sender) -> DateFormats:
        """Return the formats in force."""
        formats, at = self._read
        if self._clock.monotonic() - at > self._live.settings.cache.rendered_ttl:
            formats, _ = await self._flights.share("formats", lambda: self._request(sender))
        upstream = self._live.settings.upstream
        return formats or DateFormats(upstream.date_format, upstream.date_time_format)

    async def _request(self, sender: Sender) -> DateFormats | None:
        formats = self._read[0]
        users = (c for c in self._live.access.credentials.values() if not c.is_query_key)
        if (credential := next(users, None)) is not None:
            formats = await self._from_redash(credential, sender) or formats
        self._read = formats, self._clock.monotonic()
        return formats

    async def _from_redash(self, credential: Credential, sender: Sender) -> DateFormats | None:
        try:
            response = await self._upstream.send(credential, calls.session(), sender)
        except GatewayError as error:
            log.warning("the date formats of Redash cannot be read: %s", error.detail)
            return None
        return parse_date_formats(response.body.load()) if response.status == 200 else None

    async def aclose(self) -> None:
        """Cancel the request in progress."""
        await self._flights.aclose()
