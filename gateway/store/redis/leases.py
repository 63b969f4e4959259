"""Leases in Redis: of all gateways that share it, one leads the run of a key, and the others follow it.

What is kept, and who may write it:

- The lease of a key names the run and the process that leads it. It runs out `LIFE_MILLISECONDS` after its owner kept
  it last; the owner does so every `RENEW_SECONDS`. Each lease has a number, higher than that of any lease before, also
  after Redis was emptied (it is at least Redis' time). Validity counts from before the command was sent.
- Only the owner sends a POST, and it makes sure of its lease before each one. A result is written by a script that
  compares the number of the lease; the record of a run is not replaced by one with a lower number. So an owner that was
  paused, and whose lease another gateway has taken meanwhile, changes nothing when it wakes.
- A run is over when its record says so. The lease is given up, or handed to the follow-up, after that. A lease that is
  gone while the record says that the run goes on means that its leader died: who takes it next continues that run. An
  owner whose lease ran out while it was paused takes it again only if its record shows no end, and no later leader.
- A follower's ask says how old the rows may be that its callers need. The leader counts that age from the moment at
  which it hears of the ask, so the clocks of gateways are not compared, and a delay only makes the bound stricter. A
  leader that comes later, or misses the news, learns how long ago it was from two readings of Redis' clock, if that was
  not set in between. `CLOSE` takes the last asks and refuses all later ones in one step; the record then says which
  asks the result serves. All others, also those that were lost, belong to the follow-up.
- The end of a run is announced also if Redis is unavailable at that time: when it is back. Anybody may take the lease
  of a run that has ended.
- While Redis is unavailable each gateway leads alone: its leases have number 0. When it is back they become proper
  ones, if nobody else has them; otherwise they are lost.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from gateway.concurrency.early_exits import EarlyExits
from gateway.model import Clock, Key
from gateway.store.protocols import Claim, Held, LeaseLostError
from gateway.store.redis.asks import Asks
from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.lease_scripts import ASK, CLAIM, CLOSE, END, IS_FREE, LIFE_MILLISECONDS, REOPEN, TELL
from gateway.store.redis.link import Link
from gateway.store.redis.outbox import Outbox
from gateway.store.redis.scripts import Argument, Script
from gateway.store.redis.times import monotonic

RENEW_SECONDS: Final = 2.0
SAFE_SECONDS: Final = LIFE_MILLISECONDS / 2000
"""A lease that was kept more recently than this needs no question before a POST."""

_FAILURES = (UnavailableError, RefusedError)


class RedisLease:
    """See the protocol."""

    def __init__(self, leases: RedisLeases, claim: Claim) -> None:
        self.claim = claim
        self.number = 0
        self.is_lost = False
        self._is_over = False
        self._leases = leases
        self._kept = -math.inf  # when it was kept last (monotonic), counted from before the command
        self._asks = Asks(leases.clock, leases.time, claim.on_need)
        self.needs = self._asks.needs
        self._exits = EarlyExits(LeaseLostError)

    def until_lost(self) -> AbstractAsyncContextManager[None]:
        """See the protocol."""
        return self._exits.offered()

    async def confirm(self) -> None:
        """See the protocol."""
        while not self.is_lost and not self.is_safe:
            if not await self.renew():
                return
        if self.is_lost:
            raise LeaseLostError

    @property
    def is_safe(self) -> bool:
        """See the protocol."""
        return self.number > 0 and self._leases.clock.monotonic() - self._kept < SAFE_SECONDS

    async def renew(self) -> bool:
        """Prolong it, and read the asks; returns whether Redis has answered. Afterwards it may be lost."""
        if self._is_over or self.is_lost:
            return False
        sent, claim, base, read = self._leases.clock.monotonic(), self.claim, *self._asks.place
        place = (base, read, claim.upstream_job(), self.number, "")
        reply = await self._leases.ask_timed(CLAIM, *self._leases.named(claim), "", "inf", 0, *place)
        if reply is None:
            return False
        self.take(sent, read if base == reply[2] else 0, reply)
        return True

    def take(self, sent: float, read: int, reply: list[Any]) -> None:
        """Note what Redis says of it, and the asks after the first `read`."""
        if reply[0] == b"held":
            self.lose()
            return
        self._kept = max(self._kept, sent)
        self.number = int(reply[1])
        base, asks, time = reply[2:]
        self._asks.note(base, asks, time, read, self._leases.clock.monotonic() - sent)

    def hear(self, number: int, age: float) -> None:
        """Note an ask that was made just now."""
        self._asks.hear(number, age)

    def hear_own(self, age: float | None) -> int:
        """Note an ask of this very gateway; return its number."""
        return 0 if age is None else self._asks.hear_own(age)

    def lose(self) -> None:
        """Another gateway has it or had it, or another run."""
        self.is_lost = True
        self._leases.drop(self)
        self._leases.losses += self.number > 0
        self._exits.open()

    async def close(self, *, unless_used: bool = False) -> bool:
        """See the protocol."""
        if self.number == 0:
            return not unless_used
        sent, base, read = self._leases.clock.monotonic(), *self._asks.place
        arguments = (self.number, base, read, int(unless_used), self.claim.upstream_job())
        reply = await self._leases.ask_timed(CLOSE, self.claim.key.hex(), self.claim.execution_id, *arguments)
        if reply is None:
            return not unless_used
        if reply[0] != b"lost":
            self.take(sent, read if base == reply[2] else 0, reply)
            return bool(reply[0] == b"closed")
        if await self.renew() and not self.is_lost:  # it had run out, and nobody has taken it
            return await self.close(unless_used=unless_used)
        if not self.is_lost:
            self.lose()
        raise LeaseLostError

    async def reopen(self) -> None:
        """See the protocol."""
        await self._leases.ask(REOPEN, self.claim.key.hex(), self.number)

    async def end(self, follow_up: str = "", marker: str = "") -> None:
        """See the protocol."""
        await self._give_up("ended", follow_up, marker)

    async def release(self) -> None:
        """See the protocol."""
        await self._give_up("freed", "", "")

    async def _give_up(self, what: str, follow_up: str, marker: str) -> None:
        self._is_over = True
        self._leases.drop(self)
        key, run = self.claim.key.hex(), self.claim.execution_id
        await self._leases.outbox.send(END, key, run, self._leases.owner, what, follow_up, marker)
        self._leases.spread(what, run)


class RedisLeases:
    """See the protocol."""

    for_many = True

    def __init__(self, link: Link, clock: Clock) -> None:
        self.owner = secrets.token_hex(8)
        self.clock = clock
        self.time = link.time
        self.outbox = Outbox(link)
        self.on_news: list[Callable[[str, str, str], None]] = []
        self.losses = 0
        """How many leases were lost to another gateway."""
        self._link = link
        self._leases: dict[str, RedisLease] = {}  # by execution
        self._claimed: dict[str, RedisLease] = {}  # those that are being claimed
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None
        link.subscribe("run", self._heard)
        link.on_up.append(self._catch_up)
        for changes in (link.on_joined, link.on_down, link.seen.on_gap):
            changes.append(lambda: self.spread("unknown", ""))

    @property
    def shared(self) -> bool:
        """See the protocol."""
        return self._link.up

    @property
    def held(self) -> int:
        """Return how many leases this gateway has now."""
        return sum(lease.number > 0 for lease in self._leases.values())

    async def claim(self, claim: Claim) -> RedisLease | Held:
        """See the protocol."""
        current = self._leases.get(claim.execution_id)
        if current is not None:  # another execution of this gateway leads the run
            return Held(claim.execution_id, True, current.hear_own(claim.age))
        if claim.execution_id in self._claimed:
            return Held(claim.execution_id, True)
        lease = RedisLease(self, claim)
        sent = self.clock.monotonic()
        age = "" if claim.age is None else repr(claim.age)
        unused = repr(max(0.0, claim.unused))
        wants = (age, unused, int(claim.by_force), b"0", 0, claim.upstream_job(), 0, claim.over)
        self._claimed[claim.execution_id] = lease  # an ask may be heard of before the reply is
        try:
            reply = await self.ask_timed(CLAIM, *self.named(claim), *wants)
        except asyncio.CancelledError:  # it may have been granted, and would keep others waiting until it runs out
            self._soon(self._undo(claim))
            raise
        finally:
            del self._claimed[claim.execution_id]
        if reply is not None and reply[0] == b"held":
            return Held(reply[1].decode(), reply[2] == 1, int(reply[3]))
        if reply is not None:
            lease.take(sent, 0, reply)
        elif not claim.alone:
            return Held(claim.execution_id, True, is_known=False)
        self._leases[claim.execution_id] = lease
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew_forever())
        return lease

    async def note_ask(self, execution_id: str, age: float) -> int:
        """See the protocol."""
        return int(await self.ask(ASK, execution_id, repr(age), self.owner) or 0)

    async def is_free(self, key: Key) -> bool:
        """See the protocol."""
        return not await self.ask(IS_FREE, key.hex())

    async def announce(self, what: str, execution_id: str, job_id: str = "", *, leaves: bool = False) -> None:
        """See the protocol."""
        news = f"{what} {execution_id} {job_id}".rstrip()
        await self.outbox.send(TELL, self.owner if leaves else "", execution_id, news)

    # -- for the leases

    async def ask(self, script: Script, *arguments: Argument) -> Any:
        """Run a script; None if Redis fails."""
        try:
            return await self._link.call(script, *arguments)
        except _FAILURES:
            return None

    def named(self, claim: Claim) -> tuple[str, str, str, str]:
        """Return how a claim begins: whose it is, and of which key."""
        return claim.key.hex(), claim.execution_id, self.owner, claim.marker

    async def ask_timed(self, script: Script, *arguments: Argument) -> Any:
        """Run a script that ends its reply with Redis' time, if the lease is ours."""
        sent = monotonic()
        reply = await self.ask(script, *arguments)
        if reply is not None and len(reply) == 5:
            self.time.measure(reply[-1] / 1e6, sent, monotonic())
        return reply

    def drop(self, lease: RedisLease) -> None:
        """Keep it no longer."""
        if self._leases.get(lease.claim.execution_id) is lease:
            del self._leases[lease.claim.execution_id]

    def spread(self, what: str, execution_id: str, job_id: str = "") -> None:
        """Tell the listeners of this gateway."""
        for notify in self.on_news:
            notify(what, execution_id, job_id)

    # -- inside

    def _heard(self, payload: bytes) -> None:
        what, execution_id, *more = payload.decode().split(" ")
        if what != "asked":
            self.spread(what, execution_id, *more)
        elif (lease := self._leases.get(execution_id) or self._claimed.get(execution_id)) is not None:
            lease.hear(int(more[0]), float(more[1]))

    async def _renew_forever(self) -> None:
        while self._leases:
            await asyncio.sleep(RENEW_SECONDS)
            await self._renew_all()
        self._renewing = None

    async def _renew_all(self) -> None:
        await asyncio.gather(*(lease.renew() for lease in list(self._leases.values())))

    async def _catch_up(self) -> None:
        await self._renew_all()
        await self.outbox.catch_up()

    async def _undo(self, claim: Claim) -> None:
        lease = RedisLease(self, claim)
        if await lease.renew() and not lease.is_lost:
            await lease.release()

    def _soon(self, work: Awaitable[object]) -> None:
        async def do() -> None:
            await work

        task = asyncio.create_task(do())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
