"""Who is in this Redis: gateways that share with this one, and those that are not meant to. Reads and judges; `link`
renews.

peers   sorted set: processes of gateways by the time when they were here last, each as "name process upstream", where
        upstream is a digest of `upstream.url`
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple

from gateway.model import digest
from gateway.store.redis.rights import FITTING

log = logging.getLogger(__name__)

MOST: Final = 100

LISTED_SECONDS: Final = 60.0
"""So long one that is silent stays listed, and counts for rates and budgets: it may be cut off, and go on alone."""

LATE_SECONDS: Final = 3.0
"""Who has not renewed for so long is not there: twelve times, of which a busy machine may miss a few."""

TWIN_SECONDS: Final = 75.0
"""For a while two processes of one gateway run at the same time, during a restart: for `server.drain_timeout`."""


class _Process(NamedTuple):
    """One that is listed; an earlier version wrote its name alone."""

    name: str
    origin: str
    upstream: str
    age: float

    @property
    def is_late(self) -> bool:
        return self.age > LATE_SECONDS


class Neighbours:
    """What was found with the last look. A name may be that of several processes, so each has an id of its own."""

    def __init__(self, name: str, upstream_url: str, origin: str) -> None:
        self.member = f"{name} {origin} {digest(upstream_url.encode())[:8].hex()}"
        """This process, in the list."""
        self.trouble = ""
        """What is wrong with the others, "" if nothing is."""
        self.present: list[tuple[str, float]] = []
        """Those that share results with this one, itself included: names, and how many seconds ago each was seen."""
        self.silent: list[tuple[str, float]] = []
        """The same of those that have not left, but are not there."""
        self._name, self._origin, self._upstream = self.member.split(" ")
        self._twins: dict[str, float] = {}  # names of several processes, and since when each is (seconds)

    async def read(self, command: Callable[..., Awaitable[Any]], key: str, now: float) -> None:
        """Read the list; `now` is Redis' time in seconds. What is newly wrong is logged. Raises as `Link.command`."""
        found = await command("ZREVRANGE", key, 0, MOST - 1, "WITHSCORES")
        listed = {
            member: _parsed(member.decode(errors="replace"), max(0.0, now - float(at) / 1e6))
            for member, at in zip(found[::2], found[1::2], strict=True)
        }
        self._judge(listed.values(), now)
        if replaced := [member for member, one in listed.items() if self._has_replaced(one)]:
            await command("ZREM", key, *replaced)

    def _has_replaced(self, one: _Process) -> bool:
        """Whether it was this very gateway, before it was killed and started again: it will not come back."""
        return one.is_late and one.name == self._name and one.origin != self._origin

    def _judge(self, listed: Collection[_Process], now: float) -> None:
        ours = [one for one in listed if one.upstream in ("", self._upstream)]
        present = [one for one in ours if not one.is_late]
        names = Counter(one.name for one in present)
        self.present = [(one.name, one.age) for one in present]
        away = [(one.name, one.age) for one in ours if one.is_late and one.name not in names]
        self.silent = list(dict(sorted(away, key=itemgetter(1), reverse=True)).items())
        self._twins = {name: self._twins.get(name, now) for name, count in names.items() if count > 1}
        twins = [name for name, since in self._twins.items() if now - since >= TWIN_SECONDS]
        strangers = {one.name for one in listed if one.upstream not in ("", self._upstream) and not one.is_late}
        trouble = "; ".join([*_about_strangers(strangers), *_about_twins(twins)])
        if trouble and trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble


def _parsed(member: str, age: float) -> _Process:
    name, _, rest = member.partition(" ")
    origin, _, upstream = rest.partition(" ")
    return _Process(name, origin, upstream, age)


def _about_strangers(names: Iterable[str]) -> Iterable[str]:
    if some := ", ".join(sorted(names)):
        yield f"{some} in the same Redis: another upstream.url; give each Redash a redis.prefix of its own {FITTING}"


def _about_twins(names: Iterable[str]) -> Iterable[str]:
    if some := ", ".join(sorted(names)):
        yield f"several gateways are called {some}; give each a redis.name of its own"
