"""What was purged, and when: nothing that was requested before is stored, nor older rows of Redash taken. Pure.

The gateway also purges by itself, because of an edit, lost rights, or purges that it may have missed. That says nothing
of the rows that Redash has. Only what people and jobs say does: else an outage of Redis would run every query again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

import msgspec

from gateway.concurrency.marks import Marks
from gateway.policy.plan import Plan
from gateway.redash.purges import Purge

MOST_RECORDED: Final = 2_000
"""So many purges outlive the process one by one: a text of at most 700 KB, 150 KB where they name numbers."""


class Record(msgspec.Struct, frozen=True):
    """What outlives the process, in unix seconds: since when rows must be, by scope and what was purged."""

    others: float | None
    """The same for all that is not named here; None if nothing else was purged."""
    marks: list[tuple[str | None, Purge, float]]


class Purges:
    """The moments (monotonic) of purges, by scope (None: all) and what was purged."""

    def __init__(self) -> None:
        self._purged: Marks[Hashable] = Marks(-math.inf)
        self._renewed: Marks[tuple[str | None, Purge]] = Marks(-math.inf)

    def note(self, scope: str | None, query_id: int | None, now: float) -> None:
        """Note that the results of a scope and query (None: of all) are gone, whatever the reason."""
        if scope is None and query_id is None:
            self._purged.set_all(now)
        else:
            self._purged.set((scope, query_id), now)

    def note_new_data(self, scope: str | None, what: Purge, now: float) -> None:
        """Note that a client or an operator has said that these results are out of date, in a scope (None: in all)."""
        if scope is None and what == Purge():
            self._renewed.set_all(now)
        else:
            self._renewed.set((scope, what), now)

    def note_late(self, scope: str, query_id: int, now: float) -> None:
        """Note that a run has ended that a purge has overtaken: it may have read old data, though its end is new."""
        self._renewed.set((scope, Purge(query=query_id)), now)

    def last(self, scope: str, query_id: int) -> float:
        """Return when this query was purged last in this scope, or a later moment."""
        places: tuple[Hashable, ...] = ((scope, query_id), (None, query_id), (scope, None))
        return max(map(self._purged.get, places))

    def new_data(self, plan: Plan) -> float:
        """Return since when rows must be, because of what was purged, or a later moment."""
        scope, definition = plan.credential.scope, plan.definition
        named = [Purge(), Purge(query=plan.query_id)]
        if plan.data_source_id is not None:
            named.append(Purge(data_source=plan.data_source_id))
        named += [Purge(tag=tag) for tag in (definition.tags if definition is not None else ())]
        return max(self._renewed.get((s, purge)) for s in (scope, None) for purge in named)

    def record(self, offset: float) -> str:
        """Return what outlives this process; `offset` is that of unix seconds from monotonic ones."""
        others, marks = self._renewed.newest(MOST_RECORDED)
        since = None if others == -math.inf else others + offset
        record = Record(since, [(scope, what, mark + offset) for (scope, what), mark in marks])
        return msgspec.json.encode(record).decode()

    def restore(self, text: str, offset: float, now: float) -> None:
        """Take back what an earlier process has recorded.

        Raises:
            msgspec.MsgspecError: another version has written it.
        """
        record = msgspec.json.decode(text, type=Record)
        others = -math.inf if record.others is None else min(record.others - offset, now)
        self._renewed.restore(others, [((s, what), min(mark - offset, now)) for s, what, mark in record.marks])
