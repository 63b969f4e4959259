"""Tells whoever leads a run, on whichever gateway, from which moment on callers need rows.

The record of a job has the number of an ask, and the record of a run that has ended has the numbers of the asks that it
serves, and of all that its leader had heard. So each gateway can tell from the two whether the run serves the job, or
its follow-up, or a run that is yet to begin:

- A number above 0 is that of an ask in Redis; one below -1, of an ask in the leader's own gateway.
- 0 needs none. The caller accepts rows of any age; or the lease was safe when the job was recorded, and whoever leads
  the run later reads the job from the ledger first.
- `UNASKED` is for a job of which nobody could be told, because Redis was away or the lease may have been lost. Another
  gateway may end the run without knowing of it, so only an end that the job's own gateway has recorded serves it.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.concurrency.events import wait_for
from gateway.executions.execution import Execution, Phase
from gateway.model import UNASKED, Clock
from gateway.store import Leases

ASK_SECONDS: Final = 2.0
"""How long a job id waits until the leader of its run, on another gateway, has noted how new the rows must be."""


class Needs:
    """A job's record has the number of an ask, so that every gateway can tell which run serves it."""

    def __init__(self, leases: Leases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock

    async def told(self, execution: Execution, not_before: float) -> Execution:
        """Return the run that is to serve this caller, when its leader knows of it."""
        until = self._clock.monotonic() + ASK_SECONDS
        while True:
            execution = execution.serving(not_before)
            standing, left = execution.standing, until - self._clock.monotonic()
            asks = self._leases.shared and (standing.lacks(not_before) or standing.is_unsettled)
            if left < 0 or execution.phase is Phase.ENDED or not asks:
                return execution
            execution.attach(not_before)
            await wait_for(standing.noted, left)

    async def number(self, execution: Execution, not_before: float) -> int:
        """Return the number under which whoever leads the run knows of a caller's need: see `Standing.ask_for`.

        A lease that is safe needs none: whoever leads the run later reads from the ledger what was promised until then.
        """
        standing, ended = execution.standing, execution.phase is Phase.ENDED
        if not self._leases.for_many or not_before == -math.inf or ended or standing.follows or standing.is_apart:
            return standing.ask_for(not_before)
        if not standing.is_unled:
            return 0 if self._leases.shared and standing.lease.is_safe else UNASKED
        number = await self._leases.note_ask(execution.id, self._clock.monotonic() - not_before)
        if not number:
            return UNASKED
        standing.own[number] = not_before
        return number
