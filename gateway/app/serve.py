"""Running the gateway as a process: signals, reload, shutdown. Only the commands import it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final

from gateway.app.event_loop import loop_factory
from gateway.app.operations import RuntimeOperations, reload_and_log
from gateway.app.runtime import Runtime
from gateway.app.settings import load, refuse_obstacles
from gateway.app.systemd import Supervisor, inherited_sockets
from gateway.errors import StoreError
from gateway.telemetry import log

events = logging.getLogger("gateway.events")

SWITCH_SECONDS: Final = 0.000_1
"""How long a thread that computes may hold the interpreter while the event loop waits for it, which happens once for
each event of a socket. With Python's 5 ms, three such threads delayed one request in twenty by 60 ms. With 1 ms, one
such thread and 200 connections that sent at once stopped the loop for half a second. Shorter times gain little more."""

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Of <malloc.h>; see mallopt(3)."""

_RETURNED_BYTES: Final = 512 * 1024
"""Blocks of this size are given back when they are freed. It must be above the 256 KiB into which asyncio receives:
otherwise each request would cost a mapping of memory and the page faults to fill it, 20 µs of 30 for a hit."""

Work = Callable[[], Coroutine[object, object, object]]


def serve(source: Path, listen: Sequence[str] | None = None) -> int:
    """Run the gateway until SIGTERM or SIGINT; SIGHUP reloads. Returns the exit status.

    `listen`: the addresses for clients, instead of those in the file, also after a reload.
    """
    settings, inherited = load(source, listen), inherited_sockets(os.environ)
    refuse_obstacles(source, settings, inherited)
    log.set_up(settings.log.format)
    _return_freed_memory()
    try:
        supervisor = Supervisor(os.environ)
        with asyncio.Runner(loop_factory=loop_factory(settings.server.event_loop)) as runner:
            runtime = Runtime(
                settings,
                operations=lambda runtime: RuntimeOperations(runtime, source, listen),
                inherited=inherited,
                supervisor=supervisor,
            )
            runner.run(run(runtime))
    except (StoreError, OSError) as error:
        events.error("%s", error)
        return 1
    return 0


def _return_freed_memory() -> None:
    """Let glibc give large blocks back to the system as soon as they are free, and keep few pools of small ones.

    By default it raises the size from which on blocks are returned up to 32 MB, and has a pool for each thread: large
    bodies that are read and parsed in threads leave hundreds of megabytes behind that nothing uses.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and need none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _RETURNED_BYTES)
        mallopt(_M_ARENA_MAX, 2)


async def run(runtime: Runtime, work: Work | None = None) -> None:
    """Start, wait for a signal or for the end of `work`, which begins after the start, and stop.

    A second signal ends the stop soon. What `work` raises is raised here.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop(name: str) -> None:
        if stopping.is_set():
            events.warning("%s, the second signal to stop: open requests are cut off", name)
            runtime.hurry()
        else:
            events.info("%s has come", name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(reload_and_log(runtime.operations))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    stopped = asyncio.create_task(stopping.wait())
    starting = asyncio.create_task(runtime.start())
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            runtime.results.organisation.read_soon()
            runtime.results.identities.begin()
            _spare_the_collector()
            sys.setswitchinterval(SWITCH_SECONDS)
            await _work_until(stopped, work)
    finally:
        for task in (starting, stopped, *reloads):
            task.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
        await runtime.stop()


async def _work_until(stopped: asyncio.Task[bool], work: Work | None) -> None:
    """Wait for the signal, or for the end of the work; the signal cancels it."""
    if work is None:
        await stopped
        return
    working = asyncio.create_task(work())
    try:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _spare_the_collector() -> None:
    """Exclude all objects that exist after the start from garbage collection, and run it less often.

    Scanning all modules again and again took a tenth of a hit's time and found nothing: requests leave no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
