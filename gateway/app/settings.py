"""Loads the configuration and checks the place that it names for the store, for `check`, start and reload."""

from __future__ import annotations

import os
from pathlib import Path

from gateway import config
from gateway.errors import ConfigurationError
from gateway.store.factory import refusal


def load(source: Path) -> config.Config:
    """Return the configuration.

    Raises:
        ConfigurationError: it has mistakes, or `cache.store` names a file that is not ours.
    """
    settings = config.load(source, os.environ)
    if (text := refusal(settings.cache.store)) is not None:
        raise ConfigurationError([f"{source}: cache.store: {text}"])
    return settings
