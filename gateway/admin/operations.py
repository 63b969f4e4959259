"""What an operator can do with the running gateway: the protocol that `app` implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from gateway.admin.report import Report, Running
from gateway.admin.rows import Rows
from gateway.executions.explanation import Explanation, Question
from gateway.redash.purges import NAMED

PURGED: Final = f'{NAMED}, {{"dashboard": 3}}, {{"scope": "…"}}, {{"all": true}}'
"""What a purge takes, for messages."""


class Purged(NamedTuple):
    """How many entries a purge has deleted, and what the operator should know of it."""

    entries: int
    notes: list[str]


class Reloaded(NamedTuple):
    """What a reload has changed, as dotted keys, and what the operator should know of it."""

    changed: list[str]
    notes: list[str]


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

    async def explain(self, question: Question) -> Explanation:
        """Say what would happen with a request, without running or asking anything. Raises `BadRequest`."""

    async def purge(self, what: Mapping[str, object]) -> Purged:
        """Delete results, on all gateways that share the store."""

    async def end_run(self, execution_id: str) -> bool:
        """Cancel a run for all its callers; return False if that is not possible. Raises `NotFound` if it has ended."""

    async def reload(self, *, everywhere: bool = False) -> Reloaded:
        """Load the configuration again. Raises `ConfigurationError`, and then changes nothing.

        `everywhere`: then also tell the gateways that share the store to load theirs.
        """
