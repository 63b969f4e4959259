"""What has happened to several gateways: each request and its response, each trouble, and what Redash saw.

All moments are seconds of one clock: callers, sandbox and gateways are on one machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

KILLED: Final = "killed"
PAUSED: Final = "paused"
CUT: Final = "cut off"
ALONE: Final = "alone by its own account"
REDIS_DOWN: Final = "Redis down"
REDIS_PAUSED: Final = "Redis paused"
REDIS_EMPTIED: Final = "Redis emptied"
SLOW: Final = "the machine was too slow"

ITSELF: Final = -1
"""In place of a gateway: the process of callers and sandbox."""

AFTER: Final = 3.0
"""Seconds after a trouble in which a gateway may still be behind: it probes for Redis, joins again and drops memory."""

NEVER: Final = float("inf")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request to one gateway, and its response."""

    kind: str
    """post, wait, form (a GET with parameters), hop (its redirect), poll, cancel, result, purge, edit, reload."""
    gateway: int
    client: str = "dashboard"
    asked: float
    answered: float
    status: int = 200
    """0: no response."""
    since: float = 0.0
    """The moment from which the age of rows counts: of the request that began it, also for polls and redirects."""
    query: str = ""
    value: str = ""
    max_age: int | None = None
    job: str = ""
    """Given by this response, or asked for."""
    job_status: int = 0
    result: int | None = None
    """Shown, or named by a job."""
    exact: bool = True
    """Whether the rows that are shown are those of that result in Redash."""
    hit: bool = False
    """Whether they came from what the gateways have stored."""
    patience: float = 5.0
    """Seconds in which there has to be a response."""
    text: str = ""


@dataclass(frozen=True)
class Trouble:
    """Something was broken from `began` to `ended`; of all gateways where `gateway` is None."""

    kind: str
    gateway: int | None
    began: float
    ended: float


@dataclass(frozen=True)
class Post:
    """A request to execute as Redash got it: from which gateway, with which key, for which SQL, and what it gave."""

    gateway: int | None
    key: str
    sql: str
    at: float
    answered: float
    job: str = ""
    query: str = ""


@dataclass(frozen=True)
class Result:
    """A result in Redash: of which query in which version, for which value, and when its run ended."""

    query: str
    version: int
    value: str
    ended: float


@dataclass(frozen=True)
class Change:
    """An edit of a query, a purge, or a revocation: through which gateway (None: in Redash), and when."""

    gateway: int | None
    asked: float
    answered: float
    query: str = ""
    """Empty for a purge: everything."""
    version: int = 0
    """The new one of an edit."""
    client: str = ""
    """Of a revocation."""
    ended: float = NEVER
    """When it began to be taken back."""
    restored: float = NEVER
    """When that was done."""


@dataclass
class History:
    """Everything that the checker judges."""

    asked: list[Asked] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)
    """By Redash's job: when its run ended or was cancelled."""
    deleted: dict[str, float] = field(default_factory=dict)
    """By Redash's job: when it was asked to cancel it."""
    results: dict[int, Result] = field(default_factory=dict)
    given: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    """When Redash has given this result to this key."""
    edits: list[Change] = field(default_factory=list)
    purges: list[Change] = field(default_factory=list)
    revocations: list[Change] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """By client: the key that the gateways use for it."""
    leases: dict[int, float] = field(default_factory=dict)
    """By gateway: how many it says that it holds when all is over."""
    calm: float = NEVER
    """From when on all troubles were over, long enough ago."""

    def troubled(self, gateways: set[int | None], began: float, ended: float, *kinds: str) -> Iterator[Trouble]:
        """Troubles of these gateways at any time between two moments, both inclusive; kinds: of any kind."""
        for trouble in self.troubles:
            meets = trouble.began <= ended and trouble.ended >= began
            if meets and trouble.gateway in gateways and (not kinds or trouble.kind in kinds):
                yield trouble

    def connected(self, gateway: int | None, began: float, ended: float) -> bool:
        """Whether nothing was wrong with this gateway and with Redis between two moments and shortly before."""
        return not any(self.troubled({gateway, None}, began - AFTER, ended))
