"""Redash is stopped, hangs, or fails every request: cached dashboards go on, everything else fails soon."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from bench.soak.caller import OUTAGE, Caller
from bench.soak.leftovers import rest
from bench.soak.settings import MAX_WAIT_SECONDS, MOST_REQUESTS
from bench.soak.stage import Stage

KNOWN_AFTER_SECONDS = 5.0
SLOWEST_SECONDS = 0.1
"""The 99th percentile of cached dashboards, from when the outage must be known."""

_EVERY_SECONDS = 0.05
_UNCACHED_EVERY = 20
_BACK_SECONDS = 60.0
_AFTERWARDS_SECONDS = 3.0
_AT_ONCE = 60
_SLACK_SECONDS = 1.0
"""For the machine, which runs Redash, the callers and the gateway."""

_AGES = (1, 3600, 2, None)
_DASHBOARD = ("by_country", "kb1", "kb100", "countries", "now")


@dataclass
class Times:
    """Seconds of the requests of one outage."""

    before: list[float] = field(default_factory=list)
    """Of cached dashboards while the outage need not be known."""
    cached: list[float] = field(default_factory=list)
    uncached: list[float] = field(default_factory=list)
    back: float = 0.0
    at_once: int = 0

    @property
    def p99(self) -> float:
        """Of cached dashboards."""
        return sorted(self.cached)[int(0.99 * len(self.cached))] if self.cached else 0.0


class Outages:
    """One run: every kind of outage, one after the other."""

    def __init__(self, stage: Stage, seed: int, seconds: float, patience: float) -> None:
        """`patience`: limits of time are so many times longer, for a busy machine."""
        self.stage, self.journal = stage, stage.journal
        self._seconds = seconds
        self._patience = patience
        self._value = itertools.count(1)
        self._callers = [Caller(stage, Random(f"{seed} {number}")) for number in range(_AT_ONCE)]
        self._free = list(self._callers)
        self._tasks: set[asyncio.Task[None]] = set()
        self.times: dict[str, Times] = {}

    async def run(self) -> None:
        """Stopped, hung, unhealthy."""
        for kind in ("stopped", "hung", "unhealthy"):
            self.journal.moment = kind
            self.times[kind] = Times()
            await self._fill()
            await self._outage(kind, self.times[kind])
            await rest(self.stage)
        for caller in self._callers:
            caller.close()

    async def _fill(self) -> None:
        caller = self._callers[0]
        for name in _DASHBOARD:
            sent = caller.sent("fill", "dashboard", "stamp", 3600)
            path = f"/api/queries/{self.stage.sandbox.named[name]}/results.json?max_age=3600"
            reply = await caller.send("fill", "dashboard", "GET", path)
            if reply.status != 200:
                caller.find("everything succeeds before the outage", sent, reply)
        await caller.send("fill", "dashboard", "GET", "/api/queries")

    async def _outage(self, kind: str, times: Times) -> None:
        self.stage.begin_weather()
        if kind == "stopped":
            await self.stage.proxy.disconnect()
        elif kind == "hung":
            self.stage.proxy.add("hang")
        else:
            self.stage.sandbox.faults.add("unhealthy")
        await self._load(times)
        self.stage.proxy.most_at_once = 0
        if kind == "stopped":
            await self.stage.proxy.reconnect()
        self.stage.proxy.stop()
        self.stage.sandbox.faults.clear()
        await self._back(times)
        self.stage.end_weather()

    async def _load(self, times: Times) -> None:
        began = time.monotonic()
        for number in itertools.count():
            gone = time.monotonic() - began
            if gone > self._seconds:
                break
            self._begin(partial(self._cached, times, number, gone >= KNOWN_AFTER_SECONDS))
            if number % _UNCACHED_EVERY == 0:
                self._begin(partial(self._uncached, times))
            await asyncio.sleep(_EVERY_SECONDS)

    def _begin(self, work: Callable[[Caller], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._with_caller(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _with_caller(self, work: Callable[[Caller], Awaitable[None]]) -> None:
        caller = self._free.pop() if self._free else Caller(self.stage, Random(0))
        try:
            await work(caller)
        except TimeoutError:
            self.journal.find("every response in time", repr(work))
        except (OSError, EOFError) as error:
            self.journal.find("no connection ends before its response", f"{work}: {error!r}")
        finally:
            self._free.append(caller)

    async def _cached(self, times: Times, number: int, known: bool, caller: Caller) -> None:
        """A page of a dashboard: a result that was stored before, or the list of queries."""
        began = time.monotonic()
        name, max_age = _DASHBOARD[number % len(_DASHBOARD)], _AGES[number % len(_AGES)]
        sent = caller.sent("cached", "dashboard", "stamp", max_age)
        if number % 10 == 9:
            reply = await caller.send("cached", "dashboard", "GET", "/api/queries")
        else:
            body = {} if max_age is None else {"max_age": max_age}
            path = f"/api/queries/{self.stage.sandbox.named[name]}/results"
            reply = await caller.send("cached", "dashboard", "POST", path, body)
        (times.cached if known else times.before).append(time.monotonic() - began)
        if reply.status != 200 or (known and reply.body.startswith(b'{"job"')):
            caller.find("cached dashboards go on", sent, reply)

    async def _uncached(self, times: Times, caller: Caller) -> None:
        sent = caller.sent("uncached", "dashboard", "once", 60, value=next(self._value))
        reply = await caller.execute(sent, wait=int(MAX_WAIT_SECONDS))
        took = time.monotonic() - sent.began
        times.uncached.append(took)
        if took > MAX_WAIT_SECONDS + _SLACK_SECONDS * self._patience:
            caller.find("what is not cached fails within max_wait", sent, f"{took:.1f} s")
        if reply.status not in (200, *OUTAGE):
            caller.find("every other response is a problem", sent, reply)

    async def _back(self, times: Times) -> None:
        """Everybody wants something new at the moment when Redash is back."""
        began = time.monotonic()
        times.back = _BACK_SECONDS
        for _ in range(_AT_ONCE):
            self._begin(partial(self._runs, times, began))
        await asyncio.gather(*self._tasks)
        await asyncio.sleep(_AFTERWARDS_SECONDS)
        times.at_once = self.stage.proxy.most_at_once
        if times.at_once > MOST_REQUESTS:
            self.journal.find("Redash is not overrun", f"{times.at_once} requests at once, {MOST_REQUESTS} allowed")
        if times.back >= _BACK_SECONDS:
            self.journal.find("it is used again when it is back", f"not within {_BACK_SECONDS:g} s")

    async def _runs(self, times: Times, began: float, caller: Caller) -> None:
        sent = caller.sent("back", "dashboard", "once", 60, value=next(self._value))
        while time.monotonic() - began < _BACK_SECONDS:
            reply = await caller.execute(sent, wait=int(MAX_WAIT_SECONDS))
            if reply.status == 200:
                times.back = min(times.back, time.monotonic() - began)
                break
            await asyncio.sleep(_EVERY_SECONDS)

    def judge(self) -> None:
        """Compare the times with what is promised."""
        for kind, times in self.times.items():
            self.journal.moment = kind
            if times.p99 > SLOWEST_SECONDS * self._patience:
                self.journal.find("cached dashboards go on", f"p99 {times.p99 * 1000:.0f} ms")

    def columns(self) -> list[tuple[str, ...]]:
        """Return the lines of the table."""
        rows: list[tuple[str, ...]] = []
        for kind, times in self.times.items():
            cached = [one * 1000 for one in sorted(times.cached)]
            shown = (
                f"p50 {statistics.median(cached):.1f} ms, p99 {times.p99 * 1000:.1f} ms, longest {cached[-1]:.0f} ms"
            )
            before = f"{max(times.before, default=0):.1f} s"
            uncached = f"{max(times.uncached, default=0):.1f} s"
            rows.append((kind, str(len(cached)), shown, before, uncached, f"{times.back:.1f} s", str(times.at_once)))
        return rows
