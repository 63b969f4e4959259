"""The way to Redis: commands with a time limit, announcements, and whether it is there. Knows nothing that is stored.

Silence opens the breaker at once and for everybody: then each gateway works alone, until a probe in the background has
found Redis again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import StoreError
from gateway.model import Clock
from gateway.store.background import run_forever
from gateway.store.redis.failures import DeniedError, NoScriptError, RefusedError, UnavailableError
from gateway.store.redis.heartbeat import BEAT, JOIN
from gateway.store.redis.neighbours import LATE_SECONDS, LISTED_SECONDS, Neighbours
from gateway.store.redis.reports import Health, Reports
from gateway.store.redis.rights import COMMANDS, RIGHTS, explained, foreign, without
from gateway.store.redis.scripts import FORMAT, Argument, Script
from gateway.store.redis.sequence import Sequence as Seen
from gateway.store.redis.sequence import parse
from gateway.store.redis.server import CONNECT_SECONDS, Facts, RedisOptions, Server, facts_of, parse_info
from gateway.store.redis.session import Session
from gateway.store.redis.times import SharedTime, monotonic
from gateway.store.redis.wire import Command

log = logging.getLogger(__name__)

BEAT_SECONDS: Final = 0.25
"""How often Redis is asked for the number of the last announcement; and how often it is probed while it is down."""

SETTLE_SECONDS: Final = 1.0
"""So soon after a loss a request may wait for Redis, and for what other gateways write when it is back."""

GOOD_SECONDS: Final = 1.0
"""For so long after such a question memory may serve without another one."""

JOIN_SECONDS: Final = 10.0
"""To pass on what Redis has missed; each of its commands has a limit of its own."""

BEHIND_BEATS: Final = 4
HEALTH_BEATS: Final = 8
RIGHTS_BEATS: Final = 15 * HEALTH_BEATS  # else the loss of a right that is not in use would not be noticed


class Link:
    """Shared by everything that stands in Redis.

    `on_up` is awaited before `up` becomes true; calls work there already. `on_joined` is called at once when it has
    become true, `on_down` when it has become false.
    """

    def __init__(self, options: RedisOptions, clock: Clock) -> None:
        self.origin = secrets.token_hex(8)
        """This process, in announcements."""
        self.name = options.name or self.origin
        self.neighbours = Neighbours(self.name, options.upstream_url, self.origin)
        self.base = f"{options.prefix}:{FORMAT}:"
        self.time = SharedTime(clock)
        self.seen = Seen()
        self.on_up: list[Callable[[], Awaitable[None]]] = []
        self.on_joined: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.good_until = math.inf
        """Until then (`time.monotonic()`) memory may serve; always while Redis is down."""
        self.usable = asyncio.Event()
        self.settled_at = -math.inf
        """Until then (`times.monotonic()`) what Redis does not say may still come: it was lost just before."""
        self._options = options
        self._server = Server(options)
        self.use = self._server.use
        self._subscribers: dict[str, list[Callable[[bytes], None]]] = {}
        self.gateways = 1  # all that take from the same rates and budgets, as last known, also while Redis is down
        self.losses = 0  # how often Redis was lost since the start
        self._session: Session | None = None
        self._wake = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._health = Health(up=False, reason="not opened")
        self._counts = (0, 0)  # how many were listed, and there, at the last look
        self._beats = self._behind = 0
        self._reports = Reports(str(options.address))

    # -- for those who use it

    @property
    def up(self) -> bool:
        """Whether Redis is there; if not, go on without it."""
        return self.usable.is_set()

    async def call(self, script: Script, *arguments: Argument) -> Any:
        """Run a script; byte strings come back as bytes, whole numbers as int.

        Raises:
            UnavailableError: Redis is down, or did not answer in time; then nobody waits for it any more.
            FullError, RefusedError: it answered with an error.
        """
        try:
            return await self.command("EVALSHA", script.sha, 1, self.base, *arguments, self.origin)
        except NoScriptError:
            return await self.command("EVAL", script.text, 1, self.base, *arguments, self.origin)

    async def command(self, *command: Argument) -> Any:
        """Send one command, with full keys (`base` and more). Raises as `call`."""
        if self._session is None:
            raise UnavailableError("down")
        return await self._session.ask(command)

    async def transfer(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands that carry much, on a connection of their own; return their replies. Raises as `call`."""
        if self._session is None:
            raise UnavailableError("down")
        return await self._session.transfer(commands)

    def subscribe(self, kind: str, callback: Callable[[bytes], None]) -> None:
        """Call `callback` with the payload of each announcement of that kind that another process makes."""
        self._subscribers.setdefault(kind, []).append(callback)

    def peers(self) -> list[tuple[str, float]]:
        """Return the names of those that share results, this one included, and how many seconds ago each was seen."""
        return self.neighbours.present if self.up else []

    def health(self) -> Health:
        """Return how Redis is, as of the last seconds."""
        return msgspec.structs.replace(self._health, up=self.up)

    # -- opening and closing

    async def open(self) -> None:
        """Connect. A Redis that is not reachable is looked for in the background.

        Raises:
            StoreError: the operator must act.
        """
        try:
            await self._join(self.seen.begin)
        except StoreError as error:
            raise StoreError(explained(str(error), self._options)) from None
        except (DeniedError, RefusedError) as error:
            raise StoreError(f"{self._server.address} cannot be used: {explained(str(error), self._options)}") from None
        except UnavailableError as error:
            self._down(str(error))
        self._keeper = asyncio.create_task(run_forever(self._maintain))

    async def close(self) -> None:
        """Leave. May be called twice."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        session, self._session = self._session, None
        self.usable.clear()
        if session is not None:
            with contextlib.suppress(UnavailableError, RefusedError):
                await session.ask(("ZREM", self.base + "peers", self.neighbours.member))
            self._close_later(session)
        if self._closing:
            await asyncio.wait(self._closing)

    # -- inside

    async def _maintain(self) -> None:
        self._wake.clear()
        session = self._session
        try:
            if session is None:
                await self._join(self.seen.reset)
                self._reports.back()
            else:
                await self._beat(session)
        except (UnavailableError, RefusedError, StoreError, ValueError, TypeError, AttributeError) as error:
            if not isinstance(error, (UnavailableError, StoreError)):  # a reply of another kind or shape
                error = RefusedError(f"{error}; {foreign(self._options)}")
            if session is not None:
                session.end(str(error))
            self._down(str(error), is_cause=isinstance(error, (DeniedError, StoreError)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await self._wake.wait()

    async def _join(self, go_on: Callable[[str, int], None]) -> None:
        connections, facts = await self._server.connect(3)
        session = self._session = Session(connections, self.base + "news", self._heard, self._lost)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._check_rights()
                await session.subscribe()
            async with asyncio.timeout(JOIN_SECONDS):
                sent = monotonic()
                epoch, number, now, gateways = await self.call(JOIN, facts.run_id, self.neighbours.member)
                self.gateways = max(self.gateways, gateways)  # a Redis that was emptied knows nobody yet
                self.time.measure(now / 1e6, sent, monotonic())
                session.epoch = epoch.decode()
                go_on(session.epoch, number)
                for step in self.on_up:
                    await step()
        except BaseException as error:
            session.end(str(error) or "it is too slow")
            if isinstance(error, TimeoutError):
                raise UnavailableError("it is too slow") from None
            raise
        self._looked(facts)
        self._beats = self._behind = 0
        self.good_until = sent + GOOD_SECONDS
        if self._session is session:
            self.usable.set()
            for notify in self.on_joined:
                notify()

    async def _check_rights(self) -> None:
        if missing := await self.call(RIGHTS, *COMMANDS):
            raise DeniedError(without(missing, self._options))

    async def _beat(self, session: Session) -> None:
        sent = monotonic()
        reply = await self.call(BEAT, self.neighbours.member, LISTED_SECONDS, LATE_SECONDS)
        epoch, number, now, self.gateways, present = reply
        received = monotonic()
        self.time.measure(now / 1e6, sent, received)
        if epoch.decode() != session.epoch:
            session.end("it was emptied, or its clock was set back")
        elif self.seen.has_reached(session.epoch, number):
            self.good_until, self._behind = sent + GOOD_SECONDS, 0
        else:
            self._behind += 1
            if self._behind > BEHIND_BEATS:
                session.end("its announcements do not arrive")
        self._health = msgspec.structs.replace(self._health, round_trip=received - sent)
        if self._beats % HEALTH_BEATS == 0 or self._counts != (self.gateways, present):
            self._counts = self.gateways, present
            await self._look_around(now)
        self._beats += 1

    async def _look_around(self, now: int) -> None:
        self._looked(facts_of(parse_info(await self.command("INFO", "memory"))))
        if self._beats % RIGHTS_BEATS == RIGHTS_BEATS - HEALTH_BEATS:
            await self._check_rights()
        await self.neighbours.read(self.command, self.base + "peers", now / 1e6)
        await self.transfer([("PING",)])  # servers close connections that are idle

    def _looked(self, facts: Facts) -> None:
        self._health = Health(True, self._health.round_trip, facts.used_bytes, facts.limit_bytes, facts.policy)
        self._reports.looked(facts)

    def _heard(self, message: bytes) -> None:
        announcement = parse(message)
        if announcement is None or not self.seen.advance(announcement.epoch, announcement.number):
            return
        if announcement.origin != self.origin:
            for callback in self._subscribers.get(announcement.kind, ()):
                try:
                    callback(announcement.payload)
                except Exception:  # whatever it is, the next announcements must be heard
                    log.exception("an announcement could not be followed")

    def _lost(self, session: Session, reason: str) -> None:
        self._close_later(session)
        if session is self._session:
            self._session = None
            self._down(reason)

    def _down(self, reason: str, *, is_cause: bool = False) -> None:
        """`is_cause`: somebody has to act."""
        reason = explained(reason.removeprefix(f"{self._server.address} cannot be used: "), self._options)
        self.good_until = math.inf
        was_up = self.up
        self.usable.clear()
        self._reports.lost(reason, is_cause=is_cause)
        self._health = Health(up=False, reason=reason)
        if was_up:
            self.losses += 1
            self.settled_at = monotonic() + SETTLE_SECONDS
            self._wake.set()
            for notify in self.on_down:
                notify()

    def _close_later(self, session: Session) -> None:
        task = asyncio.create_task(session.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
