"""Loads the configuration and checks what it needs of this machine, for `check`, start and reload."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from gateway import config
from gateway.app import event_loop
from gateway.errors import ConfigurationError
from gateway.store import factory


def load(source: Path) -> config.Config:
    """Return the configuration.

    Raises:
        ConfigurationError: it has mistakes, `cache.store` names a file that is not ours, or something
            that is configured is not installed.
    """
    settings = config.load(source, os.environ)
    refusals = {
        "server.event_loop": event_loop.refusal(settings.server.event_loop),
        "cache.store": factory.refusal(settings.cache.store),
    }
    if mistakes := [f"{source}: {key}: {text}" for key, text in refusals.items() if text is not None]:
        raise ConfigurationError(mistakes)
    return settings


def name_of(settings: config.Config) -> str:
    """Return the name of this gateway for the others: no two that share a store may have the same."""
    listen = settings.server.listen
    return settings.redis.name or f"{socket.gethostname()}:{listen.unix or listen.port or os.getpid()}"


def remarks(settings: config.Config) -> list[str]:
    """Return what this machine lacks now for the configuration; `check` may run before it is set up."""
    remark = factory.remark(settings.cache.store)
    return [] if remark is None else [f"cache.store: {remark}"]
