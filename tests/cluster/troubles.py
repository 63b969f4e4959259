"""What befalls several gateways, their Redis, and the network between them. All chance comes from the seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from support.cluster import Cluster, Gateway
from support.redis_server import Child, Network, RedisServer

from . import history as kinds
from .history import ALONE, ITSELF, NEVER, SLOW, History, Trouble

SECONDS: Final = (0.2, 0.7, 1.5, 3.0)
LONG: Final = (0.5, 2.0, 4.0, 8.0)
"""For what has to outlast a lease at times."""

QUIET: Final = (0.5, 1.5, 3.0, 4.0)
LOOKS_EVERY: Final = 0.25
LATE: Final = 1.0


@dataclass(frozen=True)
class Place:
    """Where trouble may come: the gateways, and what lies between them and Redis."""

    cluster: Cluster
    redis: RedisServer
    networks: list[Network]


class Troubles:
    """Breaks things and mends them again."""

    def __init__(self, place: Place, history: History, now: Callable[[], float]) -> None:
        self.place = place
        self.happened: Counter[str] = Counter()
        self._history = history
        self._now = now

    async def one(self, chance: Random) -> None:
        """One trouble from its beginning to its end, sometimes two at once."""
        what: list[Callable[[Random], Awaitable[None]]] = [
            self._kill, self._pause, self._cut_silently, self._cut, self._stop_redis, self._pause_redis, self._empty
        ]  # fmt: skip
        many = 2 if chance.random() < 0.2 else 1
        await asyncio.gather(*(act(chance) for act in chance.sample(what, many)))

    def _begin(self, kind: str, gateway: int | None) -> int:
        self.happened[kind] += 1
        self._history.troubles.append(Trouble(kind, gateway, self._now(), NEVER))
        return len(self._history.troubles) - 1

    def _end(self, number: int) -> None:
        self._history.troubles[number] = replace(self._history.troubles[number], ended=self._now())

    def _gateway(self, chance: Random) -> tuple[int, Gateway]:
        number = chance.randrange(len(self.place.cluster.gateways))
        return number, self.place.cluster.gateways[number]

    async def _kill(self, chance: Random) -> None:
        number, gateway = self._gateway(chance)
        trouble = self._begin(kinds.KILLED, number)
        gateway.process.child.kill()
        await gateway.kill()
        await asyncio.sleep(chance.choice(SECONDS))
        await gateway.launch()
        self._end(trouble)

    async def _pause(self, chance: Random) -> None:
        number, gateway = self._gateway(chance)
        trouble = self._begin(kinds.PAUSED, number)
        process = gateway.process  # it may be killed and started again meanwhile
        gateway.pause()
        await asyncio.sleep(chance.choice(LONG))
        if process is gateway.process and process.child.returncode is None:
            gateway.resume()
        self._end(trouble)

    async def _cut_silently(self, chance: Random) -> None:
        """What was sent arrives late."""
        number = chance.randrange(len(self.place.networks))
        trouble = self._begin(kinds.CUT, number)
        await _paused(self.place.networks[number], chance.choice(LONG))
        self._end(trouble)

    async def _cut(self, chance: Random) -> None:
        number = chance.randrange(len(self.place.networks))
        trouble = self._begin(kinds.CUT, number)
        await self.place.networks[number].kill()
        await asyncio.sleep(chance.choice(LONG))
        await self.place.networks[number].start()
        self._end(trouble)

    async def _stop_redis(self, chance: Random) -> None:
        trouble = self._begin(kinds.REDIS_DOWN, None)
        await self.place.redis.kill()
        await asyncio.sleep(chance.choice(SECONDS))
        await self.place.redis.start()
        self._end(trouble)
        self._end(self._begin(kinds.REDIS_EMPTIED, None))

    async def _pause_redis(self, chance: Random) -> None:
        trouble = self._begin(kinds.REDIS_PAUSED, None)
        await _paused(self.place.redis, chance.choice(SECONDS))
        self._end(trouble)

    async def _empty(self, chance: Random) -> None:
        """FLUSHALL, unless Redis is down or paused just now."""
        del chance
        trouble = self._begin(kinds.REDIS_EMPTIED, None)
        try:
            await self.place.redis.ask("FLUSHALL")
        except (OSError, EOFError):
            self.happened[kinds.REDIS_EMPTIED] -= 1
        self._end(trouble)

    async def watch_itself(self) -> None:
        """Note when this process, which is the sandbox as well, got no time: nothing is answered then."""
        while True:
            began = self._now()
            await asyncio.sleep(LOOKS_EVERY)
            if (ended := self._now()) - began > LOOKS_EVERY + LATE:
                self._history.troubles.append(Trouble(SLOW, ITSELF, began, ended))

    async def watch(self, number: int) -> None:
        """Note when a gateway says that it is without Redis: a busy machine makes it wait too long at times."""
        gateway, known, since, losses = self.place.cluster.gateways[number], self._now(), None, 0.0
        while True:
            asked = self._now()
            try:
                async with asyncio.timeout(5.0):
                    samples = await gateway.metrics()
            except (OSError, TimeoutError):
                samples = {}
            now = self._now()
            lost = samples.get("redash_gateway_redis_losses_total", losses)
            up = samples.get('redash_gateway_store_up{tier="redis"}', 1.0) == 1.0
            if since is None and (not up or lost > losses):
                since = known
            if since is not None and up:
                self._history.troubles.append(Trouble(ALONE, number, since, now))
                since = None
            known, losses = asked, lost  # what it says may be true no more when its response is here
            await asyncio.sleep(LOOKS_EVERY)


async def _paused(child: Child, seconds: float) -> None:
    child.pause()
    await asyncio.sleep(seconds)
    child.resume()
