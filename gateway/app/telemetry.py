"""Telemetry, put together: one observer that feeds metrics, log, traces and the console."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from gateway.model import Clock
from gateway.policy.configured import Live
from gateway.telemetry.levels import Levels
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Telemetry
from gateway.telemetry.recorder import StatusRecorder
from gateway.telemetry.tracing import Tracing


class TelemetryParts:
    """The observer of the running gateway and what it feeds."""

    def __init__(self, live: Live, levels: Callable[[], Levels], clock: Clock) -> None:
        settings = live.settings
        self._live = live
        self.metrics = Metrics(levels, live.access.credentials, settings.metrics.per_query)
        self.tracing = Tracing(settings.tracing.endpoint, clock) if settings.tracing.endpoint else None
        self.recorder = StatusRecorder(clock.monotonic)
        self.observer = Telemetry(
            self.metrics, clock, access_log=settings.log.access, recorder=self.recorder, tracing=self.tracing
        )
        live.on_change.append(self._configuration_changed)

    def _configuration_changed(self) -> None:
        self.observer.access_log = self._live.settings.log.access
        self.metrics.configure(self._live.access.credentials, self._live.settings.metrics.per_query)

    def keys_changed(self, accepted: Mapping[str, bool | None]) -> None:
        """Replace what is known of these credentials: whether Redash accepts the new key, None if unknown."""
        for name, verdict in accepted.items():
            self.recorder.accepted.pop(name, None)
            if verdict is not None:
                self.recorder.accepted[name] = verdict
            self.metrics.credential_up[name,] = int(verdict is not False)

    async def aclose(self) -> None:
        """Record and export what is pending."""
        self.observer.flush()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
