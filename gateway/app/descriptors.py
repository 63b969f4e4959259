"""How the file descriptors that the process may have are shared out."""

from __future__ import annotations

import resource
from typing import Final, NamedTuple

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; dashboards open many at once."""

ADMIN_CONNECTIONS: Final = 32
FILES: Final = 48
"""The store, files of large results, the log, the listeners."""

FEWEST: Final = 16


class Shares(NamedTuple):
    """What is left for callers."""

    connections: int
    """That may be open at once."""
    backlog: int
    """That may wait at each socket: the event loop accepts so many at once before it hands over the first."""


def shares(limit: int, upstream_requests: int, addresses: int = 1) -> Shares:
    """Share out `limit` descriptors; an exchange with Redash needs one for its connection and one for its file."""
    backlog = max(FEWEST, min(BACKLOG, limit // 8))
    connections = limit - ADMIN_CONNECTIONS - FILES - 2 * upstream_requests - backlog
    return Shares(max(FEWEST, connections), max(FEWEST, backlog // addresses))


def limit_of_process() -> int:
    """Return how many file descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
