"""What one Redash server is like: its version and its organisation's date formats, as `/api/session` says them.

The version decides what its cache confuses; the gateway's own CSV must have the same dates as Redash's (CONTRACT 8).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import Final

from gateway.concurrency.flights import Flights
from gateway.config.values import AUTOMATIC
from gateway.errors import GatewayError
from gateway.model import Clock
from gateway.outcome import Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.redash import calls
from gateway.redash.organisation import Organisation, RedashVersion, parse_organisation
from gateway.redash.renderings import DateFormats
from gateway.upstream.protocol import Upstream

log = logging.getLogger("gateway.results")

_AGAIN_SECONDS: Final = 10.0
"""After so long the session is requested again, where Redash did not show it."""

_PATIENCE: Final = 5.0
"""Seconds for which a caller waits for the session; then an unknown version counts as old."""


class OrganisationReader:
    """Reads the session with the first user credential that Redash shows it to, at most once in `cache.rendered_ttl`.

    What it does not say is taken from the configuration; a version in the configuration is the one in force.
    """

    def __init__(self, live: Live, upstream: Upstream, clock: Clock) -> None:
        self._live = live
        self._upstream = upstream
        self._clock = clock
        self._found: Organisation | None = None
        self._url = ""  # of the server that was asked last
        self._next = -math.inf  # when it is requested again, by the monotonic clock
        self._flights: Flights[None] = Flights()

    def read_soon(self) -> None:
        """Begin to read the session, so that the version is known before the first run."""
        self._flights.start("session", lambda: self._read(Sender("gateway", "start")))

    async def formats(self, sender: Sender) -> DateFormats:
        """Return the date formats in force."""
        await self._refresh(sender)
        upstream, found = self._live.settings.upstream, self._known
        formats = found.formats if found is not None else None
        return formats or DateFormats(upstream.date_format, upstream.date_time_format)

    async def version(self, sender: Sender) -> RedashVersion:
        """Return the version; without a number while nobody says it."""
        if self._live.settings.upstream.version == AUTOMATIC:
            await self._refresh(sender)
        return self.known_version

    @property
    def known_version(self) -> RedashVersion:
        """Return the version as far as it is known, without a request."""
        configured, found = self._live.settings.upstream.version, self._known
        if configured != AUTOMATIC:
            return RedashVersion(configured)
        return found.version if found is not None else RedashVersion()

    @property
    def _known(self) -> Organisation | None:
        return self._found if self._url == self._live.settings.upstream.url else None

    async def _refresh(self, sender: Sender) -> None:
        """Request the session if it is due; in the background where one is known, or Redash does not work now."""
        if self._url == self._live.settings.upstream.url and self._clock.monotonic() < self._next:
            return
        if self._known is not None or self._upstream.is_unavailable:
            self._flights.start("session", lambda: self._read(sender))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._flights.share("session", lambda: self._read(sender))

    async def _read(self, sender: Sender) -> None:
        configured = self._live.configured
        users = (c for c in configured.access.credentials.values() if not c.is_query_key)
        found, pause = self._known, _AGAIN_SECONDS
        for credential in users:
            if (shown := await self._from_redash(credential, sender)) is not None:
                found, pause = shown, configured.settings.cache.rendered_ttl
                break
        self._found, self._url = found, configured.settings.upstream.url
        self._next = self._clock.monotonic() + pause

    async def _from_redash(self, credential: Credential, sender: Sender) -> Organisation | None:
        try:
            response = await self._upstream.send(credential, calls.session(), sender)
        except GatewayError as error:
            log.warning("version and date formats of Redash cannot be read: %s", error.detail)
            return None
        return parse_organisation(response.body.load()) if response.status == 200 else None

    async def aclose(self) -> None:
        """Cancel the request in progress."""
        await self._flights.aclose()
