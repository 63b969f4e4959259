"""The isolation fuzz: many clients, credentials and bindings, while everything else changes, and an oracle.

    PYTHONPATH=tests python -m fuzz.isolation --requests 50000 --seed 1

A real gateway before a sandbox, on real sockets and a clock that is turned. In each step a batch of requests is sent at
once, and something else happens before it, amid it or while a run holds it up. A finding names seed and step; the same
seed repeats the same history (not the interleaving within a step).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import aiohttp
from support.clocks import TurnableClock
from support.http import Reply, send
from support.inside import flights, polling_every, retrying_every
from support.world import SECRETS

from gateway.app.tls import client_context
from gateway.policy.configured import Configured

from .isolation_events import REVOCATIONS, Events
from .isolation_figures import Figures
from .isolation_oracle import Oracle, jobs_in, result_ids
from .isolation_redash import Redash, Timeline
from .isolation_requests import Draw, Memory, Sent, in_form, object_of
from .isolation_setup import DEFINITION_CHECK, MAX_WAIT, RELOADS, Setup, narrow
from .isolation_world import ErrorLog, FuzzWorld

DEADLINE = 15.0
"""Seconds within which every response has to end."""

TURNS = (0, 0, 0, 1, 3, 6, 20, 31, 45, 61, 65, 130, 400, 700, 3700)
MOST_FINDINGS = 10


class Fuzz:
    """One history, from a seed."""

    def __init__(self, seed: int, directory: Path, show: Callable[[str], None]) -> None:
        """`show` is called with each finding at once."""
        self.seed = seed
        self._show = show
        self.clock = TurnableClock()
        self.redash = Redash(self.clock)
        self.world = FuzzWorld(directory, self.redash, self.clock)
        self.setups: Timeline[Setup] = Timeline()
        self.oracle = Oracle(self.redash, self.setups)
        self.memory = Memory()
        self.events = Events(self.redash, self.world)
        self.findings: list[str] = []
        self.figures = Figures()
        self.step = 0
        self._errors = ErrorLog(self.redash)
        self._outage_ends = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Fuzz]:
        """Start sandbox and gateway, and stop them."""
        logging.getLogger("gateway").addHandler(self._errors)
        await self.redash.sandbox.start()
        with polling_every(0.003), retrying_every(0.02):
            await self.world.resume()
            self.setups.add(self.clock.wall(), self.world.setup)
            self._tls = client_context(self.world.settings().upstream)
            try:
                yield self
            finally:
                await self.events.end_outage()
                self.redash.sandbox.release()
                await self.world.stop()
                await self.redash.sandbox.stop()
                logging.getLogger("gateway").removeHandler(self._errors)

    async def play(self, requests: int, most: int) -> None:
        """Send so many requests, unless so much is found before."""
        while self.figures.sent.total() < requests and len(self.findings) < most:
            self.step += 1
            await self.one_step(Random(f"{self.seed}/{self.step}"))

    async def one_step(self, rng: Random) -> None:
        """Let something happen, and send a batch of requests."""
        await self._outage(rng)
        how, batch = rng.random(), self._batch(rng)
        if how < 0.4:
            await self._happen(rng)
            await self._send_all(batch)
        elif how < 0.6:
            await self._send_all(batch, self._amid(rng))
        elif how < 0.75 and not self.redash.outage:
            await self._held(batch, rng)
        elif how < 0.8 and not self.redash.outage:
            await self._revoked_before_an_outage(batch, rng)
        elif how < 0.82 and not self.redash.outage:
            await self._restored(rng)
        elif how < 0.9 and not self.redash.outage:
            await self._repeated(batch[:2], rng)
        else:
            await self._send_all(batch)
        self._note_errors()
        if rng.random() < 0.004:
            self.figures.happened["restart"] += 1
            await self.world.restart()
        self.clock.turn(rng.choice(TURNS))

    async def _send_all(self, batch: list[Sent], *beside: Awaitable[None]) -> None:
        """Send requests at once, and wait until nothing is on its way any more."""
        self.redash.phase += 1
        replies = (await asyncio.gather(*map(self._send, batch), *beside))[: len(batch)]
        await self._settled()
        for sent, reply in zip(batch, replies, strict=True):  # in this order, so that the same seed draws the same
            if reply is not None:
                self._learn(sent, reply)

    def summary(self) -> str:
        """Return the figures of this history."""
        head = f"{self.figures.sent.total()} requests in {self.step} steps, seed {self.seed}"
        runs = f"rows of {len(self.redash.born)} runs"
        return "\n".join([head, *self.figures.lines(), runs, f"findings: {len(self.findings)}"])

    # -- what happens

    async def _happen(self, rng: Random) -> None:
        if rng.random() < 0.35:
            self._reload(rng)
            return
        await self._event(rng)

    async def _amid(self, rng: Random) -> None:
        await asyncio.sleep(rng.choice([0.0, 0.001, 0.003, 0.01]))
        await self._happen(rng)

    async def _held(self, batch: list[Sent], rng: Random) -> None:
        """Something happens while callers wait for runs that do not end."""
        long = rng.random() < 0.15
        if long:  # callers of the GET form are redirected to their run
            draw = Draw(self.redash, self.world.setup, self.memory, rng)
            batch = [*batch, *(in_form(draw.request("get"), "json", max_age=0) for _ in range(4))]
        with self.redash.sandbox.hold():
            waiting = asyncio.create_task(self._send_all(batch))
            await asyncio.sleep(MAX_WAIT + 0.1 if long else 0.03)
            await self._happen(rng)
            self._reload(rng, person=rng.choice(batch).person)
        await waiting

    async def _revoked_before_an_outage(self, batch: list[Sent], rng: Random) -> None:
        """What Redash has refused does not come back when Redash is unavailable, in whatever form it was requested."""
        draw = Draw(self.redash, self.world.setup, self.memory, rng)
        runs = [draw.request("post") for _ in range(6)]
        batch = [*batch, *map(object_of, runs)]
        await self._send_all([*batch, *runs])
        self.events.take_away(rng.choice(runs).query, rng)
        self.clock.turn(DEFINITION_CHECK + 1)
        await self._send_all([*batch[: len(batch) // 2], *runs])
        await self._begin_outage(rng)
        await self._send_all(batch)
        await self.events.end_outage()

    async def _restored(self, rng: Random) -> None:
        """After Redash's database was restored, result ids that the gateway knows are those of other results."""
        draw = Draw(self.redash, self.world.setup, self.memory, rng)
        batch = [in_form(draw.request("get"), "json") for _ in range(6)]
        await self._send_all(batch)
        await self._event(rng, {"set back"})
        await self._send_all([in_form(sent, rng.choice(["csv", "tsv", "xlsx", "ndjson", "html"])) for sent in batch])

    async def _repeated(self, batch: list[Sent], rng: Random) -> None:
        """Responses that are prepared for repeated requests end with the right to them."""
        batch += rng.sample(list(self.memory.hits), min(4, len(self.memory.hits)))
        for _ in range(6):
            await self._send_all(batch)
        if rng.random() < 0.5:
            self._reload(rng, person=rng.choice(batch).person)
        else:
            await self._event(rng, REVOCATIONS)
        await self._send_all(batch)
        self.clock.turn(DEFINITION_CHECK + 1)
        await self._send_all(batch)

    def _reload(self, rng: Random, person: str | None = None) -> None:
        """Change the configuration, most of all what this person may do."""
        if person is not None:
            self.world.setup = narrow(self.world.setup, self.redash, rng, person)
        for change in rng.choices(RELOADS, k=rng.randint(1, 3)):
            self.figures.happened[f"reload: {change.__name__}"] += 1
            self.world.setup = change(self.world.setup, self.redash, rng, self.clock.wall())
        SECRETS.update(self.world.setup.environment().values())
        self.world.runtime.reconfigure(Configured.of(self.world.settings()), self._tls)
        self.setups.add(self.clock.wall(), self.world.setup)

    async def _outage(self, rng: Random) -> None:
        if self.step == self._outage_ends:
            await self.events.end_outage()
        elif self.step > self._outage_ends and rng.random() < 0.04:
            self._outage_ends = self.step + rng.randint(1, 3)
            await self._begin_outage(rng)

    async def _begin_outage(self, rng: Random) -> None:
        self.figures.happened[f"outage: {await self.events.begin_outage(rng)}"] += 1

    async def _event(self, rng: Random, among: Collection[str] = ()) -> None:
        self.figures.happened[await self.events.happen(rng, among)] += 1

    # -- requests

    def _batch(self, rng: Random) -> list[Sent]:
        """Draw requests; some are sent several times at once."""
        draw, batch = Draw(self.redash, self.world.setup, self.memory, rng), []
        for _ in range(rng.randint(4, 16)):
            batch += [draw.request()] * rng.choice([1, 1, 1, 1, 2, 4])
        return batch

    async def _send(self, sent: Sent) -> Reply | None:
        url = self.world.url + sent.target
        started, phase = self.clock.wall(), self.redash.phase
        try:
            async with asyncio.timeout(DEADLINE):
                reply = await send(self.world.session, sent.method, url, sent.body, headers=sent.fields)
        except TimeoutError:
            self._found(sent, None, f"no response within {DEADLINE:.0f} s")
            return None
        except aiohttp.ClientError:  # closed early: its token was removed, or Redash failed amid a large result
            self.figures.sent[sent.kind, "closed"] += 1
            return None
        sent = replace(sent, phase=phase, started=started, ended=self.clock.wall())
        self.figures.count(sent.kind, reply)
        for text in self.oracle.judge(sent, reply):
            self._found(sent, reply, text)
        return reply

    def _learn(self, sent: Sent, reply: Reply) -> None:
        """Remember the ids in a response: all clients try them."""
        self.memory.jobs.extend((job, sent) for job in jobs_in(reply) if not sent.job)
        if "; hit" in reply.cache:
            self.memory.hits.append(sent)
        if reply.status == 200 and reply.headers.get("Content-Type", "").startswith("application/json"):
            self.memory.results.extend(result_ids(reply))

    def _found(self, sent: Sent, reply: Reply | None, text: str) -> None:
        what = f"{reply.status} {reply.cache} {reply.body[:300]!r}" if reply is not None else ""
        self._note(f"{text}\n    {sent.person} ({sent.carrier}) {sent.method} {sent.path} {sent.body!r}\n    {what}")

    def _note(self, text: str) -> None:
        self.findings.append(f"seed {self.seed}, step {self.step}: {text}")
        self._show(self.findings[-1])

    async def _settled(self) -> None:
        """Wait until the gateway reads nothing in the background any more: a step leaves nothing on its way."""
        parts = self.world.runtime.results
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while flights(parts.definitions, parts.metadata, parts.dashboards):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

    def _note_errors(self) -> None:
        for text in self._errors.texts:
            self._note(f"in the gateway's log:\n{text}")
        self._errors.texts.clear()


async def fuzz(
    seed: int, requests: int, *, most: int = MOST_FINDINGS, show: Callable[[str], None] = lambda text: None
) -> Fuzz:
    """Play one history in a directory of its own; it ends early when so much is found."""
    with tempfile.TemporaryDirectory() as directory:
        async with Fuzz(seed, Path(directory), show).running() as made:
            await made.play(requests, most)
        return made


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    made = asyncio.run(fuzz(arguments.seed, arguments.requests, show=partial(print, flush=True)))
    print(f"{made.summary()}\n{time.monotonic() - began:.1f} s")
    return 1 if made.findings else 0


if __name__ == "__main__":
    sys.exit(main())
