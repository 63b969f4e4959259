"""What an operator can do with the running gateway: the protocol that `app` implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.admin.report import Report, Running
from gateway.admin.rows import Rows


class Operations(Protocol):
    """What an operator can do with the running gateway."""

    def ready(self) -> tuple[bool, Mapping[str, object]]:
        """Return whether requests are served, and the state of the parts."""

    def status(self) -> Report:
        """Return the state of everything, for people and scripts."""

    def rows(self) -> Rows:
        """Return what makes the rows of the console's tables, as of now."""

    def run(self, execution_id: str) -> Running | None:
        """Return a run in progress, None if it has ended."""

    async def purge(self, what: Mapping[str, object]) -> int:
        """Delete results; return the number of deleted entries."""

    async def end_run(self, execution_id: str) -> bool:
        """Cancel a run for all its callers; return False if that is not possible. Raises `NotFound` if it has ended."""

    async def reload(self) -> list[str]:
        """Load the configuration again; return notes. Raises `ConfigurationError`, and then changes nothing."""
