"""Whether Redash works: opens and closes the breaker, and lets those leave early who can do without Redash.

Redash hangs if a request and the canary get no response, and nobody else gets one meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from itertools import count
from types import TracebackType
from typing import Final

from gateway.concurrency.breaker import Breaker
from gateway.concurrency.early_exits import EarlyExits
from gateway.errors import UpstreamError
from gateway.outcome import Observer, Sender
from gateway.policy.access import Credential
from gateway.upstream.canary import Canary

SILENT_SECONDS: Final = 2.0
"""After so long without a response the canary is asked, and again while there is none."""

_EARLIER: Final = 0.9
"""Of `breaker_reset`: the canary comes first, so that no caller's request has to be the probe."""

_CANARIES: Final = 5
"""So many canaries in a row may be the probe; then a caller's request is, in case only the canary's route fails."""


class Silence:
    """A request without a response yet: it can be given up, and if it lasts, `ask` is done."""

    def __init__(self, ask: Callable[[], Coroutine[object, object, None]]) -> None:
        self._ask = ask
        self._limit = asyncio.timeout(None)
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._timer = asyncio.get_running_loop().call_later(SILENT_SECONDS, self._begin)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        await self._limit.__aexit__(kind, error, trace)

    @property
    def is_long(self) -> bool:
        """Whether it has lasted for `SILENT_SECONDS`."""
        return self._task is not None

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._ask())

    def end(self) -> None:
        """The response begins, or the request has ended without one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    def give_up(self) -> None:
        """End the request with a TimeoutError, unless its response has begun."""
        if self._timer is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())


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

    @asynccontextmanager
    async def listen(self, credential: Credential, sender: Sender) -> AsyncIterator[Silence]:
        """Watch a request that is sent within.

        Raises:
            UpstreamError: it was sent before an outage that is over, and will get no response any more.
        """
        silence = Silence(lambda: self._ask_while_silent(credential, sender))
        self._silent.add(silence)
        try:
            async with silence:
                yield silence
        except TimeoutError:
            raise UpstreamError("Redash did not answer, and works again: it has lost this request.") from None
        finally:
            self._silent.discard(silence)

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

    def failed(self, credential: Credential) -> None:
        """A request with this credential was not answered, or shows an outage."""
        self.breaker.failed()
        self._note(credential)

    async def _ask_while_silent(self, credential: Credential, sender: Sender) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            if await self._canary.fails(credential, sender) and self._heard < began:
                self.breaker.open()
                self._note(credential)
            await asyncio.sleep(SILENT_SECONDS)

    def _note(self, credential: Credential) -> None:
        """Where the breaker is open now: let those leave who can, and begin to look for the end of the outage."""
        self._observer.record_breaker(is_open=self.breaker.is_open)
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

    async def aclose(self) -> None:
        """End what is under way."""
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        await self._canary.aclose()


def _give_up(silences: Iterable[Silence]) -> None:
    for silence in silences:
        silence.give_up()
