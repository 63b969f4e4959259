"""What stands behind the routes: the database, the jobs, the counters, the faults and the sessions of one Redash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .counters import Counters
from .database import Database
from .faults import Faults
from .jobs import Jobs
from .versions import Version


@dataclass
class State:
    """All that a handler may read and change."""

    version: Version
    database: Database
    jobs: Jobs
    counters: Counters
    faults: Faults
    schema: Callable[[], list[dict[str, object]]]
    """Lists the tables of the data source with their columns."""
    multi_org: bool = False
    csrf: bool = False
    """Whether a POST without a key needs a CSRF token."""
    schema_error: str = ""
    """Text with which the next schema jobs fail."""
    schema_pending: bool = False
    """Whether schema jobs stay at work."""
    sessions: dict[str, int] = field(default_factory=dict)
    """Session cookies to user ids."""

    @property
    def schema_queue_exists(self) -> bool:
        """Redash shows a queue for schemas once somebody has requested one."""
        return any(source.schema_known for source in self.database.sources.values())
