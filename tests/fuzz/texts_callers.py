"""The attackers: each sends one attack after the other, and judges what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import Final

from .texts_attacks import Attacker
from .texts_connection import BrokenOffError, Connection, NotHttpError, Response
from .texts_drawing import Attack
from .texts_run import Run, Underway

REPLY_SECONDS: Final = 45.0
"""So long an attacker waits for a response: the longest wait of the configuration is much shorter."""

QUIET_SECONDS: Final = 1.0
"""So long where none has to come."""

HOLDS: Final = (0.0, 0.01, 0.3, 2.0)
_IDS: Final = re.compile(rb'"(?:id|query_result_id)": ?"?([0-9a-f-]{36}|[0-9]{1,17})')


class Caller:
    """One attacker, with a connection that it uses as long as it may."""

    def __init__(self, run: Run, attacker: Attacker, name: str, secrets: list[bytes]) -> None:
        self._run = run
        self._attacker = attacker
        self._name = name
        self._secrets = secrets
        self._connection: Connection | None = None
        self._admin = False

    async def attack_until(self, end: float) -> None:
        """Attack until that time (monotonic)."""
        number = 0
        while time.monotonic() < end:
            number += 1
            attack = self._attacker.next()
            name = f"attacker {self._name}, attack {number} ({attack.label})"
            under_way = Underway(name, attack, time.monotonic())
            self._run.recent.append(under_way)
            self._run.labels[attack.label.split(" ")[0]] += 1
            try:
                await self._attack(attack, name)
            except OSError as error:
                self._run.statuses[type(error).__name__] += 1
                self._drop()
            under_way.ended = time.monotonic()
        self._drop()

    def _url(self, attack: Attack) -> str:
        return self._attacker.target.admin if attack.admin else self._attacker.target.api

    async def _attack(self, attack: Attack, name: str) -> None:
        if attack.copies > 1:
            await self._swarm(attack)
            return
        alone = not attack.heads or attack.reading != "all"
        if alone or self._admin != attack.admin:
            self._drop()
        self._admin, fresh = attack.admin, self._connection is None
        connection = self._connection = self._connection or await Connection.open(self._url(attack))
        self._run.requests += max(1, len(attack.heads))
        sending = asyncio.create_task(self._send(connection, attack))
        try:
            if attack.reading in ("nothing", "a part"):
                await self._hold(connection, attack, sending)
            else:
                await self._read(connection, attack, name, fresh=fresh, sending=sending)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if alone:
            self._drop(reset=attack.reading == "a part")

    async def _swarm(self, attack: Attack) -> None:
        """Open many connections, send on each, and hold what was sent for a moment."""
        self._run.requests += attack.copies
        opening = (Connection.open(self._url(attack)) for _ in range(attack.copies))
        opened = [c for c in await asyncio.gather(*opening, return_exceptions=True) if isinstance(c, Connection)]
        sending = [asyncio.create_task(self._send(connection, attack)) for connection in opened]
        if not sending:
            return
        await asyncio.wait(sending, timeout=self._attacker.rng.choice((0.2, 1.0, 3.0)))
        for task, connection in zip(sending, opened, strict=True):
            task.cancel()
            connection.close(reset=True)
        await asyncio.gather(*sending, return_exceptions=True)

    async def _send(self, connection: Connection, attack: Attack) -> bool:
        for number, piece in enumerate(attack.pieces):
            if number and attack.pause:
                await asyncio.sleep(attack.pause)
            if not await connection.send(piece):
                return False
        return True

    async def _hold(self, connection: Connection, attack: Attack, sending: asyncio.Task[bool]) -> None:
        """Read a part of the response, or nothing, and go."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._attacker.rng.choice(HOLDS)):
                await sending
                if attack.reading == "a part":
                    await connection.reader.read(1_000)
                else:
                    await asyncio.sleep(max(HOLDS))

    async def _read(
        self, connection: Connection, attack: Attack, name: str, *, fresh: bool, sending: asyncio.Task[bool]
    ) -> None:
        heads = list(attack.heads) or [attack.sent.startswith(b"HEAD")]
        count = 0
        while not attack.heads or count < len(heads):
            try:
                response = await self._response(connection, attack, head=count < len(heads) and heads[count])
            except BrokenOffError as error:
                first_of_all = count == 0 and fresh and attack.heads != []
                self._broken_off(str(error), attack, name, due=first_of_all and not _refused_early(attack, sending))
                self._drop()
                return
            except NotHttpError as error:
                self._run.find(f"not HTTP: {error}", name, attack.sent)
                self._drop()
                return
            except TimeoutError:
                if attack.heads and attack.reading == "all":
                    self._run.find(f"no response within {REPLY_SECONDS} s", name, attack.sent)
                self._drop()
                return
            count += 1
            self._judge(response, attack, name)
            if response.closes:
                self._drop()
                return

    async def _response(self, connection: Connection, attack: Attack, *, head: bool) -> Response:
        async with asyncio.timeout(REPLY_SECONDS if attack.heads else QUIET_SECONDS):
            return await connection.response(head=head, pause=0.002 if attack.reading == "slowly" else 0.0)

    def _broken_off(self, what: str, attack: Attack, name: str, *, due: bool) -> None:
        """A response may break off only where Redash's did; none at all is wrong for the first whole request."""
        self._run.statuses[what] += 1
        if due and what.endswith("without a response"):
            self._run.find(what, name, attack.sent)

    def _judge(self, response: Response, attack: Attack, name: str) -> None:
        own = response.fields.get("content-type") == "application/problem+json"
        self._run.statuses["500 of Redash" if response.status == 500 and not own else str(response.status)] += 1
        if response.status == 500 and own:
            self._run.find(f"500: {response.body[:500]!r}", name, attack.sent)
        shown = response.body + repr(response.fields).encode()
        for secret in self._secrets:
            if secret in shown and not (secret.startswith(b"rg_") and secret in attack.sent):
                self._run.find(f"a key or token in a response: {shown[:500]!r}", name, attack.sent)
        self._attacker.seen += [found.decode() for found in _IDS.findall(response.body[:500])]
        del self._attacker.seen[:-50]

    def _drop(self, *, reset: bool = False) -> None:
        if self._connection is not None:
            self._connection.close(reset=reset)
        self._connection = None


def _refused_early(attack: Attack, sending: asyncio.Task[bool]) -> bool:
    """Whether a response may have been lost because the gateway closed the connection before it had read all."""
    return not sending.done() or not sending.result() or len(attack.sent) > 100_000
