"""The soak: rounds of weather with kills, restarts and reloads, each followed by a calm in which all must be well.

Every decision of a round comes from the seed and its number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

from chaos.storm import Storm

from bench.soak.housekeeping import housekeeping
from bench.soak.kinds import edits
from bench.soak.leftovers import Leftovers, rest
from bench.soak.load import Load
from bench.soak.settings import MOST_REQUESTS
from bench.soak.stage import Stage

STEADY = 0.6
"""From this part of the time on, one process lives to the end: what leaks slowly shows only then."""

_WEATHERS = ("storm", "storm", "storm", "stopped", "hung", "unhealthy", "fine")
_SHORTEST_SECONDS, _LONGEST_SECONDS = 3.0, 10.0


class Rounds:
    """One run."""

    def __init__(self, stage: Stage, seed: int, seconds: float) -> None:
        self.stage, self.journal = stage, stage.journal
        self._seed = seed
        self._seconds = seconds
        self._load = Load(stage, seed)
        self._editor = Load(stage, seed + 1, {edits: 1}, callers=1)
        self._leftovers = Leftovers(stage)

    async def run(self) -> None:
        """Rounds until the time is over."""
        began, number = time.monotonic(), 0
        async with housekeeping(self.stage):
            await self._calm()
            while (gone := time.monotonic() - began) < self._seconds:
                number += 1
                self.journal.figures["rounds"] = number
                await self._round(Random(f"{self._seed} round {number}"), number, gone > STEADY * self._seconds)
                await self._calm()
        await self._load.stop()
        await self._editor.stop()

    async def _round(self, chance: Random, number: int, is_steady: bool) -> None:
        weather = chance.choice(_WEATHERS)
        self.journal.moment = f"seed {self._seed}, round {number} ({weather})"
        self._load.resume()
        end = time.monotonic() + chance.uniform(_SHORTEST_SECONDS, _LONGEST_SECONDS)
        await self._begin(weather, number)
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            await self._event(chance, is_steady)
        await self._end(weather)

    async def _begin(self, weather: str, number: int) -> None:
        if weather == "fine":
            return
        self.stage.begin_weather()
        if weather == "storm":
            storm = Storm(self._seed * 10_000 + number)
            self.stage.proxy.weather = storm
            self.journal.moment += f" {storm}"
        elif weather == "stopped":
            await self.stage.proxy.disconnect()
        elif weather == "hung":
            self.stage.proxy.add("hang")
        else:
            self.stage.sandbox.faults.add("unhealthy")

    async def _end(self, weather: str) -> None:
        if weather == "stopped":
            await self.stage.proxy.reconnect()
        if weather != "fine":
            self.stage.end_weather()
        self.journal.figures[f"rounds: {weather}"] += 1

    async def _event(self, chance: Random, is_steady: bool) -> None:
        events: list[tuple[int, Callable[[], Awaitable[object]]]] = [
            (4, self._edit),
            (3, self.stage.reload),
            (2, self._purge),
            (4, self._nothing),
        ]
        if not is_steady:
            events += [(2, self._kill), (1, self.stage.restart), (1, self.stage.follow)]
        weights, acts = zip(*events, strict=True)
        await chance.choices(acts, weights)[0]()

    async def _nothing(self) -> None:
        """Leave the callers alone."""

    async def _edit(self) -> None:
        with self.stage.dropping():
            await self._editor.act(self._editor.callers[0], edits)

    async def _purge(self) -> None:
        with self.stage.dropping():
            done = await self.stage.operate("/purge", {"query": self.stage.queries.ids["stamp"]})
        if not done:
            self.journal.find("every other response is a problem", "a purge failed")
        self.journal.figures["purges"] += 1

    async def _kill(self) -> None:
        self._leftovers.memory()
        await self.stage.kill()

    async def _calm(self) -> None:
        """Redash is well, callers pause: the gateway must come to rest, and then everything must succeed."""
        self.journal.moment = f"calm after {self.journal.moment}"
        await self._load.pause()
        await rest(self.stage)
        self.stage.proxy.most_at_once = 0
        await self._load.each_once()
        if self.stage.proxy.most_at_once > MOST_REQUESTS:
            what = f"{self.stage.proxy.most_at_once} requests at once, {MOST_REQUESTS} allowed"
            self.journal.find("Redash is not overrun", what)
        await self._load.pause()
        self._editor.callers[0].close()
        await rest(self.stage)
        await self._leftovers.check()
