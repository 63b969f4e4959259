"""Loads the configuration and checks what it needs of this machine, for `check`, start and reload."""

from __future__ import annotations

import os
from pathlib import Path

from gateway import config
from gateway.app import event_loop
from gateway.errors import ConfigurationError
from gateway.store import factory


def load(source: Path, listen: str | None = None) -> config.Config:
    """Return the configuration; `listen` is used instead of the file's `server.listen`.

    Raises:
        ConfigurationError: it has mistakes, `cache.store` names a file that is not ours, or the event loop is missing.
    """
    settings = config.load(source, os.environ, listen)
    refusals = {
        "server.event_loop": event_loop.refusal(settings.server.event_loop),
        "cache.store": factory.refusal(settings.cache.store),
    }
    if mistakes := [f"{source}: {key}: {text}" for key, text in refusals.items() if text is not None]:
        raise ConfigurationError(mistakes)
    return settings


def remarks(settings: config.Config) -> list[str]:
    """Return what this machine lacks now for the configuration; `check` may run before it is set up."""
    remark = factory.remark(settings.cache.store)
    return [] if remark is None else [f"cache.store: {remark}"]
