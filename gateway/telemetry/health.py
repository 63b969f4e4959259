"""Logs a change between a good and a bad state once, however often the same state is seen again."""

from __future__ import annotations

import logging
import time

from gateway.outcome import UpstreamCall
from gateway.telemetry import log


class TransitionLog:
    """Writes one log line each time something turns bad or good again; a state that flaps is logged now and then."""

    def __init__(self, bad: str, good: str, *, level: int = logging.WARNING) -> None:
        self._texts = {True: bad, False: good}
        self._level = level
        self._bad = False  # as last logged
        self._logged_at = -log.SETTLE_SECONDS

    def record(self, *, bad: bool, detail: str = "") -> None:
        """Record the present state; `detail` is added to the line when it has turned bad."""
        if bad is self._bad or time.monotonic() - self._logged_at < log.SETTLE_SECONDS:
            return
        self._bad, self._logged_at = bad, time.monotonic()
        text = self._texts[bad] + (f": {detail}" if bad and detail else "")
        log.events.log(self._level if bad else logging.WARNING, "%s", text)


class UpstreamHealth:
    """Logs when Redash becomes unavailable or available, the breaker opens or closes, a key is rejected or accepted."""

    def __init__(self) -> None:
        self._availability = TransitionLog("Redash is unavailable", "Redash is available again")
        self.breaker = TransitionLog(
            "Redash does not work and is left alone for a while (the breaker is open)",
            "Redash is asked again (the breaker is closed)",
            level=logging.ERROR,
        )
        self._keys: dict[str, TransitionLog] = {}

    def record(self, call: UpstreamCall) -> None:
        """Record what one call says about Redash and about the key it used."""
        if call.unavailable:
            self._availability.record(bad=True, detail=f"{call.method} {call.route}: {call.detail or call.failure}")
        elif call.status:
            self._availability.record(bad=False)
            self._key(call.credential).record(bad=not call.accepted)

    def _key(self, credential: str) -> TransitionLog:
        transitions = self._keys.get(credential)
        if transitions is None:
            bad = f"Redash rejects the key of credential '{credential}'"
            good = f"Redash accepts the key of credential '{credential}' again"
            transitions = self._keys[credential] = TransitionLog(bad, good, level=logging.ERROR)
        return transitions
