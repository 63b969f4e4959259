"""The configuration in force: settings, and what depends on them alone. Shared by reference, replaced as a whole."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from gateway import config
from gateway.policy.access import Access


class Configured(msgspec.Struct, frozen=True):
    """One valid configuration."""

    settings: config.Config
    access: Access
    slug: str
    """Of the organisation, from `upstream.url`; "" without one."""

    @classmethod
    def of(cls, settings: config.Config) -> Configured:
        """Make everything that depends on the settings alone."""
        return cls(settings, Access(settings), urlsplit(settings.upstream.url).path.strip("/"))


class Live:
    """Refers to the configuration in force, so that a reload is one assignment for all parts that share this.

    A part reads a setting from here when it needs it and keeps no copy. A part that must act on a change (drop cached
    responses, end what is no longer allowed) adds a function to `on_change`; they are called in the order of adding.
    """

    def __init__(self, settings: config.Config) -> None:
        self.configured = Configured.of(settings)
        self.on_change: list[Callable[[], None]] = []

    @property
    def settings(self) -> config.Config:
        """Return the settings in force."""
        return self.configured.settings

    @property
    def access(self) -> Access:
        """Return the clients and credentials in force."""
        return self.configured.access

    def replace(self, configured: Configured) -> None:
        """Put another configuration in force."""
        self.configured = configured
        for act in self.on_change:
            act()
