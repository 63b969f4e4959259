"""Loads the configuration and checks what it needs of this machine, for `check`, start and reload."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final

from gateway import config
from gateway.app import event_loop, sockets, tls
from gateway.app.systemd import ADMIN, API
from gateway.errors import ConfigurationError
from gateway.model import Clock
from gateway.store import factory
from gateway.store.factory import StoreOptions
from gateway.telemetry import tracing

LOCK_MARGIN_SECONDS: Final = 10.0
"""The process before may need so much longer than its `drain_timeout`."""


def load(source: Path, listen: Sequence[str] | None = None) -> config.Config:
    """Return the configuration; `listen`, addresses, is used instead of the file's `server.listen`.

    Raises:
        ConfigurationError: it has mistakes, or names what is not there: a file that is not ours, a certificate that is
            none, a library that is not installed.
    """
    settings = config.load(source, os.environ, listen)
    refusals = (
        *tls.refusals(settings),
        ("server.event_loop", event_loop.refusal(settings.server.event_loop)),
        ("cache.store", factory.refusal(settings.cache.store)),
        ("tracing.endpoint", tracing.refusal(settings.tracing.endpoint)),
    )
    if mistakes := [f"{source}: {key}: {text}" for key, text in refusals if text is not None]:
        raise ConfigurationError(mistakes)
    return settings


def name_of(settings: config.Config) -> str:
    """Return the name of this gateway for the others: no two that share a store may have the same."""
    listen = settings.server.listen[0]
    return settings.redis.name or f"{socket.gethostname()}:{listen.unix or listen.port or os.getpid()}"


def refuse_obstacles(source: Path, settings: config.Config, inherited: Container[str] = ()) -> None:
    """Check what a start needs and a reload does not: the place of the store, the addresses of the listeners.

    `inherited`: the names of the listeners whose sockets the process was started with.

    Raises:
        ConfigurationError: something is missing.
    """
    own = [] if API in inherited else settings.server.addresses
    own += [] if ADMIN in inherited else [("admin.listen", settings.admin.listen)]
    obstacles = [
        *((key, sockets.obstacle(listen)) for key, listen in own),
        *sockets.clashes(own),
        ("server.socket_group", sockets.group_obstacle(settings.server.socket_group)),
        ("cache.store", factory.obstacle(settings.cache.store)),
    ]
    if mistakes := [f"{source}: {key}: {text}" for key, text in obstacles if text is not None]:
        raise ConfigurationError(mistakes)


def remarks(settings: config.Config) -> list[str]:
    """Return what may not be intended on this machine, though the gateway works with it."""
    secrets = {"server.tls_key": settings.server.tls_key, "redis.password_file": settings.redis.password_file}
    secrets |= {f"credentials.{name}.key_file": c.key_file for name, c in settings.credentials.items()}
    found = [
        f"{key}: every user of this machine can read {file}; run chmod o-r on it"
        for key, file in secrets.items()
        if file is not None and file.stat().st_mode & stat.S_IROTH
    ]
    remark = factory.remark(settings.cache.store, settings.cache.memory, settings.cache.max_entry)
    return found if remark is None else [*found, f"cache.store: {remark}"]


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
        upstream_url=str(settings.upstream.url),
    )
