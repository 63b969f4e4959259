"""What gateways that share a Redis tell each other besides what is stored: purges, writes, reloads, rates, peers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.config import RedisAddress
from gateway.model import Key, SharingStats
from gateway.redash.purges import NewData, Purge
from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.link import Link
from gateway.store.redis.rates import RedisTokens
from gateway.store.redis.scripts import Script
from gateway.store.redis.spending import RedisSpending

RELOAD: Final = "reload"
PURGED: Final = "purged"
STORED: Final = "stored"
WRITTEN: Final = "written"

NEW_DATA: Final = "new-data"

_STEP: Final = 500
MOST_UNSAID: Final = 10_000
"""So much that was said while Redis was down is passed on one by one; the rest as "everything is out of date"."""

_EVERYTHING: Final[NewData] = (None, Purge())
_ANNOUNCE: Final = Script("return announce(ARGV[1], ARGV[2])", makes_room=True)
_KEYS: Final = msgspec.msgpack.Decoder(list[bytes])
_NEW_DATA: Final = msgspec.msgpack.Decoder(list[NewData])
_PURGE: Final = msgspec.msgpack.Decoder(tuple[str | None, int | None])


class RedisSharing:
    """The side of a `Link` that the whole process uses, not only its store."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._owes_write = False
        self.tokens = RedisTokens(link)
        self.spending = RedisSpending(link)
        self._unsaid: dict[NewData, None] = {}
        link.on_up.append(self._catch_up)

    def stats(self) -> SharingStats:
        """Return who shares the store, and how Redis is; cheap, never waits."""
        health = self._link.health()
        return SharingStats(
            gateways=tuple(sorted(self._link.peers())),
            up=health.up,
            reason=health.reason,
            silent=tuple(sorted(self._link.neighbours.silent)) if health.up else (),
            trouble=self._link.neighbours.trouble,
            losses=self._link.losses,
            round_trip=health.round_trip,
            used_bytes=health.used_bytes,
            limit_bytes=health.limit_bytes,
            evicts=health.policy not in ("", "noeviction"),
        )

    async def announce_reload(self) -> bool:
        """Notify all others that they load their configuration again; False if they cannot be notified."""
        try:
            await self._link.call(_ANNOUNCE, RELOAD, "")
        except (UnavailableError, RefusedError):
            return False
        return True

    async def announce_new_data(self, said: Sequence[NewData]) -> None:
        """See the protocol; in steps, since each announcement reaches every gateway at once."""
        self._unsaid.update(dict.fromkeys(said))
        await self._catch_up_now()
        if len(self._unsaid) > MOST_UNSAID:
            self._unsaid = {_EVERYTHING: None}

    async def announce_write(self) -> None:
        """See the protocol."""
        self._owes_write = True
        await self._catch_up_now()

    async def _catch_up_now(self) -> None:
        if self._link.up:
            with contextlib.suppress(UnavailableError, RefusedError):
                await self._catch_up()

    async def _catch_up(self) -> None:
        """Say what was not said yet. Raises UnavailableError, RefusedError."""
        if self._owes_write:
            self._owes_write = False
            try:
                await self._link.call(_ANNOUNCE, WRITTEN, "")
            except BaseException:
                self._owes_write = True
                raise
        while some := list(itertools.islice(self._unsaid, _STEP)):
            await self._link.call(_ANNOUNCE, NEW_DATA, msgspec.msgpack.encode(some))
            for said in some:
                self._unsaid.pop(said, None)

    def on_new_data(self, note: Callable[[str | None, Purge], None]) -> None:
        """See the protocol."""

        def hear(payload: bytes) -> None:
            for scope, what in _NEW_DATA.decode(payload):
                note(scope, what)

        self._link.subscribe(NEW_DATA, hear)

    def use(self, address: RedisAddress) -> None:
        """Log in with the password of this address from the next connection on, if it is the same Redis and user."""
        self._link.use(address)

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Call `reload` when another gateway has asked all to load their configuration again."""
        self._link.subscribe(RELOAD, lambda _payload: reload())

    def on_stored(self, stored: Callable[[Sequence[Key] | None], None]) -> None:
        """Call `stored` with the keys under which another gateway has stored results; None: nobody knows which."""
        self._link.seen.on_gap.append(lambda: stored(None))
        self._link.subscribe(STORED, lambda payload: stored(_KEYS.decode(payload)))

    def on_purge(self, purge: Callable[[str | None, int | None], None]) -> None:
        """Call `purge` with scope and query (None: all) of what another gateway has deleted, or may have."""
        self._link.seen.on_gap.append(lambda: purge(None, None))  # a purge may be among what was missed
        self._link.subscribe(PURGED, lambda payload: purge(*_PURGE.decode(payload)))

    def on_write(self, drop: Callable[[], None]) -> None:
        """Call `drop` when somebody has changed something in Redash through another gateway, or may have."""
        self._link.seen.on_gap.append(drop)
        self._link.subscribe(WRITTEN, lambda _payload: drop())
