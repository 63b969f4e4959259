"""Records of the ledger as they stand in Redis: packed, with times by Redis' clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from gateway.model import ExecutionRecord, JobRecord
from gateway.store.redis.times import SharedTime

R = TypeVar("R", ExecutionRecord, JobRecord)


class Packing:
    """Converts the wall-clock times of records; where that is uncertain, rows must be newer, not older."""

    def __init__(self, time: SharedTime) -> None:
        self._time = time

    def shared(self, record: R) -> R:
        """Return a record of this gateway with Redis' times."""
        return self._shifted(record, self._time.shared_from_wall)

    def unpack(self, packed: bytes | None, kind: type[R]) -> R | None:
        """Return a record with this gateway's times; None for nothing, and for what is no such record."""
        if packed is None:
            return None
        try:
            return self._shifted(msgspec.msgpack.decode(packed, type=kind), self._time.wall)
        except msgspec.MsgspecError:
            return None

    def _shifted(self, record: R, convert: Callable[[float], float]) -> R:
        if isinstance(record, ExecutionRecord):
            return msgspec.structs.replace(record, started_at=convert(record.started_at))
        not_before = convert(record.not_before) + self._time.uncertainty
        return msgspec.structs.replace(record, noted_at=convert(record.noted_at), not_before=not_before)
