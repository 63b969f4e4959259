"""All callers together: they begin, pause, and judge each kind once more while nothing is wrong with Redash."""

from __future__ import annotations

import asyncio
import itertools
import time
from random import Random

from bench.soak.caller import Caller
from bench.soak.kinds import MIXED, Kind
from bench.soak.stage import Stage

CALLERS = 16
_PAUSE_SECONDS = 300.0
"""By then every caller has had its response or its deadline."""

_CALM_TRIES = 4
_THINKS_SECONDS = 0.05


class Load:
    """Callers of all kinds, one task each."""

    def __init__(self, stage: Stage, seed: int, kinds: dict[Kind, int] = MIXED, callers: int = CALLERS) -> None:
        self.stage, self.journal = stage, stage.journal
        self.callers = [Caller(stage, Random(f"{seed} caller {number}")) for number in range(callers)]
        self._kinds, self._weights = list(kinds), list(kinds.values())
        self._going = asyncio.Event()
        self._busy = 0
        self._idle = asyncio.Event()
        self._tasks = [asyncio.create_task(self._repeat(caller)) for caller in self.callers]

    def resume(self) -> None:
        """Let the callers go on."""
        self._going.set()

    async def pause(self) -> None:
        """Let the callers end what they do, and close their connections."""
        self._going.clear()
        async with asyncio.timeout(_PAUSE_SECONDS):
            while self._busy:
                self._idle.clear()
                await self._idle.wait()
        for caller in self.callers:
            caller.close()

    async def stop(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for caller in self.callers:
            caller.close()

    def jobs(self) -> int:
        """How many job ids callers have been given."""
        return sum(len(caller.jobs) for caller in self.callers)

    async def _repeat(self, caller: Caller) -> None:
        while True:
            await self._going.wait()
            self._busy += 1
            try:
                kind = caller.chance.choices(self._kinds, self._weights)[0]
                await self.act(caller, kind)
                await asyncio.sleep(caller.chance.uniform(0, _THINKS_SECONDS))
            finally:
                self._busy -= 1
                self._idle.set()

    async def act(self, caller: Caller, kind: Kind) -> None:
        """Do one thing and judge it. Without faults it must succeed; a busy machine gets more than one try."""
        for tries_left in reversed(range(_CALM_TRIES)):
            began = time.monotonic()
            done = await self._judged(caller, kind, began)
            if done or self.stage.had_weather_since(began) or self.stage.was_killed_since(began):
                return
            self.journal.figures["tried again"] += 1
            if not tries_left:
                self.journal.find("with Redash well, everything succeeds", kind.__name__)
            await asyncio.sleep(1.0)

    async def _judged(self, caller: Caller, kind: Kind, began: float) -> bool:
        self.journal.figures["calls"] += 1
        try:
            return await kind(caller)
        except TimeoutError:
            if self.stage.was_killed_since(began):  # the next one may take long to start on a busy machine
                self.journal.figures["met a kill"] += 1
            else:
                self.journal.find("every response in time", kind.__name__)
        except (OSError, EOFError) as error:
            caller.close()
            if self.stage.was_killed_since(began):
                self.journal.figures["met a kill"] += 1
            elif self.stage.had_weather_since(began) and isinstance(error, EOFError):
                self.journal.figures["broken off with Redash"] += 1
            else:
                self.journal.find("no connection ends before its response", f"{kind.__name__}: {error!r}")
        except Exception as error:
            self.journal.find("every other response is a problem", f"{kind.__name__}: {error!r}")
            caller.close()
        return False

    async def each_once(self) -> None:
        """Each kind once, spread over the callers, without faults."""
        pairs = zip(itertools.cycle(self.callers), self._kinds, strict=False)
        await asyncio.gather(*(self.act(caller, kind) for caller, kind in pairs))
