"""kill -9 at random moments under load, and a restart each time: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
import time
from random import Random

from support.http import Reply

from bench.soak import stored
from bench.soak.caller import Caller, Sent
from bench.soak.housekeeping import housekeeping
from bench.soak.kinds import MIXED, edits, visits
from bench.soak.leftovers import disk_mb, rest
from bench.soak.load import Load
from bench.soak.settings import DISK_MB
from bench.soak.stage import Stage

LONGEST_SECONDS = 1.5
"""Between a start and the next kill."""

REST_SECONDS = 10.0
WHILE_STARTING = 0.15
"""So many of the processes are killed while they start."""

_START_SECONDS = 0.8
_TRIES = 20
_AGES = (60, 600, 3600)


class Once:
    """Runs that no other caller wants: each value is requested until it has its result, across any number of kills."""

    def __init__(self) -> None:
        self.values = 0

    async def run(self, caller: Caller) -> bool:
        """POST with a new value; if a kill cuts that off, POST it again, as a person would."""
        self.values += 1
        sent = caller.sent("once", "dashboard", "once", caller.chance.choice(_AGES), value=self.values)
        reply = await self._posted(caller, sent)
        if caller.is_outage(sent, reply):
            return False
        if reply.body.startswith(b'{"job"'):
            return await caller.follow(sent, reply, waits=True)
        caller.judge(sent, reply)
        return True

    async def _posted(self, caller: Caller, sent: Sent) -> Reply:
        for _ in range(_TRIES):
            began = time.monotonic()
            try:
                return await caller.execute(sent)
            except TimeoutError:
                raise
            except (OSError, EOFError):
                if not caller.stage.was_killed_since(began):
                    raise
        raise ConnectionError("killed too often")


class Kills:
    """One run."""

    def __init__(self, stage: Stage, seed: int, count: int) -> None:
        self.stage, self.journal = stage, stage.journal
        self._chance = Random(f"{seed} kills")
        self._seed, self._count = seed, count
        self._once = Once()
        kinds = {kind: weight for kind, weight in MIXED.items() if kind is not visits}
        self._load = Load(stage, seed, {**kinds, self._once.run: 12})
        self._editor = Load(stage, seed + 1, {edits: 1}, callers=1)

    async def run(self) -> None:
        """Kill so often; then rest, and look at everything that was promised."""
        async with housekeeping(self.stage):
            self._load.resume()
            for number in range(self._count):
                self.journal.moment = f"seed {self._seed}, kill {number + 1}"
                await self._once_more()
            await self._load.pause()
            await rest(self.stage)
            await asyncio.sleep(REST_SECONDS)
            await self._check()
        await self._load.stop()
        await self._editor.stop()
        await self.stage.stop()
        await stored.check(self.stage)

    async def _once_more(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, LONGEST_SECONDS))
        if self._chance.random() < 0.2:
            with self.stage.dropping():
                await self._editor.act(self._editor.callers[0], edits)
        again = self._chance.uniform(0, _START_SECONDS) if self._chance.random() < WHILE_STARTING else None
        await self.stage.kill(again_after=again)

    async def _check(self) -> None:
        used = await asyncio.to_thread(disk_mb, self.stage.store)
        self.journal.peaks["disk at rest"] = used
        if used > DISK_MB:
            self.journal.find("disk within its bound", f"{used:.1f} MB after {REST_SECONDS:g} s of rest")
        self._count_runs()
        for caller in self._load.callers:
            await self._read_jobs(caller)

    def _count_runs(self) -> None:
        made, now = self.stage.queries.made, time.monotonic() - time.time()
        for value in range(1, self._once.values + 1):
            runs = made.runs_of.get(self.stage.queries.sql("once", value), [])
            self.journal.figures["runs that must not run twice"] += bool(runs)
            if len(runs) > 1:
                ends = [made.by_run[run].ended + now for run in runs]
                near = [f"{kill:.2f}" for kill in self.stage.killed if ends[0] - 3 < kill < ends[-1] + 3]
                shown = ", ".join(f"{end:.2f}" for end in ends)
                self.journal.find("no run twice", f"value {value}: runs ended at {shown}; kills and starts at {near}")

    async def _read_jobs(self, caller: Caller) -> None:
        """Every job id that any caller was given is good: it has ended, and leads to its result."""
        for sent, job_id in caller.jobs:
            reply = await caller.send("jobs of all processes", sent.client, "GET", f"/api/jobs/{job_id}", wait=2)
            if reply.status != 200 or reply.job["status"] not in (3, 4):
                caller.find("every job id is good", sent, reply)
            self.journal.figures["job ids read at the end"] += 1
