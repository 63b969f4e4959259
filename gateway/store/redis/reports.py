"""How Redis is, and what the log says of it: one line when a trouble begins, and one when it is over."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from gateway.model import NEARLY_FULL
from gateway.store.redis.server import Facts

log = logging.getLogger(__name__)

MOST_CAUSES: Final = 5
"""So many causes of one outage are logged."""

ROOM_AGAIN: Final = 0.9


class Health(msgspec.Struct, frozen=True):
    """How Redis is: `round_trip` in seconds, `limit_bytes` 0 for none; `reason` says why it is down."""

    up: bool
    round_trip: float = 0.0
    used_bytes: int = 0
    limit_bytes: int = 0
    policy: str = ""
    reason: str = ""


class Reports:
    """Knows what has been logged of the Redis with this name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._causes: set[str] = set()  # of this outage; the first may be a mere symptom
        self._is_full = self._evicts = False

    def lost(self, reason: str, *, is_cause: bool) -> None:
        """Log that Redis is not usable: once, and again for each cause that somebody must remove."""
        if self._causes and (not is_cause or reason in self._causes or len(self._causes) >= MOST_CAUSES):
            return
        self._causes.add(reason)
        log.warning("%s is not usable, this gateway works alone: %s", self._name, reason)

    def back(self) -> None:
        """Log that Redis is there again."""
        self._causes.clear()
        log.info("%s is usable again", self._name)

    def looked(self, facts: Facts) -> None:
        """Log what has changed in what Redis says of itself."""
        self._fullness(facts)
        evicts = facts.policy not in ("", "noeviction")
        if evicts and not self._evicts:
            text = "%s may remove jobs and leases, because its maxmemory-policy is %s; %s"
            log.warning(text, self._name, facts.policy, "CONFIG SET maxmemory-policy noeviction")
        elif self._evicts and not evicts:
            log.info("%s removes nothing by itself any more", self._name)
        self._evicts = evicts

    def _fullness(self, facts: Facts) -> None:
        part = facts.used_bytes / facts.limit_bytes if facts.limit_bytes else 0.0
        if part > NEARLY_FULL and not self._is_full:
            self._is_full = True
            text = "%s is full (%.1f of %.1f MB): what finds no room there is not stored; %s"
            remedy = "raise its maxmemory, or set cache.disk to four fifths of it at most"
            log.warning(text, self._name, facts.used_bytes / 1e6, facts.limit_bytes / 1e6, remedy)
        elif part < ROOM_AGAIN and self._is_full:
            self._is_full = False
            log.info("%s has room again", self._name)
