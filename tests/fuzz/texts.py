"""A fuzz over requests with adversarial text: does anything stop the gateway for long, fill its memory, or break it?

    PYTHONPATH=tests python -m fuzz.texts --seconds 3600 --seed 1

It runs the real gateway and a hostile Redash as processes. Attackers send whatever hurts, while a polite caller asks for
/ping all the time. Every finding is printed with the bytes of the request; `--replay FILE` sends such bytes again.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .attacks import Attack, Attacker
from .connection import BrokenOffError, Connection, NotHttpError, Response
from .processes import TOKENS, Bounds, Stage

MB: Final = 10**6
SLOW_SECONDS: Final = 0.5
"""Nobody may wait longer for /ping, whatever others send."""

REPLY_SECONDS: Final = 45.0
"""So long an attacker waits for a response: the longest wait of the configuration is much shorter."""

MOST_FINDINGS: Final = 200
SHOWN_BYTES: Final = 300


@dataclass
class Finding:
    """Something that must not happen."""

    what: str
    where: str
    sent: bytes = b""


@dataclass
class Underway:
    """An attack and when it was made; what was under way during a slow ping is suspect."""

    name: str
    attack: Attack
    began: float
    ended: float = float("inf")


@dataclass
class Run:
    """What one run has seen so far."""

    seed: int
    directory: Path
    findings: list[Finding] = field(default_factory=list)
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    recent: collections.deque[Underway] = field(default_factory=lambda: collections.deque(maxlen=4_000))
    slowest: dict[str, tuple[float, ...]] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)
    """The slowest of each, without the time for which a thread of the gateway was ready but had no CPU."""
    starved: int = 0
    """Pings slower than the limit only because the machine gave the gateway no CPU."""
    asked: dict[str, int] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def find(self, what: str, where: str = "", sent: bytes = b"") -> None:
        """Note a finding and print it, with its bytes in a file where they are many."""
        if len(self.findings) >= MOST_FINDINGS:
            return
        self.findings.append(Finding(what, where, sent))
        print(
            f"FINDING {len(self.findings)} after {time.monotonic() - self.began:.1f} s, seed {self.seed}, {where}: {what[:2_000]}"
        )
        if sent:
            file = self.directory / f"finding-{len(self.findings)}.bin"
            file.write_bytes(sent)
            print(f"  {len(sent)} bytes in {file}: {sent[:SHOWN_BYTES]!r}")
        sys.stdout.flush()


class Caller:
    """One attacker, with a connection that it uses as long as it may."""

    def __init__(self, run: Run, attacker: Attacker, name: str, secrets: list[bytes]) -> None:
        self._run = run
        self._attacker = attacker
        self._name = name
        self._secrets = secrets
        self._connection: Connection | None = None
        self._used = 0
        self._admin = False

    async def attack_until(self, end: float) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            attack = self._attacker.next()
            under_way = Underway(f"attacker {self._name}, attack {number} ({attack.label})", attack, time.monotonic())
            self._run.recent.append(under_way)
            self._run.labels[attack.label.split(" ")[0]] += 1
            try:
                await self._attack(attack, under_way.name)
            except OSError as error:
                self._run.statuses[type(error).__name__] += 1
                self._drop()
            under_way.ended = time.monotonic()

    async def _swarm(self, attack: Attack) -> None:
        """Open many connections, send on each, and hold what was sent for a moment."""
        self._run.requests += attack.copies
        opened = await asyncio.gather(*(Connection.open(self._attacker.target.api) for _ in range(attack.copies)))
        sending = [asyncio.create_task(self._send(connection, attack)) for connection in opened]
        await asyncio.wait(sending, timeout=self._attacker.rng.choice((0.2, 1.0, 3.0)))
        for task, connection in zip(sending, opened, strict=True):
            task.cancel()
            connection.close(reset=True)
        await asyncio.gather(*sending, return_exceptions=True)

    async def _attack(self, attack: Attack, name: str) -> None:
        if attack.copies > 1:
            await self._swarm(attack)
            return
        if self._admin != attack.admin or not attack.heads or attack.reading != "all":
            self._drop()
        self._admin = attack.admin
        fresh = self._connection is None
        connection = self._connection = self._connection or await Connection.open(
            self._attacker.target.admin if attack.admin else self._attacker.target.api
        )
        self._run.requests += max(1, len(attack.heads))
        sending = asyncio.create_task(self._send(connection, attack))
        try:
            await self._read(connection, attack, name, fresh=fresh, sending=sending)
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
        if not attack.heads or attack.reading != "all":
            self._drop(reset=attack.reading == "a part")

    async def _send(self, connection: Connection, attack: Attack) -> bool:
        for number, piece in enumerate(attack.pieces):
            if number and attack.pause:
                await asyncio.sleep(attack.pause)
            if not await connection.send(piece):
                return False
        return True

    async def _read(
        self, connection: Connection, attack: Attack, name: str, *, fresh: bool, sending: asyncio.Task[bool]
    ) -> None:
        if attack.reading in ("nothing", "a part"):
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._attacker.rng.choice((0.0, 0.01, 0.3, 2.0))):
                    await sending
                    if attack.reading == "a part":
                        await connection.reader.read(1_000)
                    else:
                        await asyncio.sleep(2.0)
            return
        heads = attack.heads or [attack.sent.startswith(b"HEAD")]
        pause = 0.002 if attack.reading == "slowly" else 0.0
        count = 0
        while attack.heads == [] or count < len(heads):
            head = heads[count] if count < len(heads) else False
            try:
                async with asyncio.timeout(REPLY_SECONDS if attack.heads else 1.0):
                    response = await connection.response(head=head, pause=pause)
            except TimeoutError:
                if attack.heads and pause == 0.0:
                    self._run.find(f"no response within {REPLY_SECONDS} s", name, attack.sent)
                return self._drop()
            except BrokenOffError as error:
                self._broken_off(str(error), attack, name, first=count == 0, fresh=fresh, sending=sending)
                return self._drop()
            except NotHttpError as error:
                self._run.find(f"not HTTP: {error}", name, attack.sent)
                return self._drop()
            count += 1
            self._judge(response, attack, name)
            if response.closes:
                return self._drop()
        return None

    def _broken_off(
        self, what: str, attack: Attack, name: str, *, first: bool, fresh: bool, sending: asyncio.Task[bool]
    ) -> None:
        """A response may break off only where Redash's did; none at all is wrong for the first whole request."""
        self._run.statuses[what] += 1
        refused_early = not sending.done() or not sending.result() or len(attack.sent) > 100_000
        if what.endswith("without a response") and first and fresh and attack.heads and not refused_early:
            self._run.find(what, name, attack.sent)

    def _judge(self, response: Response, attack: Attack, name: str) -> None:
        self._run.statuses[str(response.status)] += 1
        if response.status == 500:
            if response.fields.get("content-type") == "application/problem+json":
                self._run.find(f"500: {response.body[:500]!r}", name, attack.sent)
            else:
                self._run.statuses["500 of Redash"] += 1
        text = response.body + repr(response.fields).encode()
        for secret in self._secrets:
            if secret in text and not (secret.startswith(b"rg_") and secret in attack.sent):
                self._run.find(f"a key or token in a response: {text[:500]!r}", name, attack.sent)
        for found in re.findall(rb'"(?:id|query_result_id)": ?"?([0-9a-f-]{36}|[0-9]{1,17})', response.body[:500]):
            self._attacker.seen.append(found.decode())
        del self._attacker.seen[:-50]

    def _drop(self, *, reset: bool = False) -> None:
        if self._connection is not None:
            self._connection.close(reset=reset)
        self._connection = None


async def watch_memory(run: Run, stage: Stage) -> None:
    """Measure the gateway's memory every second; note it if the process is gone."""
    while True:
        if not stage.gateway.running:
            run.find("the gateway has ended", "memory")
            return
        run.memory.append((time.monotonic() - run.began, stage.gateway.resident_bytes()))
        if len(run.memory) % 60 == 0:
            print(
                f"{run.memory[-1][0]:6.0f} s  {run.memory[-1][1] / MB:6.1f} MB  {run.requests} requests  {_slowest(run)}",
                flush=True,
            )
        await asyncio.sleep(1.0)


async def watch_pings(run: Run, stage: Stage) -> None:
    """Read what the polite caller measures."""
    child = await stage.polite()
    assert child.process.stdout is not None
    while line := await child.process.stdout.readline():
        second = json.loads(line)
        run.asked = second["count"]
        for name, times in second["slowest"].items():
            note_ping(run, name, times)


def note_ping(run: Run, name: str, times: tuple[float, ...]) -> None:
    """Judge the slowest ping of a second: was it the gateway, or had the machine no CPU for it?"""
    seconds, began, ended, ran, waited = times
    if seconds > run.slowest.get(name, (0.0,))[0]:
        run.slowest[name] = times
    own = max(0.0, seconds - waited)
    run.own[name] = max(run.own.get(name, 0.0), own)
    if seconds < SLOW_SECONDS or name not in ("ping", "livez"):
        return  # a hit may have to wait for Redash, which shows whether it is still allowed
    if own < SLOW_SECONDS:
        run.starved += 1
        return
    suspects = [u for u in run.recent if u.began < ended and u.ended > began - 0.05]
    suspects.sort(key=lambda u: -len(u.attack.sent))
    listed = "; ".join(f"{u.name} {len(u.attack.sent)} bytes from {u.began - began:+.2f} s" for u in suspects[:12])
    run.find(
        f"{name} took {seconds:.2f} s, {own:.2f} s of them not for want of a CPU ({ran:.2f} s of CPU were used). Under way: {listed}",
        "polite caller",
    )
    if seconds > 2 * SLOW_SECONDS:
        for u in suspects[:6]:
            print(f"    {u.name}: {u.attack.sent[:300]!r}", flush=True)


def judge_log(run: Run, stage: Stage) -> None:
    """Look for errors, tracebacks, keys and tokens in what the gateway has logged."""
    secrets = [*stage.keys, *TOKENS.values()]
    with stage.gateway.log.open(errors="replace") as lines:
        for line in lines:
            if any(secret in line for secret in secrets):
                run.find(f"a key or token in the log: {line[:1_000]}", "log")
            if '"level": "error"' in line or "Traceback" in line or '"level": "critical"' in line:
                run.find(f"an error in the log: {line[:3_000]}", "log")


def bound(run: Run, bounds: Bounds, base: int) -> dict[str, float]:
    """Return what the gateway may take, in MB, by what for."""
    memory = bounds.memory
    return {
        "at the start": base / MB,
        "modules and threads that are loaded with the first requests": 40.0,
        "cache.memory: the cache": memory,
        "a quarter of it: prepared responses": memory / 4,
        "as much: bodies of requests in progress": memory,
        "a quarter: definitions of queries": memory / 4,
        "as much: runs in progress": memory,
        "fixed: cached lists and objects": 32.0,
        "fixed: parsed operations": 8.0,
        "fixed: recent failures": 16.0,
        "fixed: recent jobs, and jobs, runs and result ids of the ledger": 64.0,
        "fixed: queues of the store's writers": 96.0,
    }


def judge_memory(run: Run, limit: float) -> None:
    """Compare the memory with its bound, and the last quarter with the one before."""
    taken = [size for _, size in run.memory]
    quarter = len(taken) // 4
    last = statistics.median(taken[-quarter:]) if quarter else taken[-1]
    before = statistics.median(taken[-2 * quarter : -quarter]) if quarter else taken[-1]
    if last > limit * MB:
        run.find(f"{last / MB:.1f} MB at the end; the bound is {limit:.1f} MB", "memory")
    if len(taken) >= 600 and last > before * 1.05 + 2 * MB:
        run.find(f"still growing: {before / MB:.1f} MB in the third quarter, {last / MB:.1f} MB in the last", "memory")


def _slowest(run: Run) -> str:
    return ", ".join(
        f"{name} {times[0] * 1000:.0f} ms (own {run.own[name] * 1000:.0f})"
        for name, times in sorted(run.slowest.items())
    )


def report(run: Run, stage: Stage, limits: dict[str, float], peak: int) -> None:
    """Print the figures."""
    print(f"\n{run.requests} requests in {time.monotonic() - run.began:.0f} s; kinds: {dict(run.labels.most_common())}")
    print(f"responses: {dict(run.statuses.most_common())}")
    print(f"polite caller: {run.asked}; slowest: {_slowest(run)}; slow for want of a CPU: {run.starved}")
    taken = [size / MB for _, size in run.memory]
    marks = [taken[len(taken) * n // 8] for n in range(8)] if taken else []
    print(
        f"memory of the gateway: {limits['at the start']:.1f} MB at the start, peak {peak / MB:.1f} MB, now {taken[-1]:.1f} MB; by eighths: {', '.join(f'{m:.0f}' for m in marks)}"
    )
    print(
        f"bound: {sum(limits.values()):.1f} MB = " + " + ".join(f"{size:.0f} ({what})" for what, size in limits.items())
    )
    print(f"{len(run.findings)} findings")


async def fuzz(seconds: float, seed: int, directory: Path, *, callers: int = 12, bounds: Bounds = Bounds()) -> Run:
    """Run for some seconds; returns what was found."""
    async with Stage(directory, bounds) as stage:
        base = stage.gateway.resident_bytes()
        run = Run(seed, directory)
        secrets = [secret.encode() for secret in (*stage.keys, *TOKENS.values())]
        watching = [asyncio.create_task(watch_memory(run, stage)), asyncio.create_task(watch_pings(run, stage))]
        attackers = [Attacker(stage.target, random.Random(f"{seed}/{n}")) for n in range(callers)]
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number, attacker in enumerate(attackers):
                group.create_task(Caller(run, attacker, str(number), secrets).attack_until(end))
        for task in watching:
            if task.done() and task.exception() is not None:
                run.find(f"watching failed: {task.exception()!r}")
            task.cancel()
        limits = bound(run, bounds, base)
        judge_memory(run, sum(limits.values()))
        peak = stage.gateway.peak_bytes()
        status = await stage.gateway.stop(seconds=60)
        if status != 0:
            run.find(f"the gateway ended with status {status}", "stop")
        judge_log(run, stage)
        report(run, stage, limits, peak)
    return run


async def replay(file: Path, directory: Path, times: int, *, admin: bool) -> None:
    """Send the bytes of a finding to a fresh gateway and print what comes back."""
    async with Stage(directory, Bounds()) as stage:
        for _ in range(times):
            began = time.monotonic()
            connection = await Connection.open(stage.target.admin if admin else stage.target.api)
            await connection.send(file.read_bytes())
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    response = await connection.response(head=False)
                    print(response.status, response.fields, response.body[:500])
            except (BrokenOffError, NotHttpError, TimeoutError) as error:
                print(repr(error))
            print(f"{time.monotonic() - began:.3f} s, {stage.gateway.resident_bytes() / MB:.1f} MB")
            connection.close()
        await stage.gateway.stop()
        print(stage.gateway.log.read_text(errors="replace")[-5_000:])


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.texts", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--callers", type=int, default=12)
    parser.add_argument("--directory", type=Path, help="for logs, the cache and findings; default: a temporary one")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="send these bytes instead")
    parser.add_argument("--times", type=int, default=3, help="how often to send them")
    parser.add_argument("--admin", action="store_true", help="to the admin listener")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="gateway-fuzz-"))
    directory.mkdir(parents=True, exist_ok=True)
    if arguments.replay:
        asyncio.run(replay(arguments.replay, directory, arguments.times, admin=arguments.admin))
        return 0
    run = asyncio.run(fuzz(arguments.seconds, arguments.seed, directory, callers=arguments.callers))
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
