"""A fuzz over requests with adversarial text: does anything stop the gateway, fill its memory, or break it?

    PYTHONPATH=tests python -m fuzz.texts --seconds 3600 --seed 1

It runs the real gateway and a hostile Redash as processes. Attackers send whatever hurts, while a polite caller asks
for /ping all the time. Every finding is printed with the bytes of the request; `--replay FILE` sends such bytes again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from .texts_attacks import Attacker
from .texts_callers import REPLY_SECONDS, Caller
from .texts_connection import BrokenOffError, Connection, NotHttpError
from .texts_processes import Bounds, Stage
from .texts_run import MB, Ping, Run

SLOW_SECONDS: Final = 0.5
"""Nobody may wait longer for /ping, whatever others send."""

STOP_SECONDS: Final = 60.0
PLAIN: Final = Bounds()


async def fuzz(seconds: float, seed: int, directory: Path, *, callers: int, slow_seconds: float = SLOW_SECONDS) -> Run:
    """Run for some seconds; returns what was found."""
    async with Stage(directory, PLAIN) as stage:
        run = Run(seed, directory, slow_seconds)
        base = stage.gateway.resident_bytes()
        secrets = [secret.encode() for secret in stage.secrets]
        watching = [asyncio.create_task(watch(run, stage)) for watch in (watch_memory, watch_pings)]
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                attacker = Attacker(stage.target, random.Random(f"{seed}/{number}"))
                group.create_task(Caller(run, attacker, str(number), secrets).attack_until(end))
        await _stop(watching, run)
        limits = stage.bounds.memory_limits(base)
        run.judge_memory(sum(limits.values()))
        peak = stage.gateway.peak_bytes()
        if (status := await stage.gateway.stop(seconds=STOP_SECONDS)) != 0:
            run.find(f"the gateway ended with status {status}", "stop")
        run.judge_log(stage.gateway.log, stage.secrets)
        run.report(limits, peak)
    return run


async def _stop(watching: list[asyncio.Task[None]], run: Run) -> None:
    for task in watching:
        if task.done():
            run.find(f"stopped watching: {task.exception()!r}", "fuzz")
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


async def watch_memory(run: Run, stage: Stage) -> None:
    """Measure the gateway's memory every second, and print figures every minute."""
    while True:
        run.memory.append(stage.gateway.resident_bytes())
        if len(run.memory) % 60 == 0:
            print(run.figures(), flush=True)
        await asyncio.sleep(1.0)


async def watch_pings(run: Run, stage: Stage) -> None:
    """Read what the polite caller measures."""
    child = await stage.polite()
    assert child.process.stdout is not None
    while line := await child.process.stdout.readline():
        second = json.loads(line)
        run.asked = second["count"]
        for name, times in second["slowest"].items():
            run.note_ping(name, Ping(*times))


async def replay(sent: bytes, directory: Path, times: int, *, admin: bool) -> None:
    """Send the bytes of a finding to a fresh gateway and print what comes back."""
    async with Stage(directory, PLAIN) as stage:
        for _ in range(times):
            began = time.monotonic()
            connection = await Connection.open(stage.target.admin if admin else stage.target.api)
            await connection.send(sent)
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    response = await connection.response(head=sent.startswith(b"HEAD"))
                    print(response.status, response.fields, response.body[:500])
            except (BrokenOffError, NotHttpError, TimeoutError) as error:
                print(repr(error))
            print(f"{time.monotonic() - began:.3f} s, {stage.gateway.resident_bytes() / MB:.1f} MB", flush=True)
            connection.close()
        await stage.gateway.stop()
        print(stage.gateway.logged()[-5_000:])


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.texts", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0)
    add("--seed", type=int, default=1)
    add("--callers", type=int, default=16, help="attackers at the same time (default: %(default)s)")
    add("--directory", type=Path, help="for logs, the cache and findings; default: a temporary one")
    add("--replay", type=Path, metavar="FILE", help="send these bytes instead")
    add("--times", type=int, default=3, help="how often to send them")
    add("--admin", action="store_true", help="send them to the admin listener")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="gateway-fuzz-"))
    directory.mkdir(parents=True, exist_ok=True)
    if arguments.replay:
        sent = arguments.replay.read_bytes()
        asyncio.run(replay(sent, directory, arguments.times, admin=arguments.admin))
        return 0
    run = asyncio.run(fuzz(arguments.seconds, arguments.seed, directory, callers=arguments.callers))
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
