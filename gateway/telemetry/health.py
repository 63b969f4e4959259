"""Changes between good and bad: one line in the log for each, however often the same is seen."""

from __future__ import annotations

import logging
import time

from gateway.outcome import UpstreamCall
from gateway.telemetry import log


class Watch:
    """One line for each change of something between good and bad; one that flutters is told of now and then."""

    def __init__(self, bad: str, good: str, *, level: int = logging.WARNING) -> None:
        self._texts = {True: bad, False: good}
        self._level = level
        self._told = False
        self._told_at = -log.SETTLE_SECONDS

    def tell(self, *, bad: bool, detail: str = "") -> None:
        """Note how it is now; `detail` is added where it has become bad."""
        if bad is self._told or time.monotonic() - self._told_at < log.SETTLE_SECONDS:
            return
        self._told, self._told_at = bad, time.monotonic()
        text = self._texts[bad] + (f": {detail}" if bad and detail else "")
        log.events.log(self._level if bad else logging.WARNING, "%s", text)


class UpstreamHealth:
    """What is told of Redash: whether it answers, whether it is left alone, what it thinks of the keys."""

    def __init__(self) -> None:
        self._away = Watch("Redash does not answer", "Redash answers again")
        self.breaker = Watch(
            "Redash has failed several times in a row and is left alone for a while (the breaker is open)",
            "Redash is asked again (the breaker is closed)",
            level=logging.ERROR,
        )
        self._keys: dict[str, Watch] = {}

    def tell(self, call: UpstreamCall) -> None:
        """Look at one call to Redash."""
        if call.unavailable:
            self._away.tell(bad=True, detail=f"{call.method} {call.route}: {call.failure}")
        elif call.status:
            self._away.tell(bad=False)
            self._key(call.credential).tell(bad=not call.accepted)

    def _key(self, credential: str) -> Watch:
        watch = self._keys.get(credential)
        if watch is None:
            bad, good = (f"Redash {verb} the key of credential '{credential}'" for verb in ("rejects", "accepts"))
            watch = self._keys[credential] = Watch(bad, f"{good} again", level=logging.ERROR)
        return watch
