"""The gateway of the isolation fuzz, and what it logs."""

from __future__ import annotations

import logging
from pathlib import Path

from support.clocks import TurnableClock
from support.world import SECRETS, World

from gateway import config
from gateway.telemetry.log import Formatter

from .isolation_redash import Redash
from .isolation_setup import first_setup


class FuzzWorld(World):
    """A world whose configuration is a `Setup`."""

    def __init__(self, directory: Path, redash: Redash, clock: TurnableClock) -> None:
        super().__init__(directory, redash.sandbox, clock)
        self.setup = first_setup(redash)

    def settings(self) -> config.Config:
        return config.parse(self.setup.toml(self.sandbox.url), self.directory, self.setup.environment())


class ErrorLog(logging.Handler):
    """Keeps internal errors of the gateway, and lines with a key or token."""

    def __init__(self, redash: Redash) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self._redash = redash
        self.setFormatter(Formatter("text"))

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if record.exc_info or any(secret in line for secret in SECRETS | self._redash.keys):
            self.texts.append(line)
