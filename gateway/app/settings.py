"""Loads the configuration and checks what it needs of this machine, for `check`, start and reload."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from gateway import config
from gateway.app import event_loop
from gateway.errors import ConfigurationError
from gateway.model import Clock
from gateway.store import factory
from gateway.store.factory import StoreOptions

LOCK_MARGIN_SECONDS: Final = 10.0
"""The process before may need so much longer than its `drain_timeout`."""


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


def store_options(settings: config.Config, clock: Clock) -> StoreOptions:
    """Return what the store needs besides its place."""
    return StoreOptions(
        memory_bytes=settings.cache.memory,
        disk_bytes=settings.cache.disk,
        max_entry_bytes=settings.cache.max_entry,
        clock=clock,
        lock_wait_seconds=settings.server.drain_timeout + LOCK_MARGIN_SECONDS,
        address=settings.redis_address if config.is_redis(settings.cache.store) else None,
        redis=settings.redis,
        name=name_of(settings),
    )
