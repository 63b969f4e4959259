"""What was purged, and when: nothing that was requested before is stored, nor older rows of Redash taken. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable

from gateway.concurrency.marks import Marks
from gateway.policy.plan import Plan
from gateway.redash.purges import Purge


class Purges:
    """The moments (monotonic) of purges, by scope (None: all) and what was purged."""

    def __init__(self) -> None:
        self._purged: Marks[Hashable] = Marks(-math.inf)
        self._renewed: Marks[Hashable] = Marks(-math.inf)

    def note(self, scope: str | None, query_id: int | None, now: float) -> None:
        """Note that the results of a scope and query (None: of all) are gone."""
        if scope is None and query_id is None:
            self._purged.set_all(now)
            return
        self._purged.set((scope, query_id), now)
        if query_id is not None:
            self._renewed.set((scope, Purge(query=query_id)), now)

    def note_new_data(self, scope: str, what: Purge, now: float) -> None:
        """Note that whoever loads data has said that these results are out of date."""
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
        named = [Purge(query=plan.query_id)]
        if plan.data_source_id is not None:
            named.append(Purge(data_source=plan.data_source_id))
        named += [Purge(tag=tag) for tag in (definition.tags if definition is not None else ())]
        return max((self._renewed.get((s, purge)) for s in (scope, None) for purge in named), default=-math.inf)
