"""Whether Redash works: opens and closes the breaker, and lets those leave early who can do without Redash.

Redash hangs if a request and the canary get no response, and nobody else gets one meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

from gateway.concurrency.breaker import Breaker
from gateway.concurrency.early_exits import EarlyExits
from gateway.outcome import Observer, Sender
from gateway.policy.access import Credential
from gateway.upstream.canary import Canary

SILENT_SECONDS: Final = 2.0
"""After so long without a response the canary is asked, and again while there is none."""

_EARLIER: Final = 0.9
"""Of `breaker_reset`: the canary comes first, so that no caller's request has to be the probe."""

_CANARIES: Final = 5
"""So many canaries in a row may be the probe; then a caller's request is, in case only the canary's route fails."""

_HANGS: Final = "Redash hangs: requests get no response, nor does the gateway's own test"


class Silence:
    """A request without a response yet: it can be given up, and if it lasts, `ask` is done."""

    def __init__(self, silent: set[Silence], ask: Callable[[], Coroutine[object, object, None]]) -> None:
        """`silent` has it as long as it lasts."""
        self._silent = silent
        self._ask = ask
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(SILENT_SECONDS, self._begin)
        self.limit: asyncio.Timeout | None = None
        """Ends the request."""
        self.is_lost = False
        """Whether it was given up."""
        silent.add(self)

    @property
    def is_long(self) -> bool:
        """Whether it has lasted for `SILENT_SECONDS`."""
        return self._task is not None

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._ask())

    def end(self) -> None:
        """The response begins, or the request has ended without one."""
        self._silent.discard(self)
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def give_up(self) -> None:
        """End the request, unless its response has begun."""
        if self in self._silent and self.limit is not None and not self.limit.expired():
            self.is_lost = True
            self.limit.reschedule(asyncio.get_running_loop().time())


class Availability:
    """Whether Redash works, by its responses and the canary's."""

    def __init__(self, breaker: Breaker, canary: Canary, observer: Observer) -> None:
        self.breaker = breaker
        self._canary = canary
        self._observer = observer
        self._exits = EarlyExits(breaker.refusal)
        self._heard = -math.inf  # by the clock of the event loop
        self._recovery: asyncio.Task[None] | None = None
        self._silent: set[Silence] = set()

    @asynccontextmanager
    async def until_unavailable(self) -> AsyncIterator[None]:
        """Let what is awaited within end when Redash is known not to work; see `Upstream`."""
        self.breaker.refuse_if_open()
        async with self._exits.offered():
            yield

    def is_stuck_since(self, moment: float) -> bool:
        """Whether requests wait for long, and nobody has got a response since then, by the clock of the event loop."""
        return self._heard < moment and any(silence.is_long for silence in self._silent)

    def listen(self, credential: Credential, sender: Sender) -> Silence:
        """Return the silence of a request that is sent now; it must be ended."""
        return Silence(self._silent, lambda: self._ask_while_silent(credential, sender))

    def heard(self, status: int) -> None:
        """Note that a part of a response has come; a proxy's errors, and those of an outage, do not count."""
        if status < 500:
            self._heard = asyncio.get_running_loop().time()

    def succeeded(self) -> None:
        """Redash responded, with whatever status. After an outage, what hangs since then gets a last moment."""
        if self.breaker.is_tripped:
            asyncio.get_running_loop().call_later(SILENT_SECONDS, _give_up, list(self._silent))
        self.breaker.succeeded()
        self._observer.record_breaker(is_open=False)

    def failed(self, credential: Credential, cause: str) -> None:
        """A request with this credential was not answered, or shows an outage; `cause` is a sentence."""
        self.breaker.failed()
        self._note(credential, cause)

    async def _ask_while_silent(self, credential: Credential, sender: Sender) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            if await self._canary.fails(credential, sender) and self._heard < began:
                self.breaker.open()
                self._note(credential, _HANGS)
            await asyncio.sleep(SILENT_SECONDS)

    def _note(self, credential: Credential, cause: str) -> None:
        """Where the breaker is open now: let those leave who can, and begin to look for the end of the outage."""
        self._observer.record_breaker(is_open=self.breaker.is_open, cause=cause)
        if self.breaker.is_open:
            self._exits.open()
            if self._recovery is None or self._recovery.done():
                self._recovery = asyncio.create_task(self._recover(credential))

    async def _recover(self, credential: Credential) -> None:
        """Close the breaker when the canary gets its response."""
        for attempt in count(1):
            await asyncio.sleep(_EARLIER * self.breaker.reset)
            if not self.breaker.is_tripped:
                return
            if attempt % (_CANARIES + 1) == 0:
                continue
            self.breaker.probe()
            if not await self._canary.fails(credential, Sender("gateway", "canary")):
                self.succeeded()
                return
            self.breaker.probe()  # counted from its end: one that hangs takes a while

    async def aclose(self) -> None:
        """End what is under way."""
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        await self._canary.aclose()


def _give_up(silences: Iterable[Silence]) -> None:
    for silence in silences:
        silence.give_up()
