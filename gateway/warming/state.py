"""How a `[[warm]]` entry is doing, for console, metrics and log."""

from __future__ import annotations

import logging

import msgspec

log = logging.getLogger("gateway.warm")


class WarmState(msgspec.Struct):
    """The state of one `[[warm]]` entry."""

    name: str
    every: float
    """Seconds; 0 for what is renewed as it is asked for."""
    runs: int = 0
    failures: int = 0
    skips: int = 0
    last_error: str = ""

    def note(self, error: str) -> None:
        """Count a round, and log one line for each change of state."""
        if error:
            self.failures += 1
        else:
            self.runs += 1
        if error and error != self.last_error:
            log.error("%s: %s", self.name, error)
        elif self.last_error and not error:
            log.info("%s: works again", self.name)
        self.last_error = error
